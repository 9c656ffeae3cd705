"""What a frame on a GPU is held against: the device's peaks, the work, the memory it must move, and its launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deltafx.converted import graphs_of
from deltafx.node import DeltaNode, SliceOf
from deltafx.state import COMPUTED

# By a part of the device's name: 10^12 operations a second (a multiplication and an addition are two) of dense tensor
# cores in half precision and in tf32, and GB/s; NVIDIA's data sheets of the SXM modules.
PEAKS = {"H100": (989.4, 494.7, 3350.0), "H200": (989.4, 494.7, 4800.0), "A100": (312.0, 156.0, 2039.0)}


def peaks(dtype: torch.dtype) -> tuple[float, float] | None:
    """TFLOP/s and GB/s of the current device, if they are known."""
    found = next((each for name, each in PEAKS.items() if name in torch.cuda.get_device_name()), None)
    return None if found is None else (found[1] if dtype == torch.float32 else found[0], found[2])


def least_bytes(dm: Any) -> float:
    """What the last frame must have read and written at least, if every value travelled once.

    Of each node: its weights, if it computed anything; for each computed pixel what it was compared with and what was
    written; and as large a share of its inputs as it computed of its output.
    """
    total = 0.0
    for graph in graphs_of(dm):
        for plan in graph.runtime.plans[:1]:
            for module in graph.modules():
                if not isinstance(module, DeltaNode) or module.path not in plan.nodes:
                    continue
                state = plan.nodes[module.path]
                leaves = [leaf for leaf in state.leaves if not leaf.aliased]
                shares = [found[0] for found in (leaf.shares(COMPUTED) for leaf in leaves) if found is not None]
                share = sum(shares) / len(shares) if shares else 0.0
                if not share:
                    continue
                out = sum(leaf.bytes for leaf in leaves)
                inputs = sum(shape.numel() for shape in state.operands) * leaves[0].dtype.itemsize
                weights = sum(w.numel() * w.element_size() for w in module.parameters())
                total += weights + share * (2 * out + inputs)
    return total


def output_bytes(dm: Any, plan: Any) -> int:
    """Of all nodes' results in the model's dtype, without what fills rows up; a concatenation's parts count once."""
    nodes = [module for module in dm.modules() if getattr(module, "path", None) in plan.nodes]
    whole = {node.path: node.storage.path for node in nodes if is_part(node)}  # by part, the concatenation
    total = 0
    for node in nodes:
        leaves = [] if node.path in whole else plan.nodes[node.path].leaves
        kept = [leaf for leaf in leaves if node.path in whole.values() or not leaf.aliased]
        total += sum(leaf.shape.numel() * leaf.dtype.itemsize for leaf in kept)
    return total


def is_part(node: Any) -> bool:
    """Whether its result stands in that of a concatenation."""
    return isinstance(node, DeltaNode) and isinstance(node.storage, SliceOf)


def launches(call: Callable[[], Any]) -> int | None:
    """Kernels of one call, those of its CUDA graph one by one; None where the profiler sees none."""
    call()
    return len([each for each in device_events(call) if not each.name.startswith(("Memcpy", "Memset"))]) or None


def device_events(call: Callable[[], Any]) -> list[Any]:
    """What the device did in a call, as the profiler sees it."""
    torch.cuda.synchronize()
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        call()
        torch.cuda.synchronize()
    return [each for each in profile.events() if each.device_type == torch.autograd.DeviceType.CUDA]


def tensors(nest: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Tensor)]
