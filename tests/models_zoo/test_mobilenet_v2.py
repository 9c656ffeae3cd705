import numpy as np
import pytest
import torch
from torchvision.models import mobilenet_v2 as build

from deltafx.models_zoo import mobilenet_v2


def test_load_gives_the_fetched_weights_in_eval_mode(tmp_path, monkeypatch):
    source = build()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(mobilenet_v2, "fetch", lambda name: tmp_path / "weights.pth")
    model = mobilenet_v2.load()
    assert not model.training
    torch.testing.assert_close(dict(model.state_dict()), dict(source.state_dict()), rtol=0, atol=0)


def test_preprocess_normalises_and_puts_channels_first():
    frame = np.zeros((5, 7, 3), np.uint8)
    frame[2, 3] = (255, 0, 51)
    pixels = mobilenet_v2.preprocess(frame)
    assert pixels.shape == (1, 3, 5, 7)
    assert pixels.dtype == torch.float32
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225])
    torch.testing.assert_close(pixels[0, :, 2, 3], expected)


def test_preprocess_takes_a_flipped_view():
    frame = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    flipped = mobilenet_v2.preprocess(frame[:, ::-1])
    torch.testing.assert_close(flipped, mobilenet_v2.preprocess(frame).flip(-1))


@pytest.mark.parametrize(("shape", "dtype"), [((4, 4, 3), np.float32), ((4, 4), np.uint8), ((4, 4, 4), np.uint8)])
def test_preprocess_refuses_other_frames(shape, dtype):
    with pytest.raises(ValueError, match=r"expected a uint8 RGB frame \[H, W, 3\], met"):
        mobilenet_v2.preprocess(np.zeros(shape, dtype))
