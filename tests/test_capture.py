import collections
import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.models import mobilenet_v3_small, resnet18

import deltafx
from deltafx.capture import capture
from tests.passes.helpers import assert_same, asserts, frame, net


def paths(graph_module: fx.GraphModule) -> list[str]:
    return [node.meta["path"] for node in graph_module.graph.nodes if node.op.startswith("call")]


# -- what is refused --------------------------------------------------------------------------------------------------


def refusal(model) -> str:
    with pytest.raises(deltafx.ConvertError) as error:
        capture(model)
    return str(error.value)


class Block(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x


def test_untraceable_names_module_and_line():
    model = net(lambda self, x: self.stages(x), stages=nn.Sequential(nn.Conv2d(3, 3, 1), Block()))
    message = refusal(model)
    line = Block.forward.__code__.co_firstlineno + 1
    assert message.startswith(
        f"Net cannot be traced by torch.fx: module 'stages.1', {__file__}:{line}: if x.sum() > 0:\n"
    )
    assert "TraceError: symbolically traced variables cannot be used as inputs to control flow" in message
    assert message.endswith("Control flow that depends on a tensor, or loops over one, has no graph.")


def test_untraceable_root():
    assert f"torch.fx: the model's own forward, {__file__}:" in refusal(Block().eval())


def test_error_of_the_model_itself():
    def forward(self, x):
        return self.conv(x) + self.missing

    message = refusal(net(forward, conv=nn.Conv2d(3, 3, 1)))
    assert "the model's own forward" in message
    assert "AttributeError: 'Net' object has no attribute 'missing'" in message


def test_training_mode():
    assert refusal(nn.Sequential(nn.ReLU())) == (
        "the model is in training mode; call model.eval() before deltafx.convert."
    )


@pytest.mark.parametrize("module", [nn.BatchNorm2d(3), nn.Dropout2d(), nn.RReLU()], ids=lambda m: type(m).__name__)
def test_part_in_training_mode(module):
    model = nn.Sequential(nn.ReLU(), nn.Sequential(module, module)).eval()
    module.train()
    assert refusal(model).startswith("1.0 is in training mode; call model.eval()")


def test_more_parts_in_training_mode():
    model = resnet18().eval()
    model.layer1.train()
    assert refusal(model).startswith("layer1.0.bn1 and 3 more is in training mode")


def test_stochastic_depth_in_training_mode():
    model = nn.Sequential(type("DropPath", (nn.Identity,), {})()).eval()
    model[0].train()
    assert refusal(model).startswith("0 is in training mode")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_script_module():
    message = refusal(torch.jit.script(nn.Sequential(nn.ReLU()).eval()))
    assert message == "convert takes a Python module; a TorchScript module has no fx graph. Pass the original."


@pytest.mark.parametrize(("thing", "kind"), [(lambda x: x, "function"), (None, "NoneType"), (nn.ReLU, "type")])
def test_not_a_module(thing, kind):
    assert refusal(thing) == f"convert takes a torch.nn.Module; got {kind}."


def test_converted_model():
    converted = deltafx.convert(nn.Sequential(nn.ReLU()).eval())
    assert refusal(converted).startswith("the model cannot be converted again: it is a converted model.")
    model = nn.Sequential(nn.ReLU(), nn.Sequential(converted)).eval()
    assert "its submodule '1.0' is a converted model" in refusal(model)


def test_variable_arguments():
    message = refusal(net(lambda self, x, *rest: x * rest[0]))
    assert message.startswith("the model's forward reads *rest; a graph has a fixed number of arguments.")
    assert refusal(net(lambda self, x, **options: x * options["scale"])).startswith(
        "the model's forward reads **options"
    )


def test_unread_variable_arguments():
    model = net(lambda self, x, *rest, **options: x * 2)
    assert_same(deltafx.convert(model), model, frame())


def test_attribute_that_is_no_tensor():
    graph = fx.Graph()
    graph.output(graph.call_function(torch.mul, (graph.placeholder("x"), graph.get_attr("scale"))))
    root = nn.Module()
    root.scale = 2
    assert refusal(fx.GraphModule(root, graph).eval()) == "scale: the graph reads an attribute that is not a tensor."


@pytest.mark.parametrize(
    "write", [lambda self: self.count.add_(1), lambda self: setattr(self, "count", self.count + 1)], ids=["in", "anew"]
)
def test_buffer_that_changes(write):
    def forward(self, x):
        write(self)
        return x * self.count

    model = net(forward, count=torch.zeros(1))
    assert refusal(model).startswith("Net writes into its buffer 'count', which would change from frame to frame.")
    assert model.count.item() == 0


def test_random_numbers_at_tracing():
    state = torch.get_rng_state()
    assert refusal(net(lambda self, x: x + torch.rand(1))).startswith("Net draws random numbers whatever its input is")
    assert torch.equal(torch.get_rng_state(), state)


# -- what fx alone would refuse or get wrong --------------------------------------------------------------------------


def test_assertions_on_shapes_hold():
    assert_same(deltafx.convert(net(asserts)), net(asserts), frame())


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: x * 2 if x.shape[1] == 3 else x,
        lambda self, x: x * 2 if not x.is_cuda else x,
        lambda self, x: x * 2 if not (x > 0).any() else x,
        lambda self, x: x * max(x.shape[2], 3),
        lambda self, x: [x for _ in range(x.shape[1])],
        lambda self, x: x[: int(x.mean())],
    ],
)
def test_other_questions_are_control_flow(forward):
    assert "Control flow that depends on a tensor" in refusal(net(forward))


