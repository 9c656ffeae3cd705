"""A converted model as a module: printed, copied, saved, moved, compiled, hooked."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import deltafx
from tests.small import PAYLOADS, Small, dense, frame, input_rate, small, touched, was_full

# Compiled kernels round to bfloat16 once a node, the dense network after every operator.
ROUNDING = {torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}}


def by_pickle(dm):
    return pickle.loads(pickle.dumps(dm))


def by_torch_save(dm):
    buffer = io.BytesIO()
    torch.save(dm, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = (copy.copy, copy.deepcopy, by_pickle, by_torch_save)


# ---------------------------------------------------------------------------------------------------------------------
# An ordinary graph module


def test_the_graph_can_be_read_before_the_first_frame():
    dm = deltafx.convert(small())
    assert isinstance(dm, fx.GraphModule)
    text = str(dm.graph)
    assert "dense_to_delta" in text
    assert "delta_to_dense" in text
    assert "self.second(" in dm.code
    assert "self.second(" in dm.print_readable(print_output=False)


def test_the_graph_prints_as_a_table(capsys):
    pytest.importorskip("tabulate")
    deltafx.convert(small()).graph.print_tabular()
    assert "call_module" in capsys.readouterr().out


def test_nodes_are_named_by_module_path():
    dm = deltafx.convert(small())
    assert [node.target for node in dm.graph.find_nodes(op="call_module")] == [
        "dense_to_delta.x", "first", "second", "head", "delta_to_dense.head",
    ]  # fmt: skip
    assert all("path" in node.meta for node in dm.graph.nodes)


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(3, 3, 1)])
        self.runtime = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.runtime(self.parts[0](torch.sin(self.parts[0](x))))


def test_modules_may_have_any_name():
    model = small(Reused)
    dm = deltafx.convert(model)
    for x in (frame(), touched(frame())):
        torch.testing.assert_close(dm(x), dense(model, x))
    assert [node.path for node in deltafx.report(dm).nodes][1:] == ["parts.0", "parts.0#2", "runtime"]


# ---------------------------------------------------------------------------------------------------------------------
# Copies and files


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_copy_keeps_scales_and_starts_in_full(duplicate, payload):
    dm = deltafx.convert(small(), payload=payload, threshold=0.1)
    dm(frame())
    twin = duplicate(dm)
    assert twin.runtime.scales == dm.runtime.scales
    assert twin.runtime.scales
    assert deltafx.report(twin).frames == 0
    deltafx.reset(dm)
    assert torch.equal(twin(frame(1)), dm(frame(1)))
    assert was_full(twin)
    assert torch.equal(twin(touched(frame(1))), dm(touched(frame(1))))
    assert input_rate(twin) < 0.1


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_prints_the_same(duplicate):
    dm = deltafx.convert(small())
    twin = duplicate(dm)
    assert str(twin.graph) == str(dm.graph)
    assert twin.code == dm.code
    assert [node.meta for node in twin.graph.nodes] == [node.meta for node in dm.graph.nodes]
    assert str(deltafx.report(twin)) == str(deltafx.report(dm))


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_has_state_and_weights_of_its_own(duplicate):
    model = small()
    dm = deltafx.convert(model)
    dm(frame())
    twin = duplicate(dm)
    for parameter in twin.parameters():
        parameter.data.zero_()
    twin(frame(1))
    torch.testing.assert_close(dm(touched(frame())), dense(model, touched(frame())))
    assert input_rate(dm) < 0.1


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_keeps_what_the_user_attached(duplicate):
    dm = deltafx.convert(small())
    dm.classes = ["cat", "dog"]
    dm.meta["clip"] = "street"
    twin = duplicate(dm)
    assert (twin.classes, twin.meta) == (dm.classes, dm.meta)
    assert twin.classes is not dm.classes


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_of_a_copy_works(duplicate):
    model = small()
    twin = duplicate(duplicate(deltafx.convert(model)))
    torch.testing.assert_close(twin(frame()), dense(model, frame()))


def test_a_deep_network_can_be_copied_and_saved():
    model = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(400))).eval()
    dm = deltafx.convert(model)
    for duplicate in (copy.deepcopy, by_pickle):
        assert str(duplicate(dm).graph) == str(dm.graph)


class Spellings(nn.Module):
    """Functions of every origin: what is saved of them is their name."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 1, 1))
        self.act = nn.Hardswish(inplace=True)

    def forward(self, x):
        n, c, h, w = x.shape
        x = self.act(x * self.gain).clamp_(-2, 2).add(1)
        x[:, 0] = 0.5
        x = F.hardtanh(F.interpolate(x.cumprod(1), size=(h * 2, w * 2)))
        return {"all": x.reshape(n, c, -1), "part": torch.cat([x, x.masked_fill(x > 0, 0)], 1)}


def test_every_spelling_can_be_saved():
    model = Spellings().eval()
    twin = by_pickle(deltafx.convert(model))
    for x in (frame(), touched(frame())):
        torch.testing.assert_close(twin(x), dense(model, x))


