"""Whether anybody looks at modules as they run: then each must be called, and none of them with others at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.modules import module as nn_module


def hooks_of(modules: Iterable[nn.Module]) -> list[Mapping]:
    """The hooks of their calls, now and later: while `any` of these is true, one of the modules is looked at."""
    return [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]


def has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def every_module_is_watched() -> bool:
    return bool(nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks)
