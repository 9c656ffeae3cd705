"""Where the rewritten graph runs. A backend gives every node its kernel."""

from __future__ import annotations

from deltafx.backends.reference import ReferenceKernel
from deltafx.errors import ConvertError, unknown_name

# Compiled backends are named here before they exist, so that asking for one gives a reason instead of a typo hint.
BACKENDS = ("reference", "cpu", "cuda")


def unavailable(name: str) -> str | None:
    """Why a backend cannot be used, or None."""
    if name == "reference":
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


def kernel_for(backend: str) -> ReferenceKernel:
    assert backend == "reference"
    return ReferenceKernel()
