"""Networks by what a person types: a name of the zoo, of torchvision or of timm, or an ONNX file."""

from __future__ import annotations

import contextlib
import inspect
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deltafx import models_zoo
from deltafx.detections import Detections
from deltafx.errors import ConvertError, unknown_name
from deltafx.preprocess import Preprocess
from deltafx.runtime import Weights
from deltafx.testing import scale_weights

RANDOM = "random weights, since none could be fetched ({}): times and MACs mean something, thresholds and errors little"
UNIT_NOTE = "frames are given to it as RGB in 0..1; --mean and --std say otherwise"
IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TAKES = {"optical_flow": "two pictures", "video": "clips"}  # families of torchvision
UNIT = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # 0..1


@dataclass(frozen=True)
class Network:
    """A dense network and what surrounds it; `note` says what a user should know."""

    name: str
    model: nn.Module
    preprocess: Preprocess
    postprocess: Callable[[Any], list[Any]] | None = None
    stride: int = 1  # frame sides are multiples of it
    size: tuple[int, int] | None = None  # height and width of the frames it was exported for, if it says so
    note: str | None = None

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The frame size nearest to this one that the network takes."""
        sides = [max(1, round(side / self.stride)) * self.stride for side in (height, width)]
        return sides[0], sides[1]

    def try_on(self, height: int, width: int) -> None:
        """Run the dense network on one grey picture; raises ValueError where it does not take such."""
        picture = torch.full((1, height, width, 3), 128, dtype=torch.uint8)
        dtype = Weights.of(self.model).dtype or torch.float32
        try:
            with torch.no_grad():
                self.model(*self.preprocess.arguments((picture,), dtype))
        except Exception as error:
            exported = f"; it was exported for {self.size[1]}x{self.size[0]}" if self.size else ""
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{self.name} cannot run on frames of {width}x{height}, of three colours{exported}. Give another "
                f"--size, or a network for such frames. It says: {said}"
            ) from error

    def meaning(self, outputs: Any) -> Any:
        """What its outputs say of the first stream: Detections, a class, or None where nothing is known of it."""
        return self.postprocess(outputs)[0] if self.postprocess else None


def load_network(name: str, statistics: Preprocess | None = None) -> Network:
    """The network of this name, in evaluation mode, with its published weights where they can be had.

    `name` is one of `deltafx.models_zoo.NAMES`, a name of torchvision, `timm:name`, a path that ends with `.onnx`, or
    `module.py:function`, a function without arguments that returns a model, or a Network. `statistics` replaces the
    network's own mean and deviation. Raises ValueError for an unknown name, ImportError where a package is missing,
    AssetError where the zoo's weights cannot be fetched.
    """
    if name in models_zoo.NAMES:
        entry = models_zoo.load(name)
        network = Network(name, entry.model, entry.preprocess, entry.postprocess, entry.stride)
    elif name.endswith(".onnx"):
        from deltafx.models_zoo.onnx_file import fixed_size, read_onnx

        network = Network(Path(name).name, read_onnx(name), UNIT, stride=32, size=fixed_size(name), note=UNIT_NOTE)
    elif ".py:" in name:
        network = of_file(name)
    elif name.startswith("timm:"):
        network = of_timm(name.removeprefix("timm:"))
    else:
        network = of_torchvision(name)
    if statistics is None:
        return network
    return replace(network, preprocess=statistics, note=None if network.note == UNIT_NOTE else network.note)


def of_torchvision(name: str) -> Network:
    from torchvision import models

    if name not in models.list_models():
        known = [*models_zoo.NAMES, *models.list_models(), "timm:NAME", "FILE.onnx"]
        raise ValueError(unknown_name("network", name, known))
    family = models.get_model_builder(name).__module__.split(".")[2]
    if family in TAKES:
        raise ValueError(f"{name} takes {TAKES[family]}, not a picture; in Python, deltafx.convert converts it.")
    backbone = "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters
    without = {"weights": None, "weights_backbone": None} if backbone else {"weights": None}
    model, note = pretrained(lambda given: models.get_model(name, **({"weights": "DEFAULT"} if given else without)))
    if family == "detection":
        return Network(name, Batched(model).eval(), UNIT, detections, note=note)  # it resizes and normalises by itself
    return Network(name, model, IMAGENET, stride=32, note=note)


def of_file(name: str) -> Network:
    """What the function `module.py:function` returns. The file runs as a script would, with its folder on the path."""
    path, _, function = name.rpartition(":")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    folder = str(Path(path).resolve().parent)
    sys.path.insert(0, folder)
    try:
        contents = runpy.run_path(path, run_name=Path(path).stem)
    finally:
        sys.path.remove(folder)
    build = contents.get(function)
    if not callable(build):
        known = [each for each, value in contents.items() if callable(value) and not each.startswith("_")]
        raise ValueError(unknown_name(f"function in {path}", function, known))
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        raise ValueError(f"{name} is called without arguments, and cannot be: {error}.") from None
    model = build()
    if isinstance(model, Network):
        return model
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} returned {type(model).__name__}; a torch.nn.Module or a Network is expected.")
    return Network(name, model.eval(), UNIT, note=UNIT_NOTE)


class Batched(nn.Module):
    """A detector of torchvision, which takes a list of pictures, called with a batch of them."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, pictures: Tensor) -> list[dict[str, Tensor]]:
        return self.detector(list(pictures.unbind()))


def detections(outputs: list[dict[str, Tensor]]) -> list[Detections]:
    """What a detector of torchvision sees in each picture."""
    return [Detections(each["boxes"], each["scores"], each["labels"]) for each in outputs]


def of_timm(name: str) -> Network:
    try:
        import timm
    except ImportError as error:
        raise ImportError("networks of timm need it: pip install timm") from error
    if not timm.is_model(name):
        raise ValueError(unknown_name("network of timm", name, timm.list_models()))
    model, note = pretrained(lambda weights: timm.create_model(name, pretrained=weights))
    settings: Any = model.pretrained_cfg
    return Network(f"timm:{name}", model, statistics_of(settings["mean"], settings["std"]), stride=32, note=note)


def statistics_of(mean: Sequence[float], std: Sequence[float]) -> Preprocess:
    return Preprocess(mean=tuple(mean), std=tuple(std))


def pretrained(build: Callable[[bool], nn.Module]) -> tuple[nn.Module, str | None]:
    """The network with its weights; where those cannot be fetched, with random ones that keep activations near 1."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub says what it downloads; that is no result
            return build(True).eval(), None
    except (OSError, RuntimeError, ValueError) as error:  # no network, no hub, no weights of that name
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(False).eval()
        with contextlib.suppress(ConvertError):  # it cannot be traced, which `convert` will say
            scale_weights(model, torch.randn(2, 3, 224, 224))
    return model, RANDOM.format(reason)
