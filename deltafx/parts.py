"""Models that no trace reaches through: their parts are delta graphs, and the rest runs as it is around them.

A detector decides by what it sees, and no graph can hold that. But its backbone and heads do not. So the model is
copied and, while a frame runs, every call of one of its modules is looked at: the first ones from the outside that can
be traced, for calls of this form, are delta graphs. Tensors that go from one to the next carry their update masks
along; see `deltafx.handover`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deltafx.call_form import KEPT_FORMS, CallForm, flattened
from deltafx.capture import capture_call
from deltafx.compile import compile_graph, refuse_unknown_names
from deltafx.dense_macs import DenseMacs
from deltafx.eager_times import EagerTimes
from deltafx.errors import ConvertError, FrameError, NoDeltaForm, NoGraph
from deltafx.graph_module import DeltaGraphModule
from deltafx.guards import FrameLock
from deltafx.node import refuse_export, take_over_weights
from deltafx.ops.base import borrow_module
from deltafx.passes import Context
from deltafx.preprocess import Preprocess
from deltafx.raw_calls import RawCall, RawCalls
from deltafx.runtime import Weights, autocasts, refuse_autocast, streams_of
from deltafx.settings import Settings
from deltafx.watched import has_hooks

MOST_FORMS = 16  # with tensors of the same sizes: then each call is another one, and compiling does not pay
NOT_STREAMS = "its rows are not the streams but what is found in the picture, such as proposals"
TRANSIENT = (
    "lock",
    "watched",
    "dtype",
    "levels",
    "raw_calls",
    "counts",
    "macs",
    "streams",
    "ran",
    "called",
    "taken",
    "times",
    "context",
    "checked",
    "forced_mask",
    "forces_gates",
    "silent",
)


def capture_by_parts(model: nn.Module, settings: Settings, reason: NoGraph, examples: tuple | None) -> DeltaParts:
    """What `convert` makes of a model that cannot be traced whole, for this reason; raises it if no part can be."""
    if not any(has_layers(child) for child in model.children()):
        raise reason
    dm = DeltaParts(model, settings, str(reason))
    if examples is not None:
        dm.verifies = True
        dm(*examples)
        dm.verifies = False
        dm.reset(None)
    return dm


def has_layers(module: nn.Module) -> bool:
    """Whether it multiplies by weights."""
    return any(parameter.dim() >= 2 for parameter in module.parameters())


class Part:
    """What runs in place of one module's forward: a delta graph for calls of this form, or that forward."""

    def __init__(self, owner: DeltaParts, path: str, module: nn.Module):
        self.owner, self.path, self.module = owner, path, module
        self.attributes = vars(module)
        self.own = self.attributes.get("forward")  # what stands before that of the class, if anything
        self.forward = module.forward
        self.graphs: dict[CallForm, DeltaGraphModule] = {}  # the most recently used last
        self.refused: dict[CallForm, str] = {}
        self.variants: Counter[tuple] = Counter()  # of forms, by the sizes of their tensors
        self.reason: str | None = None  # why the last call was not one of a graph

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self.barred is not None:
                raise NoGraph(self.barred)
            form, tensors = CallForm.of(args, kwargs)
            self.check(tensors)
            graph = self.graph_for(form, tensors)
            result = self.owner.run(self, graph, tensors)
        except NoDeltaForm as reason:  # seen only in a frame; whatever state it left is given up
            self.graphs.pop(form, None)
            self.reason = self.refused[form] = str(reason)
            return self.eagerly(args, kwargs)
        except NoGraph as reason:
            self.reason = str(reason)
            return self.eagerly(args, kwargs)
        self.reason = None
        return result

    def eagerly(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        times = self.owner.times
        with self.owner.intercepted_below(self):
            if times is None:
                return self.forward(*args, **kwargs)
            return times.run(self.path, self.module, self.forward, args, kwargs)

    @functools.cached_property
    def barred(self) -> str | None:
        """Why it is no graph, however it is called; asked when it is called first."""
        if self.owner.stays_dense(self.path):
            return "it is named in keep_dense"
        if self.own is not None:
            return "its forward was replaced"
        return None if has_layers(self.module) else "it has no layer that multiplies by weights"

    def check(self, tensors: list[Tensor]) -> None:
        """Whether a call with these tensors is worth a trace; raises NoGraph."""
        if not tensors:
            raise NoGraph("it is given no tensor")
        if streams_of(tensors) != self.owner.streams:
            raise NoGraph(NOT_STREAMS)
        if autocasts(tensors[0].device):
            raise NoGraph("autocast is on in it")

    def graph_for(self, form: CallForm, tensors: list[Tensor]) -> DeltaGraphModule:
        """The graph for calls of this form; raises NoGraph."""
        graph = self.graphs.get(form)
        if graph is not None:
            if len(self.graphs) > 1:
                self.graphs[form] = self.graphs.pop(form)
            return graph
        if form in self.refused:
            raise NoGraph(self.refused[form])
        sizes = tuple(tensor.shape for tensor in tensors)
        self.variants[sizes] += 1
        if self.variants[sizes] > MOST_FORMS:
            raise NoGraph("what it is given beside tensors differs from frame to frame")
        try:
            self.graphs[form] = self.owner.make_graph(self, form, tensors)
        except NoGraph as reason:
            self.refused[form] = str(reason)
            raise
        while len(self.graphs) > KEPT_FORMS:
            del self.graphs[next(iter(self.graphs))]
        return self.graphs[form]


def take_over(parts: list[Part]) -> None:
    for part in parts:
        part.attributes["forward"] = part


def let_go(parts: list[Part]) -> None:
    """The modules are themselves again."""
    for part in parts:
        if part.own is None:
            del part.attributes["forward"]
        else:
            part.attributes["forward"] = part.own


class Called(nn.Module):
    """A module that is called in one form, as a function of its tensors."""

    def __init__(self, module: nn.Module, form: CallForm):
        super().__init__()
        self.module, self.form = module, form

    def forward(self, *tensors: Tensor) -> Any:
        args, kwargs = self.form.fill(list(tensors))
        return self.module(*args, **kwargs)


class Ran(NamedTuple):
    """A call of a graph in the last frame."""

    path: str
    graph: DeltaGraphModule
    number: int  # among the calls of this graph


class Eager(NamedTuple):
    """A module that ran as it is."""

    path: str
    kind: str
    macs: int  # of its own operators, in a dense frame
    reason: str
    wanted: bool


class DeltaParts(nn.Module):
    """A converted model that is not one graph: call it as the model, once for each frame.

    `model` is a copy of the caller's, over the same weights. Delta graphs are made of its modules when frames of a
    size first come; `parts` has those of the last frame.
    """

    def __init__(self, model: nn.Module, settings: Settings, not_whole: str):
        super().__init__()
        self.model = borrow_module(model).requires_grad_(False)
        # Eager code may write into what a graph returned, which must therefore be its own.
        self.settings = replace(settings, options=replace(settings.options, copy_outputs=True))
        self.not_whole = not_whole  # why it is not one graph
        self.verifies = False  # every pass of what is compiled now
        self.scales: dict[str, tuple[dict, dict, dict]] = {}  # of the graphs' runtimes, by path
        self.eval()
        self.idle()

    def idle(self) -> None:
        """As it is before the first frame; no frame is running."""
        self.lock = FrameLock()
        self.forced_mask: Tensor | None = None
        self.forces_gates = True
        self.silent = False  # says nothing of noise
        self.start_over()

    def start_over(self) -> None:
        """Forget the graphs, which are made of the model's weights: the next frame is the first."""
        modules = [(path, m) for path, m in self.model.named_modules() if not isinstance(m, torch.jit.ScriptModule)]
        self.watched = {path: Part(self, path, module) for path, module in modules}
        self.dtype = Weights.of(self.model).dtype or torch.float32
        self.raw_calls = RawCalls(self)  # with `preprocess`
        self.levels: Tensor | None = None  # where the last frame was that was normalised as a whole
        self.counts: dict[tuple, DenseMacs] = {}  # by the sizes of the model's arguments
        self.macs: DenseMacs | None = None  # of a dense frame like the last one
        self.streams: int | None = None
        self.ran: list[Ran] = []  # in the last frame
        self.called: Counter[DeltaGraphModule] = Counter()  # in the last frame
        self.taken: list[Part] = []  # whose modules' calls are theirs
        self.times = EagerTimes() if self.settings.options.profile else None
        self.context = Context(self.settings)
        self.checked = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in TRANSIENT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.idle()

    def __copy__(self) -> DeltaParts:
        return copy.deepcopy(self)  # two modules with one state would be one sequence of frames

    # -- a frame ------------------------------------------------------------------------------------------------------

    @torch.compiler.disable(reason="a converted model keeps state from frame to frame")
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """One frame: what the model takes and gives."""
        refuse_export()
        with self.lock, torch.no_grad():
            starts = self.streams is None
            try:
                return self.frame(args, kwargs)
            except BaseException:
                if starts:
                    self.start_in_full(None)  # any number of streams may come next
                raise

    def frame(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        if self.settings.preprocess is not None:
            args = tuple(self.settings.preprocess.read(args))
            call = self.raw_calls.of(args, kwargs)
            if call is not None:
                try:
                    return self.run_whole(call, args, kwargs)
                except NoDeltaForm:  # seen only in a frame
                    self.raw_calls.refuse(call)
            args = self.dense_arguments(args)
        self.begin(args, kwargs)
        whole = self.watched[""]
        if self.has_hooks:
            with self.intercepted([whole]):
                result = self.model(*args, **kwargs)
        else:
            result = whole(*args, **kwargs)
        self.end()
        return result

    @property
    def has_hooks(self) -> bool:
        """Whether the user's hooks are to see what the model is given: then it must be called."""
        return has_hooks(self.model)

    def run_whole(self, call: RawCall, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A frame in which the model is one graph."""
        self.begin(args, kwargs)
        result = self.run(self.watched[""], call.graph, call.tensors)
        self.end()
        return result

    def dense_arguments(self, args: tuple) -> tuple:
        """As the model takes them, of a call with frames `[N, C, H, W]`.

        After the first, nothing is copied from the host, for which a device would have to wait.
        """
        preprocess, (frames, *others) = self.settings.preprocess, args
        assert preprocess is not None
        if self.levels is None or self.levels.device != frames.device:
            self.levels = preprocess.levels(self.dtype).to(frames.device)
        return (preprocess.values(frames, self.levels), *others)

    def begin(self, args: tuple, kwargs: dict[str, Any]) -> None:
        tensors = [leaf for leaf in flattened(args, kwargs)[0] if isinstance(leaf, Tensor)]
        if not tensors:
            raise FrameError("a frame is a torch.Tensor, or several; got none.")
        refuse_autocast({tensor.device for tensor in tensors})
        streams = pictures(args, kwargs) or streams_of(tensors)
        if self.streams is not None and streams != self.streams:
            raise FrameError(
                f"the frame has {streams} streams and the state has {self.streams}; each stream is one camera. Call "
                f"deltafx.reset(dm) to start over with another number."
            )
        sizes = tuple(tensor.shape for tensor in tensors)
        if sizes not in self.counts:
            self.counts[sizes] = DenseMacs.of(self.model, args, kwargs)
        macs = self.counts[sizes]
        if self.macs is not macs:  # to set what a module has takes long
            self.macs = macs
        if self.streams is None:
            self.streams = streams
        self.ran.clear()
        self.called.clear()
        if self.times is not None:
            self.times.begin()

    def end(self) -> None:
        """After the first frame it is known what there is, and what the user named that is not there."""
        if self.times is not None:
            self.times.end()
        if self.checked:
            return
        if not self.ran:
            raise ConvertError(f"{self.not_whole}\nNone of its parts became a delta graph either:\n{self.reasons()}")
        refuse_unknown_names(self.context)
        if self.settings.strict:
            refuse_eager(self.eager())
        self.checked = True

    @contextlib.contextmanager
    def intercepted(self, parts: list[Part]) -> Iterator[None]:
        """Meanwhile every call of their modules is one of these parts."""
        before = len(self.taken)
        self.taken += parts
        try:
            take_over(parts)
            yield
        finally:
            let_go(parts)
            del self.taken[before:]

    def intercepted_below(self, part: Part) -> contextlib.AbstractContextManager[None]:
        """All but the model itself, which is called first and most often is one graph; it may call itself."""
        if part.path:
            return contextlib.nullcontext()
        return self.intercepted([each for each in self.watched.values() if each not in self.taken])

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Within a frame: meanwhile the modules are themselves."""
        let_go(self.taken)
        try:
            yield
        finally:
            take_over(self.taken)

    def run(self, part: Part, graph: DeltaGraphModule, tensors: list[Tensor]) -> Any:
        """One call of a graph; each in a frame has a state of its own."""
        runtime, number = graph.runtime, self.called[graph]
        if runtime.call != number:  # to set what a module has takes long
            runtime.call, runtime.calls = number, max(runtime.calls, number + 1)
        result = graph(*tensors)
        self.called[graph] = number + 1
        self.ran.append(Ran(part.path, graph, number))
        return result

    def make_graph(
        self, part: Part, form: CallForm, tensors: list[Tensor], preprocess: Preprocess | None = None
    ) -> DeltaGraphModule:
        """The graph of a module for calls of this form; raises NoGraph. With `preprocess` it is given raw frames."""
        # Only the first graph of a frame sees the camera's pixels.
        gate = None if self.ran else self.settings.input_gate
        dump = self.settings.dump and f"{self.settings.dump}/{part.path}"
        settings = replace(self.settings, preprocess=preprocess, input_gate=gate, dump=dump)
        with self.released(), torch.inference_mode(False):
            graph_module = capture_call(part.module, part.path, form)
            context = replace(self.context, settings=settings)  # the sets of names are the same
            dense = Called(part.module, form) if self.verifies else None
            graph = compile_graph(graph_module, context, dense, tensors)
        runtime = graph.runtime
        runtime.scales, runtime.later_scales, runtime.of_gates = self.scales.setdefault(part.path, ({}, {}, {}))
        runtime.warned_of_noise = self.silent or bool(self.ran)
        runtime.forced_mask, runtime.forces_gates = self.forced_mask, self.forces_gates
        return graph

    def stays_dense(self, path: str) -> bool:
        names = {name for name in self.settings.keep_dense if path == name or path.startswith(f"{name}.")}
        self.context.used_names |= names
        return bool(names)

    # -- what the user asks for ---------------------------------------------------------------------------------------

    @property
    def parts(self) -> dict[str, DeltaGraphModule]:
        """The delta graphs that ran in the last frame, by the path of the module that they stand for."""
        return {ran.path: ran.graph for ran in self.ran}

    @property
    def graphs(self) -> list[DeltaGraphModule]:
        """All delta graphs."""
        whole = [graph for graph in self.raw_calls.graphs.values() if graph is not None]
        return whole + [graph for part in self.watched.values() for graph in part.graphs.values()]

    def eager(self) -> list[Eager]:
        """The modules outside the delta graphs that multiplied something in the last frame."""
        found = []
        for path, macs in self.macs.own.items() if self.macs else ():
            if not any(part == path or not part or path.startswith(f"{part}.") for part in self.parts):
                part = self.watched.get(path)
                reason = part.reason if part is not None and part.reason else "it is called by no name of its own"
                kind = type(self.model.get_submodule(path)).__name__
                found.append(Eager(path, kind, macs, reason, self.stays_dense(path)))
        return found

    def reasons(self) -> str:
        """Why each module that was called is not a graph."""
        called = [part for part in self.watched.values() if part.reason is not None and part.path]
        return "\n".join(f"  {part.path}: {part.reason}" for part in called) or "  none was called"

    def reset(self, streams: list[int] | None) -> None:
        with self.lock:
            self.start_in_full(streams)

    def start_in_full(self, streams: list[int] | None) -> None:
        """These streams, or all, of which there may be another number then."""
        if streams is None:
            self.streams = None
            if self.times is not None:
                self.times.forget()
        for graph in self.graphs:
            graph.runtime.reset(streams)

    def train(self, mode: bool = True) -> DeltaParts:
        if mode:
            raise FrameError("a converted model runs inference only; train the model it came from and convert again.")
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> DeltaParts:
        super()._apply(fn, recurse)
        self.start_over()  # moved, or converted to another dtype
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        take_over_weights(self.model)
        self.scales = {}
        self.start_over()
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"delta graphs: {', '.join(self.parts) or 'made when the first frame comes'}"


def pictures(args: tuple, kwargs: dict[str, Any]) -> int:
    """How many there are in the first list of pictures `[C, H, W]`, as detectors take them; 0 if there is none."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, (list, tuple)) and value and all(isinstance(x, Tensor) and x.dim() == 3 for x in value):
            return len(value)
    return 0


def refuse_eager(eager: list[Eager]) -> None:
    rows = "\n".join(f"  {each.path}: {each.kind} runs dense, {each.reason}" for each in eager if not each.wanted)
    if rows:
        raise ConvertError(
            f"strict=True and these modules are in no delta graph:\n{rows}\n"
            f"Name those you accept: keep_dense={[each.path for each in eager if not each.wanted]!r}."
        )
