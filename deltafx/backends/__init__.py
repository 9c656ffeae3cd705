"""Where the rewritten graph runs. A backend gives every node its kernel when the shapes are known."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from deltafx.backends.reference import ReferenceBackend
from deltafx.errors import ConvertError, unknown_name

if TYPE_CHECKING:
    from deltafx.plan import Plan
    from deltafx.settings import Settings
    from deltafx.state import NodeState

BACKENDS = ("reference", "cpu", "cuda")


class Backend(Protocol):
    """What `lower` gives to the nodes."""

    name: ClassVar[str]
    alignment: ClassVar[int | None]  # of pixels in buffers, in bytes; None: these lie as the dense operators do it

    def bind(self, node: Any, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        """The kernel of a node: an object with `name`, `note`, `exact`, and `run`, `run_input` or `run_output`.

        All buffers are there. `inputs` has a `Leaf` for each tensor that depends on the frame.
        """


def unavailable(name: str) -> str | None:
    """Why a backend cannot be used, or None."""
    if name == "reference":
        return None
    if not importlib.util.find_spec(f"deltafx._{name}"):
        return f"the {name} kernels are not part of this build"
    return "no CUDA device is visible" if name == "cuda" and not torch.cuda.is_available() else None


def choose_backend(name: str) -> str:
    """The backend that `convert(backend=name)` means; "auto" is the CPU's, or the reference."""
    if name == "auto":
        return "reference" if unavailable("cpu") else "cpu"
    if name not in BACKENDS:
        raise ConvertError(unknown_name("backend", name, ("auto", *BACKENDS)))
    reason = unavailable(name)
    if reason:
        raise ConvertError(f"backend={name!r}: {reason}. See deltafx.build_info(); use backend='reference' or 'auto'.")
    return name


def backend_for(settings: Settings) -> Backend:
    if settings.backend == "reference":
        return ReferenceBackend()
    if settings.backend == "cuda":
        return importlib.import_module("deltafx.backends.cuda").CudaBackend()
    cpu = importlib.import_module("deltafx.backends.cpu")  # which loads the compiled module
    return cpu.CpuBackend.choose(settings.options.isa, settings.options.dense_switch)


def frame_program(graph_module: Any, plan: Plan | None) -> Any:
    """What runs the frame that is about to run on a CPU, without Python between the nodes; or None."""
    if graph_module.runtime.settings.backend != "cpu":
        return None
    return compiled_frames().frame_program(graph_module, plan)


@functools.cache
def compiled_frames() -> Any:
    return importlib.import_module("deltafx.backends.cpu.program")  # which loads the compiled module