def test_augmented_assignment_is_a_write():
    """fx takes `y += 1` for `y = y + 1`; but another name of y sees it."""

    def forward(self, x):
        kept = y = x * 2
        y += 1
        return kept

    assert_same(capture(net(forward)), net(forward), frame())


def test_item_assignment_is_recorded():
    def forward(self, x):
        y = x * 2
        y[:, 0] = 1
        return y

    assert_same(capture(net(forward)), net(forward), frame())


# -- the caller's model -----------------------------------------------------------------------------------------------


def snapshot(model: nn.Module) -> dict:
    """Everything there is to see of a module: types, attributes, and the place, version and contents of its tensors."""
    result: dict = {}
    for path, module in model.named_modules():
        result[path] = type(module), module.training, sorted(vars(module)), sorted(module._modules)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                result[f"{path}.{name}"] = type(tensor), id(tensor), tensor.data_ptr(), tensor._version, tensor.dtype
                result[f"{path}.{name}="] = tensor.detach().clone().flatten().tolist()
    return result


class Keeps(nn.Module):
    """Sets attributes as it runs, and has constants that fx would store on it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)
        self.register_buffer("mean", torch.ones(3, 1, 1))

    def forward(self, x):
        self.features = self.relu(self.conv(x) - self.mean)
        return self.features * torch.arange(3).view(3, 1, 1)


@pytest.mark.parametrize("build", [Keeps, mobilenet_v3_small], ids=["small", "mobilenet"])
def test_model_is_left_alone(build):
    model = build().eval()
    before = snapshot(model)
    converted = deltafx.convert(model)
    converted(frame(1, 3, 33, 33))
    converted.half()
    assert {p.dtype for p in converted.parameters() if p.is_floating_point()} == {torch.float16}
    assert snapshot(model) == before
    del converted
    copy.deepcopy(model)


class Keeper(nn.Module):
    """Holds what cannot be copied, and functions that hold the module."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.lock = threading.Lock()
        self.step = lambda x: self.conv(x)
        self.seen, self.last = [], {}

    def forward(self, x):
        y = self.step(x)
        self.seen.append(y)
        self.last["y"] = y
        with self.lock:
            return y * 2


def test_attributes_of_the_model_are_left_alone():
    model = Keeper().eval()
    converted = deltafx.convert(model)
    assert model.seen == []
    assert model.last == {}
    assert_same(converted, model, frame())


def test_model_is_left_alone_when_it_cannot_be_traced():
    def forward(self, x):
        self.features = x
        return x * 2 if x.sum() > 0 else x

    model = net(forward)
    refusal(model)
    assert not hasattr(model, "features")


def test_in_inference_mode():
    model = Keeps().eval()
    with torch.inference_mode():
        converted = deltafx.convert(model)
        assert_same(converted, model, frame())
    assert_same(converted, model, frame())


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
        assert_same(deltafx.convert(model), model, frame())
    assert_same(deltafx.convert(model), model, frame())


def test_buffers_are_shared():
    """They are copies only while the model is traced."""
    model = net(lambda self, x: x * self.scale, scale=torch.rand(3, 1, 1))
    assert next(capture(model).parameters()).data_ptr() == model.scale.data_ptr()


def test_graph_module_is_left_alone():
    model = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval())
    before, graph = snapshot(model), str(model.graph)
    deltafx.convert(model).double()
    assert snapshot(model) == before
    assert str(model.graph) == graph


