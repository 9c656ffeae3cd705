"""Every wrong argument and every wrong frame gets one clear error, which harms nothing."""

import copy

import pytest
import torch
from torch import fx, nn

import deltafx
from tests.small import PAYLOADS, Small, dense, frame, input_rate, small, touched, untouched


@pytest.fixture
def model():
    return small()


@pytest.fixture(params=PAYLOADS)
def dm(request, model):
    dm = deltafx.convert(model, payload=request.param)
    dm(frame())
    return dm


# ---------------------------------------------------------------------------------------------------------------------
# Frames


FRAMES = {
    "another dtype": (
        lambda x: x.double(),
        r"the frame is torch.float64 and the weights are torch.float32; convert one of them, for example "
        r"frame.to\(torch.float32\)",
    ),
    "an integer dtype": (
        lambda x: x.to(torch.uint8),
        r"the frame is torch.uint8, the weights are torch.float32, and the model does not convert it: .*"
        r"frame.to\(torch.float32\) / 255",
    ),
    "another device": (
        lambda x: x.to("meta"),
        r"the frame is on meta and the weights are on cpu; move one of them, for example frame.to\('cpu'\)",
    ),
    "another number of streams": (
        lambda x: x[:1],
        r"the frame has 1 streams \(its batch dimension\) and the state has 2; .* Call deltafx.reset\(dm\)",
    ),
    "no batch dimension": (
        lambda x: x[0],
        r"input 'x' has shape \(3, 8, 8\); the model reads 4 dimensions, .* Add the batch dimension: frame.unsqueeze",
    ),
    "too many dimensions": (
        lambda x: x[None],
        r"input 'x' has shape \(1, 2, 3, 8, 8\); the model reads 4 dimensions, the first of which is the streams\.$",
    ),
    "no pixels": (lambda x: x[..., :0], r"a frame of shape \(2, 3, 8, 0\) has no pixels; skip it"),
    "no streams": (lambda x: x[:0], r"a frame of shape \(0, 3, 8, 8\) has no pixels; skip it"),
    "no tensor": (lambda x: x.numpy(), r"a frame is a torch.Tensor \(or several\); got ndarray"),
    "a path": (lambda x: "street.mp4", r"a frame is a torch.Tensor \(or several\); got str"),
    "nothing": (lambda x: None, r"a frame is a torch.Tensor \(or several\); got NoneType"),
    "an empty list": (lambda x: [], r"a frame is a torch.Tensor \(or several\); got nothing"),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_wrong_frame_is_refused_and_harms_nothing(kind, dm, model):
    make, message = FRAMES[kind]
    with untouched(dm, model, frame()), pytest.raises(deltafx.FrameError, match=message):
        dm(make(frame()))


@pytest.mark.parametrize("kind", [kind for kind in FRAMES if kind != "another number of streams"])
def test_a_wrong_first_frame_is_refused_and_the_next_one_is_right(kind, model):
    make, message = FRAMES[kind]
    dm = deltafx.convert(model)
    with pytest.raises(deltafx.FrameError, match=message):
        dm(make(frame()))
    torch.testing.assert_close(dm(frame(streams=3)), dense(model, frame(streams=3)))


CALLS = {
    "unknown name": (lambda dm, x: dm(x, y=1), "has no argument 'y'; its arguments are x"),
    "missing": (lambda dm, x: dm(), "needs a value for argument 'x'"),
    "twice": (lambda dm, x: dm(x, x=x), "got two values for argument 'x'"),
    "too many": (lambda dm, x: dm(x, x), r"takes 1 arguments \(x\); got 2"),
}


@pytest.mark.parametrize("kind", CALLS)
def test_a_wrong_call_is_refused_and_harms_nothing(kind, dm, model):
    call, message = CALLS[kind]
    with untouched(dm, model, frame()), pytest.raises(deltafx.FrameError, match=message):
        call(dm, frame())


def test_autocast_is_refused_and_harms_nothing(dm, model):
    refused = pytest.raises(deltafx.FrameError, match=r"autocast is on; a remembered value has one dtype\.")
    with untouched(dm, model, frame()), refused, torch.autocast("cpu", dtype=torch.bfloat16):
        dm(frame())


def test_a_shape_that_the_model_cannot_read_is_pytorchs_error_and_harms_nothing(dm, model):
    with untouched(dm, model, frame()), pytest.raises(RuntimeError, match="to have 3 channels, but got 5") as error:
        dm(torch.zeros(2, 5, 8, 8))
    assert "While executing" not in str(error.value)


def test_the_rank_is_known_of_what_stands_before_the_layers():
    model = nn.Sequential(nn.ReLU(), nn.Conv1d(3, 2, 3)).eval()
    with pytest.raises(deltafx.FrameError, match=r"reads 3 dimensions, .*unsqueeze\(0\)"):
        deltafx.convert(model)(torch.zeros(3, 9))


def test_an_integer_frame_is_right_for_a_model_that_converts_it():
    class Images(Small):
        def forward(self, x):
            return super().forward(x.float() / 255)

    model = small(Images)
    image = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(deltafx.convert(model)(image), dense(model, image))


def test_what_is_no_converted_model_is_refused(model):
    for call in (
        lambda: deltafx.reset(model),
        lambda: deltafx.report(model),
        lambda: deltafx.compare(model, model, []),
        lambda: deltafx.verify(model, model, []),
    ):
        with pytest.raises(TypeError, match=r"takes what deltafx\.convert returned; got Small"):
            call()


# ---------------------------------------------------------------------------------------------------------------------
# The model


def test_a_model_in_training_mode_is_refused(model):
    with pytest.raises(deltafx.ConvertError, match=r"the model.* is in training mode; call model.eval\(\) before"):
        deltafx.convert(model.train())


def test_a_layer_in_training_mode_is_refused_by_name():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    model[1].train()
    with pytest.raises(deltafx.ConvertError, match=r"^1 is in training mode; call model.eval\(\)"):
        deltafx.convert(model)


def test_a_converted_model_is_refused(model):
    dm = deltafx.convert(model)
    with pytest.raises(deltafx.ConvertError, match=r"cannot be converted again: it is a converted model\."):
        deltafx.convert(dm)
    with pytest.raises(deltafx.ConvertError, match=r"its submodule '0' is a converted model"):
        deltafx.convert(nn.Sequential(dm).eval())
    with pytest.raises(deltafx.ConvertError, match="it is a converted model"):
        deltafx.convert(copy.deepcopy(dm))


@pytest.mark.parametrize("thing", [None, nn.functional.relu, "resnet18", nn.Conv2d])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(deltafx.ConvertError, match=r"convert takes a torch.nn.Module; got "):
        deltafx.convert(thing)


# ---------------------------------------------------------------------------------------------------------------------
# The arguments of convert


ARGUMENTS = [
    ({"mode": "exakt"}, r"unknown mode 'exakt'\. Did you mean 'exact'\? Known: balanced, exact, fast\."),
    ({"mode": ["exact"]}, r"unknown mode \['exact'\]"),
    ({"norm": "l2"}, r"unknown norm 'l2'\. Known: max, rms\."),
    ({"payload": "values"}, r"unknown payload 'values'\. Did you mean 'value'\? Known: difference, value\."),
    ({"backend": "cudo"}, r"unknown backend 'cudo'\. Did you mean 'cuda'\? Known: auto, cpu, cuda, reference\."),
    (
        {"options": {"chek": True}},
        r"unknown option 'chek'\. Did you mean 'check'\? Known: check, copy_outputs, ",
    ),
    ({"options": ["check"]}, r"options: a mapping is expected; got \['check'\]"),
    ({"options": {"check": 1}}, r"option 'check': True or False is expected; got 1"),
    ({"options": {"max_state_bytes": "1 GB"}}, r"option 'max_state_bytes': a number of bytes, 1 or more, is .* '1 GB'"),
    ({"options": {"max_state_bytes": 0}}, r"option 'max_state_bytes': a number of bytes, 1 or more, .* got 0"),
    ({"keep_dense": ["secnd"]}, r"unknown module path or operator in keep_dense 'secnd'\. Did you mean 'second'"),
    ({"keep_dense": "secnd"}, r"unknown module path or operator in keep_dense 'secnd'"),
    ({"keep_dense": [nn.Conv2d]}, r"keep_dense: module paths or operator names are expected; got <class"),
    ({"threshold": {"secnd": 0.1}}, r"unknown truncation point in threshold 'secnd'\. Did you mean 'second'"),
    ({"threshold": float("nan")}, r"threshold: a threshold is a finite number, 0 or larger; got nan"),
    ({"threshold": float("inf")}, r"threshold: a threshold is a finite number, 0 or larger; got inf"),
    ({"threshold": -0.1}, r"threshold: a threshold is a finite number, 0 or larger; got -0.1"),
    ({"threshold": True}, r"threshold: a number \(a share of the node's root mean square\), .*absolute.*; got True"),
    ({"threshold": "0.1"}, r"unknown calibration '0.1'"),
    ({"threshold": [0.1]}, r"threshold: a number .* is expected; got \[0.1\]"),
    ({"threshold": {"first": -1}}, r"threshold\['first'\]: a threshold is a finite number, 0 or larger; got -1"),
    ({"threshold": {"first": "much"}}, r"threshold\['first'\]: a number .* is expected; got 'much'"),
    ({"refresh_every": 0}, r"refresh_every: a number of frames, 1 or more, is expected; got 0"),
    ({"refresh_every": 2.5}, r"refresh_every: .* got 2.5"),
    ({"refresh_every": True}, r"refresh_every: .* got True"),
    ({"input_gate": 6}, r'input_gate: a deltafx.InputGate or "auto" is expected; got 6'),
    ({"backend": "cpu"}, r"backend='cpu': .*\. See deltafx.build_info\(\); use backend='reference' or 'auto'\."),
    ({"backend": "cuda"}, r"backend='cuda': .*\. See deltafx.build_info\(\); use backend='reference' or 'auto'\."),
]


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS, ids=lambda value: str(value)[:40])
def test_a_wrong_argument_is_refused(arguments, message, model):
    name = arguments.get("backend")
    if name in ("cpu", "cuda") and deltafx.build_info()["backends"][name] == "available":
        pytest.skip("it is available here")
    with pytest.raises(deltafx.ConvertError, match=message):
        deltafx.convert(model, **arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, True, "0.1", None])
