"""Where the rewritten graph runs. A backend gives every node its kernel when the shapes are known."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from deltafx.backends.reference import ReferenceBackend
from deltafx.errors import ConvertError, unknown_name

if TYPE_CHECKING:
    from deltafx.plan import Plan
    from deltafx.settings import Settings
    from deltafx.state import NodeState

# The CUDA backend is named here before it exists, so that asking for it gives a reason instead of a typo hint.
BACKENDS = ("reference", "cpu", "cuda")


class Backend(Protocol):
    """What `lower` gives to the nodes."""

    name: ClassVar[str]
    pixel_major: ClassVar[bool]  # buffers lie pixel by pixel, whatever the dense operators do

    def bind(self, node: Any, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        """The kernel of a node: an object with `name`, `note`, `exact`, and `run`, `run_input` or `run_output`.

        All buffers are there. `inputs` has a `Leaf` for each tensor that depends on the frame.
        """


def unavailable(name: str) -> str | None:
    """Why a backend cannot be used, or None."""
    if name == "reference" or (name == "cpu" and importlib.util.find_spec("deltafx._cpu")):
        return None
    return f"the {name} kernels are not part of this build"


def choose_backend(name: str) -> str:
    """The backend that `convert(backend=name)` means; "auto" is the first compiled one, or the reference."""
    if name == "auto":
        return next((b for b in ("cuda", "cpu") if unavailable(b) is None), "reference")
    if name not in BACKENDS:
        raise ConvertError(unknown_name("backend", name, ("auto", *BACKENDS)))
    reason = unavailable(name)
    if reason:
        raise ConvertError(f"backend={name!r}: {reason}. See deltafx.build_info(); use backend='reference' or 'auto'.")
    return name


def backend_for(settings: Settings) -> Backend:
    if settings.backend == "reference":
        return ReferenceBackend()
    cpu = importlib.import_module("deltafx.backends.cpu")  # which loads the compiled module
    return cpu.CpuBackend.choose(settings.options.isa, settings.options.dense_switch)
