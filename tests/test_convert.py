"""The driver around the passes."""

import inspect

import pytest
import torch
from torch import nn

import deltafx
import deltafx.convert
from deltafx import backends
from deltafx.backends import choose_backend
from deltafx.convert import devices_of
from deltafx.passes import PASSES
from tests.small import PAYLOADS, dense, frame, small, touched

compile_module = inspect.getmodule(deltafx.compile.compile_graph)


def test_the_public_names():
    assert set(deltafx.__all__) == {
        "Calibration", "Comparison", "ConvertError", "DeltaGraphModule", "DeltaParts", "Detections", "Estimate",
        "FrameError", "InputGate", "Preprocess", "Report", "Tuning", "Verification", "__version__", "absolute",
        "build_info", "calibrate", "compare", "convert", "draw", "estimate", "explore", "heatmap", "history", "html",
        "record", "report", "reset", "testing", "to_graphml", "to_networkx", "tune", "verify",
    }  # fmt: skip
    assert all(hasattr(deltafx, name) for name in deltafx.__all__)
    assert callable(deltafx.testing.force_masks)


def test_the_signature():
    parameters = inspect.signature(deltafx.convert).parameters
    assert {name: parameter.default for name, parameter in parameters.items() if name != "model"} == {
        "example_inputs": None, "mode": "exact", "threshold": None, "norm": None, "input_gate": None,
        "preprocess": None, "payload": "value", "backend": "auto", "keep_dense": (), "refresh_every": None,
        "refresh_within": None, "refresh_touched": None, "strict": False, "dump": None, "options": None,
    }  # fmt: skip
    positional = [p.name for p in parameters.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == ["model", "example_inputs"]


def test_both_errors_are_value_errors():
    assert issubclass(deltafx.ConvertError, ValueError)
    assert issubclass(deltafx.FrameError, ValueError)


# ---------------------------------------------------------------------------------------------------------------------
# dump


def test_dump_writes_the_graph_after_each_pass(tmp_path):
    folder = tmp_path / "deeper" / "graphs"
    deltafx.convert(small(), dump=folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["00_capture.txt", *(f"{n:02d}_{each.__name__}.txt" for n, each in enumerate(PASSES, start=1))]
    assert "dense_to_delta" not in (folder / names[0]).read_text()
    assert "dense_to_delta" in (folder / names[-1]).read_text()
    assert "def forward(self, x)" in (folder / names[-1]).read_text()


def test_without_dump_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deltafx.convert(small())
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# example_inputs


def wrong_pass(graph_module, context):
    """Changes a weight."""
    for parameter in graph_module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data * 1.5
            return 1
    return 0


def losing_pass(graph_module, context):
    """Drops an output."""
    (output,) = graph_module.graph.find_nodes(op="output")
    output.args = ((),)
    return 1


@pytest.fixture
def planted(monkeypatch):
    def plant(rewrite, position):
        passes = [*PASSES[:position], rewrite, *PASSES[position:]]
        monkeypatch.setattr(compile_module, "PASSES", tuple(passes))

    return plant


@pytest.mark.parametrize("position", [2, len(PASSES) // 2, len(PASSES)])
def test_examples_find_a_wrong_pass_and_name_it(position, planted):
    planted(wrong_pass, position)
    with pytest.raises(deltafx.ConvertError, match=r"pass wrong_pass changed the result: .* is off by \d\.\d\de"):
        deltafx.convert(small(), frame())


def test_examples_find_a_pass_that_loses_an_output(planted):
    planted(losing_pass, 1)
    with pytest.raises(deltafx.ConvertError, match="pass losing_pass changed the result"):
        deltafx.convert(small(), frame())


def test_a_pass_that_fails_leaves_the_model_alone(planted):
    planted(wrong_pass, len(PASSES))
    model = small()
    before = dense(model, frame())
    with pytest.raises(deltafx.ConvertError):
        deltafx.convert(model, frame())
    assert torch.equal(dense(model, frame()), before)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_examples_are_no_frame(payload):
    model = small()
    x = frame(3)
    dm = deltafx.convert(model, x, payload=payload)
    assert deltafx.report(dm).frames == 0
    assert torch.equal(x, frame(3))
    torch.testing.assert_close(dm(frame(streams=1, size=5)), dense(model, frame(streams=1, size=5)))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x, y):
        return self.conv(x) + self.conv(y)


@pytest.mark.parametrize("kind", [tuple, list])
def test_several_examples_come_as_a_tuple(kind):
    model = small(Two)
    dm = deltafx.convert(model, kind([frame(), frame(1)]))
    torch.testing.assert_close(dm(frame(), frame(1)), dense(model, frame(), frame(1)))


def test_examples_are_judged_by_the_rounding_of_their_dtype():
    block = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
    model = nn.Sequential(*block).eval()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        deltafx.convert(model.to(dtype), frame().to(dtype))


def test_examples_may_be_overwritten_by_the_model():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)).eval()
    x = frame()
    deltafx.convert(model, x)
    assert torch.equal(x, frame())


# ---------------------------------------------------------------------------------------------------------------------
# What is kept dense


def test_keep_dense_takes_paths_operators_and_one_name():
    for names in (["second"], "second", ["Conv2d"]):
        model = small()
        dm = deltafx.convert(model, keep_dense=names)
        assert dm.second.island.wanted
        for x in (frame(), touched(frame())):
            torch.testing.assert_close(dm(x), dense(model, x))


def test_converting_twice_gives_two_models_that_do_not_meet():
    model = small()
    one, two = deltafx.convert(model), deltafx.convert(model)
    one(frame())
    torch.testing.assert_close(two(frame(1)), dense(model, frame(1)))
    torch.testing.assert_close(one(touched(frame())), dense(model, touched(frame())))
    assert one.runtime is not two.runtime


@pytest.fixture
def gpu(monkeypatch):
    """As if the CUDA kernels were part of this build, and a GPU in this machine; gives its compute capability."""
    capability = [(9, 0)]
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old one")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    return capability


def test_auto_is_the_backend_of_the_device(gpu):
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert [choose_backend("auto", devices) for devices in ([], [cpu], [cuda], [cpu, cuda])] == [
        "cpu", "cpu", "cuda", "cuda",
    ]  # fmt: skip
    gpu[0] = (7, 5)
    assert choose_backend("auto", [cuda]) == "cpu"
    with pytest.raises(deltafx.ConvertError, match=r"capability 8\.0; an old one is older"):
        choose_backend("cuda")


def test_the_device_of_a_model_without_weights_is_that_of_the_examples():
    examples = (torch.zeros(1, device="meta"), {"a": torch.zeros(2, device="meta")})
    assert devices_of(torch.nn.ReLU(), examples) == {torch.device("meta")}
    assert devices_of(torch.nn.Linear(1, 1), examples) == {torch.device("cpu")}
    assert devices_of(torch.nn.ReLU(), None) == set()


@pytest.mark.cuda
def test_auto_is_cuda_for_a_model_on_a_gpu():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval().cuda()
    assert deltafx.report(deltafx.convert(model)).backend == "cuda"
    frame = torch.rand(1, 3, 8, 8, device="cuda")
    assert deltafx.report(deltafx.convert(torch.nn.ReLU().eval(), frame)).backend == "cuda"
