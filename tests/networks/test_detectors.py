"""Detectors of torchvision: pictures in a list, resized and batched by the model itself."""

import pytest
import torch
from torchvision import models

import deltafx
from deltafx.measure import relative_error, tensors_of

MAPS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("backbone", "rpn.head"),
    "ssdlite320_mobilenet_v3_large": ("backbone", "head"),
}


def detector(name):
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, weights_backbone=None).eval()
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_var.fill_(0.1)  # random weights would let the picture fade
    return model


def maps_of(model, paths, frame):
    """What the modules at `paths` give for a frame, and whose boxes come out."""
    found = []
    root = getattr(model, "model", model)
    hooks = [
        root.get_submodule(path).register_forward_hook(
            lambda *args: found.extend(t.clone() for t in tensors_of(args[-1]))
        )
        for path in paths
    ]
    with torch.no_grad():
        boxes = model(frame)
    for hook in hooks:
        hook.remove()
    return found, boxes


@pytest.mark.parametrize("name", MAPS)
def test_pictures_are_streams_and_may_change_their_size(name):
    model = detector(name)
    dm = deltafx.convert(model)
    generator = torch.Generator().manual_seed(0)
    sizes = [[(96, 128), (96, 128)]] * 3 + [[(96, 128), (120, 100)]] * 2 + [[(96, 128), (96, 128)]]
    still = {size: torch.rand(3, *size, generator=generator) for pair in sizes for size in pair}
    for number, pair in enumerate(sizes):
        frame = [still[size].clone() for size in pair]
        frame[number % 2][:, 10 * number : 10 * number + 15, 20:40] += 0.3
        got, boxes = maps_of(dm, MAPS[name], frame)
        want, wanted = maps_of(model, MAPS[name], frame)
        assert relative_error(got, want) < 1e-5
        assert len(boxes) == len(wanted) == 2
        assert list(dm.parts) == list(MAPS[name])
        if number in (1, 2):
            assert deltafx.report(dm).totals["macs"] < 0.9 * deltafx.report(dm).totals["macs_dense"]


def test_one_stream_can_be_reset():
    name = "ssdlite320_mobilenet_v3_large"
    dm = deltafx.convert(detector(name))
    frame = [torch.rand(3, 96, 128) for _ in range(2)]
    dm(frame)
    deltafx.reset(dm, streams=[1])
    dm(frame)
    updated = deltafx.converted.input_mask(dm).float().flatten(1).mean(1)
    assert updated.tolist() == [0, 1]
