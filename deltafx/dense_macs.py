"""How many multiply-accumulates a dense model has, and in which of its modules."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deltafx.capture import stand_ins
from deltafx.flops import flop_counter
from deltafx.measure import tensors_of


@dataclass(frozen=True)
class DenseMacs:
    """Of one call: in all, and by module those that it has beside its submodules."""

    total: int
    own: dict[str, int]

    @classmethod
    def of(cls, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> DenseMacs:
        """Runs the model on copies of the arguments; what else that changes is undone."""
        args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
        devices = {tensor.device for tensor in tensors_of(args) if tensor.is_cuda}
        flops = flop_counter()
        with torch.random.fork_rng(devices), stand_ins(model), torch.no_grad(), flops:
            for module in model.modules():
                vars(module)["_forward_hooks"] = OrderedDict()  # it is no frame, and who listens is not told
            model(*args, **kwargs)
        root = type(model).__name__
        found = {
            name.removeprefix(root).removeprefix("."): sum(counts.values()) // 2
            for name, counts in flops.get_flop_counts().items()
            if name == root or name.startswith(f"{root}.")
        }
        own = dict(found)
        for path, macs in found.items():
            parent = path.rpartition(".")[0]
            while path and parent not in own:  # a container that is never called is not counted
                parent = parent.rpartition(".")[0]
            if path:
                own[parent] -= macs
        return cls(found.get("", 0), {path: macs for path, macs in own.items() if macs > 0})