def test_a_model_around_it_can_be_copied_and_saved():
    outer = nn.Sequential(nn.Identity(), deltafx.convert(small()), nn.Softmax(1)).eval()
    wanted = dense(small(), frame()).softmax(1)
    for duplicate in (copy.deepcopy, by_pickle):
        torch.testing.assert_close(duplicate(outer)(frame()), wanted)


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def other_weights(module):
    return {name: 2 * tensor for name, tensor in module.state_dict().items()}


def test_the_state_dict_holds_weights_only():
    model = small()
    dm = deltafx.convert(model)
    before = dm.state_dict()
    dm(frame())
    assert dm.state_dict().keys() == before.keys()
    assert sum(t.numel() for t in before.values()) == sum(t.numel() for t in model.state_dict().values())


def test_a_state_dict_round_trips():
    source, target = deltafx.convert(small()), deltafx.convert(small())
    for parameter in source.parameters():
        parameter.data = parameter.data * 2
    target(frame())
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(frame()), source(frame()))
    assert was_full(target)


@pytest.mark.parametrize("around", [False, True])
def test_loading_never_writes_to_the_callers_model(around):
    model = small()
    before = copy.deepcopy(model.state_dict())
    dm = deltafx.convert(model)
    module = nn.Sequential(dm) if around else dm
    old = module(frame())
    module.load_state_dict(other_weights(module))
    assert not torch.equal(module(frame()), old)
    assert was_full(dm)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_loaded_weights_are_copies():
    dm = deltafx.convert(small())
    weights = other_weights(dm)
    dm.load_state_dict(weights)
    old = dm(frame())
    for tensor in weights.values():
        tensor.zero_()
    deltafx.reset(dm)
    assert torch.equal(dm(frame()), old)


def test_loading_converts_to_the_dtype_of_the_model():
    dm = deltafx.convert(small())
    dm.load_state_dict({name: tensor.double() for name, tensor in dm.state_dict().items()})
    assert dm(frame()).dtype == torch.float32


def test_loading_with_assign_takes_the_dtype_that_is_loaded():
    dm = deltafx.convert(small())
    dm(frame())
    dm.load_state_dict({name: tensor.double() for name, tensor in dm.state_dict().items()}, assign=True)
    torch.testing.assert_close(dm(frame().double()), dense(small().double(), frame().double()))


def test_thresholds_are_measured_again_after_loading():
    dm = deltafx.convert(small(), threshold=0.1)
    dm(frame())
    before = dict(dm.runtime.scales)
    dm.load_state_dict(other_weights(dm))
    dm(frame())
    assert before.keys() == dm.runtime.scales.keys()
    assert all(dm.runtime.scales[path] > scale for path, scale in before.items())


def test_weights_that_do_not_fit_are_refused_and_the_next_frame_is_right():
    dm = deltafx.convert(small())
    dm(frame())
    wrong = other_weights(dm)
    last = list(wrong)[-1]
    wrong[last] = wrong[last].new_zeros(99)
    with pytest.raises(RuntimeError, match="size mismatch"):
        dm.load_state_dict(wrong)
    got = dm(frame())  # the other weights are loaded, as PyTorch does it
    deltafx.reset(dm)
    assert torch.equal(dm(frame()), got)


@pytest.mark.parametrize(
    ("move", "dtype"),
    [
        (lambda dm: dm.half(), torch.float16),
        (lambda dm: dm.bfloat16(), torch.bfloat16),
        (lambda dm: dm.double(), torch.float64),
        (lambda dm: dm.to(torch.float16), torch.float16),
        (lambda dm: dm.to("cpu"), torch.float32),
        (lambda dm: dm.to(memory_format=torch.channels_last), torch.float32),
        (lambda dm: nn.Sequential(dm).double(), torch.float64),
    ],
)
def test_conversion_starts_with_a_full_frame_and_leaves_the_model_alone(move, dtype):
    model = small()
    dm = deltafx.convert(model)
    dm(frame())
    move(dm)
    x = frame().to(dtype)
    torch.testing.assert_close(dm(x), dense(copy.deepcopy(model).to(dtype), x), **ROUNDING.get(dtype, {}))
    assert was_full(dm)
    assert dm(touched(x)).dtype == dtype
    assert input_rate(dm) < 0.1
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_conversion_of_a_part_starts_with_a_full_frame():
    dm = deltafx.convert(small())
    dm(frame())
    dm.get_submodule("second").float()
    dm(frame())
    assert was_full(dm)


def test_conversion_keeps_scales():
    dm = deltafx.convert(small(), threshold=0.1)
    dm(frame())
    before = dict(dm.runtime.scales)
    dm.double()(frame(1).double())
    assert dm.runtime.scales == before


def test_training_is_refused_and_evaluation_is_not():
    model = small()
    dm = deltafx.convert(model)
    dm(frame())
    with pytest.raises(deltafx.FrameError, match="runs inference only; train the model it came from"):
        dm.train()
    assert dm.eval() is dm
    assert dm.train(False) is dm
    assert not any(module.training for module in dm.modules())
    torch.testing.assert_close(dm(touched(frame())), dense(model, touched(frame())))
    assert input_rate(dm) < 0.1


