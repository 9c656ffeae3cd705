"""The networks of `deltafx coverage`: which there are, how each is built, and what it is shown."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from deltafx import models_zoo
from deltafx.errors import unknown_name
from deltafx.testing import scale_weights

DETECTION, FLOW, QUANTIZED = "detection", "optical flow", "quantized"
CLASSIFICATION = "2-D classification"
FAMILIES = (
    CLASSIFICATION, "segmentation", DETECTION, "video", "transformers", QUANTIZED, FLOW, "timm", "effdet", "zoo",
)  # fmt: skip

# Most take any size; not square, so that a height taken for a width shows.
SHAPE = (1, 3, 96, 128)
FAMILY_SHAPES = {
    DETECTION: (3, 128, 160), "segmentation": (1, 3, 64, 96), "video": (1, 3, 8, 56, 64), FLOW: (1, 3, 128, 136),
    "effdet": (1, 3, 128, 128),
}  # fmt: skip
SHAPES = {
    "vit_*": (1, 3, 224, 224), "swin_*": (1, 3, 224, 224), "maxvit_*": (1, 3, 224, 224),
    "mvit_*": (1, 3, 16, 224, 224), "s3d": (1, 3, 16, 224, 224), "swin3d_*": (1, 3, 8, 96, 128),
    "efficientformer_*": (1, 3, 224, 224),
}  # fmt: skip

# What a constructor of torchvision needs beside `weights=None`. Initialisation takes seconds in some, for nothing.
DETECTOR = {"weights_backbone": None, "min_size": 128, "max_size": 160}  # as small as its frames
TWO_STAGES = {**DETECTOR, "rpn_post_nms_top_n_test": 50}
FIXED_SIZE_DETECTOR = {"weights_backbone": None}
OPTIONS: dict[str, dict[str, Any]] = {
    "*googlenet": {"init_weights": False}, "*inception_v3": {"init_weights": False},
    "fcn_*": {"weights_backbone": None, "aux_loss": True},
    "deeplabv3_*": {"weights_backbone": None, "aux_loss": True}, "lraspp_*": {"weights_backbone": None},
    "*rcnn_*": TWO_STAGES, "fcos_*": DETECTOR, "retinanet_*": DETECTOR, "ssd*": FIXED_SIZE_DETECTOR,
}  # fmt: skip

TIMM = (
    "hrnet_w32", "tf_efficientnet_lite0", "efficientnet_b0", "mobilenetv3_large_100", "mobilenetv4_conv_small",
    "cspdarknet53", "repvgg_a0", "ghostnet_100", "convnextv2_nano", "res2net50_26w_4s", "dla34", "xception41",
    "seresnext50_32x4d", "tresnet_m", "eca_nfnet_l0", "nf_resnet50", "ese_vovnet39b", "hardcorenas_a",
    "efficientformer_l1", "edgenext_small", "vit_small_patch16_224", "swin_tiny_patch4_window7_224",
    "resnet50:features", "efficientnet_b0:features",
)  # fmt: skip
EFFDET = ("tf_efficientdet_d0", "tf_efficientdet_d1")


@dataclass(frozen=True)
class Case:
    """One network: `key` is its name in its `source`, `form` says which of several it is.

    timm's `features` gives maps instead of classes; torchvision's `float` is a network made for quantization that is
    not quantized. `shape` is that of an input; a detector takes a list of one image.
    """

    source: str
    key: str
    family: str
    form: str = ""

    @property
    def name(self) -> str:
        prefix = "" if self.source == "torchvision" else f"{self.source}:"
        return f"{prefix}{self.key}{self.form and ':' + self.form}"

    @property
    def shape(self) -> tuple[int, ...]:
        by_name = next((shape for pattern, shape in SHAPES.items() if fnmatch.fnmatchcase(self.key, pattern)), None)
        return by_name or FAMILY_SHAPES.get(self.family, SHAPE)


def all_cases() -> list[Case]:
    """Every network of torchvision, and those listed here. Raises ImportError without torchvision."""
    from torchvision import models

    parts = {
        "segmentation": models.segmentation, DETECTION: models.detection, "video": models.video,
        QUANTIZED: models.quantization, FLOW: models.optical_flow,
    }  # fmt: skip
    family_of = {name: family for family, module in parts.items() for name in models.list_models(module)}
    cases = [Case("torchvision", name, family_of.get(name) or classifier(name)) for name in models.list_models()]
    cases += [replace(case, form="float") for case in cases if case.family == QUANTIZED]
    for source, names in (("timm", TIMM), ("effdet", EFFDET), ("zoo", models_zoo.NAMES)):
        cases += [Case(source, name.partition(":")[0], source, name.partition(":")[2]) for name in names]
    return sorted(cases, key=lambda case: FAMILIES.index(case.family))


def classifier(name: str) -> str:
    return "transformers" if name.startswith(("vit_", "swin_", "maxvit_")) else CLASSIFICATION


def chosen(cases: Iterable[Case], wanted: Iterable[str]) -> list[Case]:
    """Those whose name or family one of `wanted` matches, as a pattern with * and ?, or as a part of the name.

    Raises ValueError for one that matches none.
    """
    cases, found = list(cases), set()
    for pattern in wanted:
        hits = {case for case in cases if fits(case, pattern)}
        if not hits:
            raise ValueError(unknown_name("network", pattern, [*FAMILIES, *(case.name for case in cases)]))
        found |= hits
    return [case for case in cases if case in found]


def fits(case: Case, pattern: str) -> bool:
    if any(sign in pattern for sign in "*?["):
        return fnmatch.fnmatchcase(case.name, pattern)
    return pattern in case.name or pattern == case.family


# ---------------------------------------------------------------------------------------------------------------------
# Building


def build(case: Case) -> nn.Module:
    """The network in evaluation mode: of the zoo with its weights, else with random ones, scaled where that works.

    Raises ImportError for a package that is missing, AssetError where the zoo's weights cannot be fetched.
    """
    if case.source == "zoo":
        return models_zoo.load(case.key).model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BUILDERS[case.source](case).eval()
        revive(model)
        scale(model, case)
        if case.family == QUANTIZED and case.form != "float":
            from torchvision.models.quantization.utils import quantize_model

            quantize_model(model, "fbgemm")  # as torchvision does it, but after the weights were scaled
            model.eval()  # it makes new modules
    return model


def of_torchvision(case: Case) -> nn.Module:
    from torchvision import models

    options = next((options for pattern, options in OPTIONS.items() if fnmatch.fnmatchcase(case.key, pattern)), {})
    return models.get_model(case.key, weights=None, **options)


def of_timm(case: Case) -> nn.Module:
    timm = needed("timm")
    return timm.create_model(case.key, pretrained=False, **({"features_only": True} if case.form == "features" else {}))


def of_effdet(case: Case) -> nn.Module:
    return needed("effdet").create_model(
        case.key, pretrained=False, pretrained_backbone=False, image_size=case.shape[-2:]
    )


def needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{package} cannot be imported ({error}): pip install 'deltafx[zoo]'") from error


BUILDERS: dict[str, Callable[[Case], nn.Module]] = {
    "torchvision": of_torchvision, "timm": of_timm, "effdet": of_effdet,
}  # fmt: skip


def revive(model: nn.Module) -> None:
    """Fill weights that are zero before training: behind them nothing of what was computed would be seen."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if name != "bias" and not weight.any():
                nn.init.normal_(weight, std=0.1) if weight.dim() > 1 else nn.init.constant_(weight, 0.3)


