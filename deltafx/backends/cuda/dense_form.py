"""What all dense forms of nodes have in common."""

from __future__ import annotations

from collections.abc import Mapping


class DenseForm:
    """Runs one node of one plan densely: every pixel is computed into the same buffer, and no mask looked at."""

    @property
    def launches(self) -> int:
        """How many kernels it is, once it is prepared."""
        return 1

    def propose(self) -> None:
        """Before any form of a plan is prepared: what libraries may do for it is asked for."""

    def prepare(self) -> None:
        """Before a capture: libraries settle how they compute this, and memory is taken."""

    def follow(self, forms: Mapping[int, DenseForm]) -> None:
        """Before a capture, in the order in which forms run: those of the same part, by the leaf that each writes.

        What one of them is told here holds for the capture.
        """

    def __call__(self) -> None:
        raise NotImplementedError