def test_a_wrong_absolute_threshold_is_refused(value):
    with pytest.raises(deltafx.ConvertError, match="a threshold is a finite number, 0 or larger; got "):
        deltafx.absolute(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -1}, "threshold is a finite number of grey levels, 0 or more; got -1"),
        ({"threshold": float("nan")}, "threshold is a finite number of grey levels, 0 or more; got nan"),
        ({"threshold": True}, "threshold is a finite number of grey levels, 0 or more; got True"),
        ({"threshold": "6"}, "threshold is a finite number of grey levels, 0 or more; got '6'"),
        ({"threshold": 6, "window": 4}, "window is an odd number of pixels, 1 or more; got 4"),
        ({"threshold": 6, "window": 0}, "window is an odd number of pixels, 1 or more; got 0"),
        ({"threshold": 6, "window": 3.0}, r"window is an odd number of pixels, 1 or more; got 3\.0"),
        ({"threshold": 6, "dilation": -1}, "dilation is a number of pixels, 0 or more; got -1"),
        ({"threshold": 6, "dilation": 1.5}, r"dilation is a number of pixels, 0 or more; got 1\.5"),
        ({"threshold": 6, "grey_level": 0}, "grey_level is a finite number larger than 0; got 0"),
        ({"threshold": 6, "grey_level": float("nan")}, "grey_level is a finite number larger than 0; got nan"),
    ],
)
def test_a_wrong_input_gate_is_refused(arguments, message):
    with pytest.raises(deltafx.ConvertError, match=f"InputGate: {message}"):
        deltafx.InputGate(**arguments)


@fx.wrap
def unknown(x):
    return x.cumsum(2)


class TwoIslands(Small):
    def forward(self, x):
        return unknown(super().forward(unknown(x)))


def test_strict_names_every_island_in_one_table():
    model = small(TwoIslands)
    with pytest.raises(deltafx.ConvertError) as error:
        deltafx.convert(model, strict=True)
    lines = str(error.value).splitlines()
    assert lines[0] == "strict=True and 2 nodes have no delta form:"
    assert lines[1] == "  unknown: unknown runs dense, no operator is known for it"
    assert lines[2] == "  unknown#2: unknown runs dense, no operator is known for it"
    assert lines[3] == "Name those you accept: keep_dense=['unknown', 'unknown#2']."


def test_strict_accepts_what_is_named():
    model = small(TwoIslands)
    dm = deltafx.convert(model, strict=True, keep_dense=["unknown", "unknown#2"])
    torch.testing.assert_close(dm(frame()), dense(model, frame()))
    dm(touched(frame()))
    assert input_rate(dm) < 0.1


def test_strict_accepts_a_model_without_islands(model):
    deltafx.convert(model, strict=True)
