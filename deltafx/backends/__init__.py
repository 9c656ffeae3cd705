"""Where the rewritten graph runs. A backend gives every node its kernel when the shapes are known."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from deltafx.backends.reference import ReferenceBackend
from deltafx.errors import ConvertError, unknown_name

if TYPE_CHECKING:
    from deltafx.plan import Plan
    from deltafx.settings import Settings
    from deltafx.state import NodeState

BACKENDS = ("reference", "cpu", "cuda")
LEAST_CAPABILITY = (8, 0)  # of a GPU


class Backend(Protocol):
    """What `lower` gives to the nodes."""

    name: ClassVar[str]
    alignment: ClassVar[int | None]  # of pixels in buffers, in bytes; None: these lie as the dense operators do it
    frame_alignment: ClassVar[int | None]  # of a frame's that only convolutions read, where they are no larger

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
    if name == "cpu":
        return None
    if not torch.cuda.is_available():
        return "no CUDA device is visible"
    old = [number for number in range(torch.cuda.device_count()) if not is_new_enough(torch.device("cuda", number))]
    if len(old) < torch.cuda.device_count():
        return None
    least = ".".join(map(str, LEAST_CAPABILITY))
    return f"the cuda kernels need a device of compute capability {least}; {torch.cuda.get_device_name(0)} is older"


def is_new_enough(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def choose_backend(name: str, devices: Collection[torch.device] = ()) -> str:
    """The backend that `convert(backend=name)` means for a model whose tensors are on these devices.

    "auto" is that of the device: CUDA's for a GPU that its kernels run on, else the CPU's, or the reference.
    """
    if name == "auto":
        gpus = [device for device in devices if device.type == "cuda"]
        if gpus and not unavailable("cuda") and all(map(is_new_enough, gpus)):
            return "cuda"
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
