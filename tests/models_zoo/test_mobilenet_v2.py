import numpy as np
import torch
from torchvision.models import mobilenet_v2 as build

from deltafx import models_zoo
from deltafx.models_zoo import mobilenet_v2


def test_load_gives_the_fetched_weights_in_eval_mode(tmp_path, monkeypatch):
    source = build()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(mobilenet_v2, "fetch", lambda name: tmp_path / "weights.pth")
    entry = models_zoo.load("mobilenet_v2")
    assert not entry.model.training
    assert "BSD-3-Clause" in entry.licence
    torch.testing.assert_close(dict(entry.model.state_dict()), dict(source.state_dict()), rtol=0, atol=0)
    with torch.no_grad():
        (found,) = entry.postprocess(entry.model(entry.preprocess(np.zeros((40, 50, 3), np.uint8))))
    assert 0 <= found < 1000


def test_preprocess_normalises_and_puts_channels_first():
    frame = np.zeros((5, 7, 3), np.uint8)
    frame[2, 3] = (255, 0, 51)
    pixels = mobilenet_v2.IMAGENET(frame)
    assert pixels.shape == (1, 3, 5, 7)
    assert pixels.dtype == torch.float32
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225])
    torch.testing.assert_close(pixels[0, :, 2, 3], expected)