# ---------------------------------------------------------------------------------------------------------------------
# torch.compile, export, tracing


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield lambda function, **options: torch.compile(function, backend="eager", **options)
    torch._dynamo.reset()


def test_compiled_code_around_it_breaks_at_it_and_runs_frames(compiler):
    model = small()
    dm = deltafx.convert(model)
    around = compiler(lambda x: dm(x * 2) + 1)
    for x in (frame(), touched(frame())):
        torch.testing.assert_close(around(x), dense(model, x * 2) + 1)
    assert input_rate(dm) < 0.1
    assert deltafx.report(dm).frames == 2


def test_it_may_be_compiled_itself_which_changes_nothing(compiler):
    model = small()
    for dm in (deltafx.convert(model), deltafx.convert(model)):
        compiled = compiler(dm)
        for x in (frame(), touched(frame())):
            torch.testing.assert_close(compiled(x), dense(model, x))
        assert input_rate(dm) < 0.1


def test_a_graph_without_breaks_is_refused_with_the_reason(compiler):
    dm = deltafx.convert(small())
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a converted model keeps state from frame to frame"):
        compiler(lambda x: dm(x), fullgraph=True)(frame())


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_export_is_refused_with_the_reason(around, strict):
    model = small()
    dm = deltafx.convert(model)
    dm(frame())
    module = nn.Sequential(dm) if around else dm
    with pytest.raises(Exception, match="a converted model keeps state from frame to frame"):
        torch.export.export(module, (frame(),), strict=strict)
    torch.testing.assert_close(dm(touched(frame())), dense(model, touched(frame())))
    assert input_rate(dm) < 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_jit_tracing_is_refused_with_the_reason():
    dm = deltafx.convert(small())
    with pytest.raises(deltafx.FrameError, match="keeps state from frame to frame and cannot be exported or traced"):
        torch.jit.trace(dm, (frame(),))
    dm(frame())


def test_symbolic_tracing_of_a_model_around_it_is_refused_with_the_reason():
    with pytest.raises(deltafx.FrameError, match="keeps state from frame to frame and cannot be exported or traced"):
        fx.symbolic_trace(nn.Sequential(deltafx.convert(small())))


# ---------------------------------------------------------------------------------------------------------------------
# Hooks


def test_a_hook_before_the_call_changes_the_frame():
    model = small()
    dm = deltafx.convert(model)
    dm.register_forward_pre_hook(lambda module, args: (args[0].float() / 255,))
    for image in (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.ones(2, 3, 6, 6, dtype=torch.uint8)):
        torch.testing.assert_close(dm(image), dense(model, image.float() / 255))


def test_a_hook_after_the_call_sees_dense_tensors_and_may_use_the_model():
    model = small()
    dm = deltafx.convert(model)
    seen = []

    def look(module, args, output):
        seen.append(output)
        deltafx.reset(module, streams=[1])
        return output + 1

    dm.register_forward_hook(look)
    torch.testing.assert_close(dm(frame()), dense(model, frame()) + 1)
    torch.testing.assert_close(seen[0], dense(model, frame()))
    dm(frame())
    assert input_rate(dm) == 0.5


def test_a_hook_that_raises_does_not_harm_the_next_frame():
    model = small()
    dm = deltafx.convert(model)
    dm(frame())

    def refuse(module, args, output):
        raise RuntimeError("not today")

    hook = dm.register_forward_hook(refuse)
    with pytest.raises(RuntimeError, match="not today"):
        dm(frame(1))
    hook.remove()
    torch.testing.assert_close(dm(touched(frame(1))), dense(model, touched(frame(1))))


def test_a_hook_on_a_node_sees_deltas():
    dm = deltafx.convert(small())
    masks = []
    dm.get_submodule("first").register_forward_hook(lambda module, args, output: masks.append(output.mask.clone()))
    dm(frame())
    dm(touched(frame()))
    full, sparse = (int(mask.sum()) for mask in masks)
    assert full == 128
    assert 0 < sparse <= 9


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_an_edited_graph_runs_as_edited(backend):
    model = small()
    dm = deltafx.convert(model, backend=backend)
    for _ in range(3):
        dm(frame())
    (output,) = dm.graph.find_nodes(op="output")
    with dm.graph.inserting_before(output):
        output.replace_input_with(output.args[0], dm.graph.call_function(torch.neg, (output.args[0],)))
    dm.recompile()
    for x in (frame(), touched(frame()), frame()):
        torch.testing.assert_close(dm(x), -dense(model, x))


def test_it_stands_in_for_a_part_of_a_model():
    model = small()
    outer = nn.Sequential(deltafx.convert(model), nn.Softmax(1)).eval()
    for x in (frame(), touched(frame())):
        torch.testing.assert_close(outer(x), dense(model, x).softmax(1))
    assert isinstance(outer[0], deltafx.DeltaGraphModule)
    assert not isinstance(outer[0], Small)
