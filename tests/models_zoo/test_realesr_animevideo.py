import numpy as np
import pytest
import torch

from deltafx import models_zoo
from deltafx.models_zoo import realesr_animevideo
from deltafx.models_zoo.realesr_animevideo import HALF, Srvgg


def written(model, path, half=True):
    """The weights in ncnn's form."""
    data = b""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            values = module.weight.detach().numpy().astype(np.float16 if half else np.float32).tobytes()
            data += np.uint32(HALF if half else 0).tobytes() + values + b"\0" * (-len(values) % 4)
            data += module.bias.detach().numpy().tobytes()
        elif isinstance(module, torch.nn.PReLU):
            data += module.weight.detach().numpy().tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("half", [True, False])
def test_load_reads_ncnn_weights(tmp_path, monkeypatch, half):
    torch.manual_seed(0)
    source = Srvgg().eval()
    monkeypatch.setattr(realesr_animevideo, "fetch", lambda name: written(source, tmp_path / "weights.bin", half))
    entry = models_zoo.load("realesr_animevideo")
    assert not entry.model.training
    for name, value in source.state_dict().items():
        torch.testing.assert_close(entry.model.state_dict()[name], value, rtol=1e-3 if half else 0, atol=1e-4 * half)
    with torch.no_grad():
        large = entry.model(entry.preprocess(np.zeros((10, 14, 3), np.uint8)))
    assert large.shape == (1, 3, 20, 28)
    assert entry.postprocess(large) == [None]


def test_a_file_of_another_network_is_refused(tmp_path, monkeypatch):
    path = written(Srvgg(), tmp_path / "weights.bin")
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")
    monkeypatch.setattr(realesr_animevideo, "fetch", lambda name: path)
    with pytest.raises(ValueError, match="of which the network takes"):
        models_zoo.load("realesr_animevideo")
