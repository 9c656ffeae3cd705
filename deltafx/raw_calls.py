"""Calls with 8-bit frames of a model in parts: where it is one graph in such a call, that takes them as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from deltafx.call_form import KEPT_FORMS, CallForm
from deltafx.errors import ConvertError, NoGraph
from deltafx.graph_module import DeltaGraphModule

if TYPE_CHECKING:
    from deltafx.parts import DeltaParts


class RawCall(NamedTuple):
    """One that is a call of a graph, which normalises what changed."""

    graph: DeltaGraphModule
    form: CallForm
    tensors: list[Tensor]  # of which the first is the frames `[N, H, W, C]`


class RawCalls:
    """The graphs of a model for calls of some forms, with frames `[N, C, H, W]`; None where it is no graph."""

    def __init__(self, owner: DeltaParts):
        self.owner = owner
        self.graphs: dict[CallForm, DeltaGraphModule | None] = {}  # the most recently used last

    def of(self, args: tuple, kwargs: dict[str, Any]) -> RawCall | None:
        """What a call of the model is; None: all of its frames must be normalised, and its parts looked at."""
        if self.owner.has_hooks:
            return None  # they are given what the model is
        try:
            form, (frames, *others) = CallForm.of(args, kwargs)
        except NoGraph:
            return None
        if form not in self.graphs:
            self.graphs[form] = self.made(args, kwargs)
            while len(self.graphs) > KEPT_FORMS:
                del self.graphs[next(iter(self.graphs))]
        graph = self.graphs[form] = self.graphs.pop(form)
        return None if graph is None else RawCall(graph, form, [frames.permute(0, 2, 3, 1), *others])

    def made(self, args: tuple, kwargs: dict[str, Any]) -> DeltaGraphModule | None:
        owner, whole = self.owner, self.owner.watched[""]
        dense = owner.dense_arguments(args)
        owner.begin(dense, kwargs)
        form, tensors = CallForm.of(dense, kwargs)
        try:
            if whole.barred is not None:
                raise NoGraph(whole.barred)
            whole.check(tensors)
            return owner.make_graph(whole, form, tensors, owner.settings.preprocess)
        except NoGraph as reason:
            whole.refused[form] = str(reason)
        except ConvertError:
            pass  # it does not read its first input as an image
        return None

    def refuse(self, call: RawCall) -> None:
        """It was no graph after all."""
        self.graphs[call.form] = None