def test_weights_are_shared_until_they_are_moved():
    model = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    converted = deltafx.convert(model)
    assert model[0].weight.data_ptr() in {p.data_ptr() for p in converted.parameters()}


def test_leaf_inside_a_leaf():
    """A module that is called both whole and in part."""
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    model = net(lambda self, x: self.attention.out_proj(self.attention(x, x, x)[0]), attention=attention)
    before = snapshot(model)
    converted = deltafx.convert(model)
    assert snapshot(model) == before
    assert_same(converted, model, frame(2, 5, 4))


# -- graph modules ----------------------------------------------------------------------------------------------------


def scale(x: Tensor) -> Tensor:
    return x * (2 if x.sum() > 0 else 3)


def test_graph_module_is_not_traced_again():
    """It may call what cannot be traced."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(scale, (graph.call_module("block", (x,)),)))
    root = nn.Module()
    root.block = Block()
    model = fx.GraphModule(root, graph).eval()
    captured = capture(model)
    assert paths(captured) == ["block", "scale"]
    assert captured.block is model.block
    assert_same(deltafx.convert(model), model, frame())


class TakesDict(nn.Module):
    def forward(self, frames):
        return frames["left"] + frames["right"]


def test_graph_module_that_takes_its_arguments_apart():
    apart = fx.symbolic_trace(TakesDict().eval(), concrete_args={"frames": {"left": fx.PH, "right": fx.PH}})
    exported = torch.export.export(nn.Sequential(nn.ReLU()).eval(), (frame(),)).module()
    for model in (apart, exported):
        assert refusal(model).startswith("the GraphModule takes its arguments apart before its graph sees them")
    left, right = frame(), frame()
    assert torch.equal(deltafx.convert(TakesDict().eval())({"left": left, "right": right}), left + right)


def test_module_given_by_two_names():
    model = net(lambda self, x: self.b(self.a(x)), a=(conv := nn.Conv2d(3, 3, 1)), b=conv)
    assert paths(capture(model)) == ["a", "a#2"]
    assert_same(deltafx.convert(model), model, frame())


# -- names ------------------------------------------------------------------------------------------------------------


def test_functions_stand_in_the_scope_of_their_module():
    class Inner(nn.Module):
        def forward(self, x):
            y = F.relu(x) + 1
            y += x
            return y.sigmoid().relu_()

    model = net(lambda self, x: self.outer(x).flatten(1), outer=nn.Sequential(Inner()))
    assert paths(capture(model)) == [
        "outer.0.relu", "outer.0.add", "outer.0.add#2", "outer.0.sigmoid", "outer.0.relu#2", "flatten",
    ]  # fmt: skip


def test_calls_are_numbered():
    model = net(lambda self, x: self.head(self.act(self.head(self.act(x)))), act=nn.ReLU(), head=nn.Conv2d(3, 3, 1))
    assert paths(capture(model)) == ["act", "head", "act#2", "head#2"]


def test_modules_name_themselves_first():
    """A function, an input or an output may have the name of a module."""
    model = net(lambda self, x: self.x(self.relu(x.relu())), relu=nn.ReLU(), x=nn.Sigmoid())
    assert paths(capture(model)) == ["relu#2", "relu", "x"]
    assert_same(deltafx.convert(model), model, frame())


def test_names_that_collide_as_identifiers():
    class A(nn.Module):
        def __init__(self):
            super().__init__()
            self.b_c = nn.Conv2d(3, 3, 1)
            self.b = nn.Sequential(collections.OrderedDict(c=nn.Conv2d(3, 3, 1)))

        def forward(self, x):
            return self.b(self.b_c(x))

    model = net(lambda self, x: self.a(self.a_b(x)), a=A(), a_b=nn.Conv2d(3, 3, 1))
    assert paths(capture(model)) == ["a_b", "a.b_c", "a.b.c"]
    converted = deltafx.convert(model, frame())
    assert {"a_b", "a.b_c", "a.b.c"} <= {module.path for module in converted.modules() if hasattr(module, "path")}
    assert_same(converted, model, frame())


def test_names_that_look_like_numbered_calls():
    model = net(lambda self, x: [y := self.conv(x), getattr(self, "conv#2")(self.conv(y))][-1], conv=nn.Conv2d(3, 3, 1))
    model.add_module("conv#2", nn.Conv2d(3, 3, 1).eval())
    names = paths(capture(model))
    assert len(set(names)) == 3
    assert_same(deltafx.convert(model), model, frame())


@pytest.mark.parametrize(
    "name", ["add", "relu", "graph", "code", "runtime", "recompile", "plan", "path", "stages", "x", "output", "input"]
)
def test_any_name_of_a_module(name):
    part = nn.Sequential(collections.OrderedDict({name: nn.Conv2d(3, 3, 1)}))

    def forward(self, x):
        y = getattr(self, name)(x)
        return F.relu(y) + self.part(y)

    model = net(forward, part=part, **{name: nn.Conv2d(3, 3, 1)})
    converted = deltafx.convert(model, frame())
    assert_same(converted, model, frame())
    assert_same(converted, model, frame())


@pytest.mark.parametrize("name", ["type", "half", "forward", "training"])
def test_name_that_torch_takes_for_itself(name):
    """Such a module can only be reached through `_modules`."""
    model = net(lambda self, x: self._modules[name](x) + 1)
    model._modules[name] = nn.Conv2d(3, 3, 1).eval()
    converted = deltafx.convert(model)
    assert_same(converted, model, frame())
    converted.double()


def test_container_with_the_name_of_a_function():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(x)

    model = net(lambda self, x: self.relu(F.relu(self.add(x) + x)), add=Parts(), relu=Parts())
    assert paths(capture(model)) == ["add.conv", "add", "relu", "relu.conv"]
    assert_same(deltafx.convert(model, frame()), model, frame())


def test_constant_with_the_name_of_a_module():
    class Embedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Parameter(torch.randn(3, 1, 1))

        def forward(self, x):
            return x + self.embed

    for forward in (lambda self, x: self.pos(self.pos_embed(x)), lambda self, x: self.pos_embed(self.pos(x))):
        model = net(forward, pos=Embedding(), pos_embed=nn.Conv2d(3, 3, 1))
        assert_same(deltafx.convert(model), model, frame())


# -- modules of other libraries ---------------------------------------------------------------------------------------


def test_known_by_the_name_of_its_class():
    def forward(self, x):
        if x.shape[2] % 2:
            x = F.pad(x, (1, 1, 1, 1))
        return nn.Conv2d.forward(self, x)

    kind = type("Conv2dSame", (nn.Conv2d,), {"forward": forward, "__module__": "timm.layers.conv2d_same"})
    model = nn.Sequential(kind(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    converted = deltafx.convert(model, strict=True)
    assert_same(converted, model, frame(2, 3, 9, 11))
    kind.__module__ = "somewhere.else"
    assert "cannot be traced by torch.fx: module '0'" in refusal(model)


def test_timm():
    timm = pytest.importorskip("timm")
    layers = pytest.importorskip("timm.layers.pool2d_same")
    model = nn.Sequential(
        timm.layers.Conv2dSame(3, 4, 3, stride=2), nn.BatchNorm2d(4), layers.MaxPool2dSame(3, 2), nn.ReLU(),
        layers.AvgPool2dSame(2, 2),
    ).eval()  # fmt: skip
    converted = deltafx.convert(model, strict=True)
    for size in ((9, 11), (12, 10)):
        deltafx.reset(converted)
        assert_same(converted, model, frame(2, 3, *size))


# -- loops over parts of known number ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        lambda x: list(x.chunk(2, 1)),
        lambda x: [*torch.chunk(x, chunks=3, dim=1)],
        lambda x: [part * 2 for part in x.split([1, 3, 2], 1)],
        lambda x: [*torch.split(x, split_size_or_sections=(2, 4), dim=1)],
        lambda x: [*x.tensor_split(4, 1)],
        lambda x: [*torch.tensor_split(x, (1, 3), dim=1)],
    ],
)
def test_loops_over_parts(parts):
    model = net(lambda self, x: torch.cat(parts(self.conv(x))[::-1], 1), conv=nn.Conv2d(3, 6, 1))
    assert_same(deltafx.convert(model, strict=True), model, frame())


@pytest.mark.parametrize("parts", [lambda x: list(x.split(2, 1)), lambda x: list(x.chunk(x.shape[1], 1)), list])
def test_a_number_of_parts_that_depends_on_the_frame(parts):
    model = net(lambda self, x: torch.cat(parts(x), 1))
    assert "Proxy object cannot be iterated" in refusal(model)


def test_variable_arguments_that_are_handed_on_are_empty():
    class Inner(nn.Module):
        def forward(self, x, *rest, scale=2, **more):
            return x * (scale + len(rest) + len(more))

    model = net(lambda self, x, *args, **kwargs: self.inner(x, *args, **kwargs), inner=Inner().eval())
    assert_same(deltafx.convert(model), model, frame())