def scale(model: nn.Module, case: Case) -> None:
    """Bring activations near 1, so that rounding is not amplified; what cannot be traced stays as it was made."""
    with contextlib.suppress(Exception):
        if case.family == DETECTION:
            scale_weights(model.get_submodule("backbone"), torch.randn(2, 3, 320, 320))
        else:
            scale_weights(model, *(torch.randn(2, *case.shape[1:]) for _ in range(inputs_of(case))))


# ---------------------------------------------------------------------------------------------------------------------
# What it is shown


def inputs_of(case: Case) -> int:
    return 2 if case.family == FLOW else 1


SHOWN = (0, 1, 1, 2)  # the frames, by place in `pictures_of`: the third is the second again


def pictures_of(case: Case) -> list[tuple[Any, ...]]:
    """The arguments of three frames: noise, with a disc of other noise, with another disc too."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand if case.family in (DETECTION, "zoo") else torch.randn  # those take pictures in 0..1

    def noise() -> list[Tensor]:
        return [draw(case.shape, generator=generator) for _ in range(inputs_of(case))]

    pictures = [noise()]
    for place in ((0.3, 0.4), (0.65, 0.7)):
        inside = disc(case.shape, *place)
        pictures.append([torch.where(inside, new, old) for new, old in zip(noise(), pictures[-1], strict=True)])
    return [arguments(case, tensors) for tensors in pictures]


def arguments(case: Case, tensors: list[Tensor]) -> tuple[Any, ...]:
    if case.family == DETECTION:
        return (tensors,)
    if case.source == "zoo":
        preprocess = models_zoo.load(case.key).preprocess
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (preprocess.mean, preprocess.std))
        return tuple((each - mean) / std for each in tensors)
    return tuple(tensors)


def disc(shape: tuple[int, ...], y: float, x: float) -> Tensor:
    """True on a disc in a frame `[..., height, width]` of sides 1; its radius is an eighth of the shorter side."""
    height, width = shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (rows - y * height) ** 2 + (columns - x * width) ** 2 <= (min(height, width) / 8) ** 2
