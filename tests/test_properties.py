"""The design's rules on random networks, frames, masks and thresholds."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import fx

import deltafx
from deltafx.measure import relative_error, tensors_of
from deltafx.node import FrameModule
from tests.random_network import networks
from tests.tolerance import TOLERANCE

STREAMS = 2
EXAMPLES = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
EVENTS = ("blob", "blob", "pixel", "repeat", "noise", "black", "nan", "reset", "reset stream")


def converted(model, **options):
    """A graph; a network that writes into a view it reads again is none."""
    try:
        dm = deltafx.convert(model, **options)
    except deltafx.ConvertError as error:
        assert "writes in place" in str(error)  # noqa: PT017
        reject()
    if not isinstance(dm, fx.GraphModule):
        assert "writes in place" in dm.not_whole
        reject()
    return dm


def play(events, inputs, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    frame = [torch.randn(STREAMS, *shape, generator=generator) for _ in range(inputs)]
    yield None, tuple(frame)
    clean = frame
    for event in events:
        frame = [x.clone() for x in clean]
        stream, row, column = (int(torch.randint(0, n, (), generator=generator)) for n in (STREAMS, *shape[1:]))
        source = frame[int(torch.randint(0, inputs, (), generator=generator))]
        if event == "blob":
            source[stream, :, row : row + 3, column : column + 3] += torch.randn((), generator=generator)
        elif event == "pixel":
            source[stream, 0, row, column] += 1
        elif event == "noise":
            source += 0.05 * torch.randn(source.shape, generator=generator)
        elif event == "black":
            source.zero_()
        clean = [x.clone() for x in frame]
        if event == "nan":
            source[stream, :, row, column] = float("nan")
        yield event, tuple(frame)


def obey(dm, event):
    if event == "reset":
        deltafx.reset(dm)
    if event == "reset stream":
        deltafx.reset(dm, streams=[1])


@pytest.mark.parametrize("payload", ["value", "difference"])
@EXAMPLES
@given(network=networks(), events=st.lists(st.sampled_from(EVENTS), min_size=2, max_size=6), seed=st.integers(0, 999))
def test_exact_mode_equals_the_dense_network(payload, network, events, seed):
    model, inputs, shape = network
    dm = converted(model, payload=payload, options={"check": True})
    for event, frame in play(events, inputs, shape, seed):
        obey(dm, event)
        with torch.no_grad():
            wanted = tensors_of(model(*(x.clone() for x in frame)))
        got = tensors_of(dm(*frame))
        if payload == "value":
            assert relative_error(got, wanted) <= TOLERANCE[torch.float32]
        else:  # which leaves its rounding behind where the dense network gives 0
            for a, b in zip(got, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4, equal_nan=True)


@EXAMPLES
@given(network=networks(), events=st.lists(st.sampled_from(EVENTS), min_size=2, max_size=6), seed=st.integers(0, 999))
def test_value_payload_is_independent_of_history(network, events, seed):
    model, inputs, shape = network
    dm = converted(model)
    for event, frame in play(events, inputs, shape, seed):
        obey(dm, event)
        got = tensors_of(dm(*frame))
    fresh = tensors_of(converted(model)(*frame))
    for a, b in zip(got, fresh, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
        assert torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize("payload", ["value", "difference"])
@EXAMPLES
@given(
    network=networks(),
    events=st.lists(st.sampled_from(EVENTS), min_size=2, max_size=6),
    seed=st.integers(0, 999),
    threshold=st.sampled_from([0.02, 0.1, 0.5]),
    norm=st.sampled_from(["rms", "max"]),
    gate=st.sampled_from([None, deltafx.InputGate(4, grey_level=0.02), deltafx.InputGate(2, 3, 1, grey_level=0.02)]),
)
def test_rules_hold_with_thresholds(payload, network, events, seed, threshold, norm, gate):
    model, inputs, shape = network
    dm = converted(model, payload=payload, threshold=threshold, norm=norm, input_gate=gate, options={"check": True})
    for event, frame in play(events, inputs, shape, seed):
        obey(dm, event)
        dm(*frame)  # the checker raises


@EXAMPLES
@given(network=networks(), events=st.lists(st.sampled_from(EVENTS), min_size=2, max_size=4), seed=st.integers(0, 999))
def test_streams_do_not_meet(network, events, seed):
    model, inputs, shape = network
    dm, swapped = converted(model), converted(model)
    for event, frame in play(events, inputs, shape, seed):
        if event == "reset":
            obey(dm, event)
            obey(swapped, event)
        there = tensors_of(dm(*frame))
        back = tensors_of(swapped(*(x.flip(0) for x in frame)))
        # A batched matrix product may round by the place of a row in the batch.
        assert relative_error([x.flip(0) for x in back], there) <= TOLERANCE[torch.float32]


@EXAMPLES
@given(network=networks(), events=st.lists(st.sampled_from(EVENTS), min_size=2, max_size=5), seed=st.integers(0, 999),
       victim=st.integers(0, 99))  # fmt: skip
@pytest.mark.parametrize("payload", ["value", "difference"])
def test_an_interrupted_frame_leaves_no_trace(payload, network, events, seed, victim):
    model, inputs, shape = network
    dm = converted(model, payload=payload, options={"check": True})
    frames = list(play(events, inputs, shape, seed))
    for _, frame in frames[:-1]:
        dm(*frame)
    leaves = [m for m in dm.modules() if isinstance(m, FrameModule) and m.path in dm.runtime.plans[0].nodes]
    chosen = leaves[victim % len(leaves)]

    class Interrupt:
        def __getattr__(self, name):
            raise KeyboardInterrupt

    state = dm.runtime.plans[0].nodes[chosen.path]
    kernel, state.kernel = state.kernel, Interrupt()
    with pytest.raises(KeyboardInterrupt):
        dm(*(x + 1 for x in frames[-1][1]))
    state.kernel = kernel
    got = tensors_of(dm(*frames[-1][1]))
    wanted = tensors_of(converted(model, payload=payload)(*frames[-1][1]))
    assert relative_error(got, wanted) <= TOLERANCE[torch.float32]


@EXAMPLES
@given(network=networks(), seed=st.integers(0, 999))
def test_the_model_and_the_outputs_belong_to_the_caller(network, seed):
    model, inputs, shape = network
    before = copy.deepcopy(model.state_dict())
    dm = converted(model)
    kept = []
    for _, frame in play(["blob", "noise", "black"], inputs, shape, seed):
        given_frame = [x.clone() for x in frame]
        outputs = tensors_of(dm(*frame))
        assert all(torch.equal(a, b) for a, b in zip(frame, given_frame, strict=True))
        kept.append((outputs, [x.clone() for x in outputs]))
    for outputs, copies in kept:
        assert all(torch.equal(a, b) for a, b in zip(outputs, copies, strict=True))
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@EXAMPLES
@given(network=networks(), seed=st.integers(0, 999))
def test_what_stays_dense_is_reported(network, seed):
    model, inputs, shape = network
    dm = converted(model)
    for _, frame in play(["blob"], inputs, shape, seed):
        dm(*frame)
    dense = {node.operator for node in deltafx.report(dm).nodes if node.reason is not None}
    assert dense <= {"aminmax"}


@EXAMPLES
@given(network=networks(), seed=st.integers(0, 999), share=st.sampled_from(["none", "all", "some"]))
def test_forced_masks_are_what_is_updated(network, seed, share):
    model, inputs, shape = network
    dm = converted(model)
    (_, first), (_, second) = play(["noise"], inputs, shape, seed)
    dm(*first)
    held = {path: [leaf.value.clone() for leaf in s.leaves] for path, s in dm.runtime.plans[0].nodes.items()}
    mask = torch.zeros(shape[1:], dtype=torch.uint8)
    if share != "none":
        mask[:2, 1:4] = 1
    if share == "all":
        mask[:] = 1
    with deltafx.testing.force_masks(dm, mask):
        got = tensors_of(dm(*second))
    rates = [node.update_rate for node in deltafx.report(dm).nodes if node.update_rate is not None]
    if share == "none":
        assert max(rates) == 0
        for path, state in dm.runtime.plans[0].nodes.items():
            assert all(torch.equal(leaf.value, old) for leaf, old in zip(state.leaves, held[path], strict=True))
    if share == "all":
        with torch.no_grad():
            wanted = tensors_of(model(*(x.clone() for x in second)))
        assert relative_error(got, wanted) <= TOLERANCE[torch.float32]
    again = tensors_of(dm(*second))
    fresh = tensors_of(converted(model)(*second))
    assert all(torch.equal(a, b) for a, b in zip(again, fresh, strict=True))
