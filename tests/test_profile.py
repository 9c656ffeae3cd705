"""Times of nodes: one source, which the report reads."""

import types

import pytest
import torch

import deltafx
from deltafx import eager_times
from deltafx.converted import forget_counts
from deltafx.graph_times import GraphTimes, signed
from deltafx.profile import KEPT_FRAMES, DeviceTimer
from deltafx.state import NodeState
from tests.backends.cuda.quiet import without_waiting
from tests.small import frame, small, touched
from tests.views.shown import in_parts


def milliseconds(dm):
    return [node.milliseconds for node in deltafx.report(dm).nodes]


def test_without_profiling_there_are_no_times():
    dm = deltafx.convert(small())
    dm(frame())
    report = deltafx.report(dm)
    assert set(milliseconds(dm)) == {None}
    assert (report.totals["milliseconds"], report.totals["milliseconds_mean"]) == (None, None)
    assert " ms" not in str(report).splitlines()[0]


def test_every_node_has_a_time_and_a_mean():
    dm = deltafx.convert(small(), options={"profile": True})
    seen = []
    for number in range(3):
        dm(touched(frame(), amount=number))
        seen.append(milliseconds(dm))
    report = deltafx.report(dm)
    assert all(time > 0 for times in seen for time in times)
    for index, node in enumerate(report.nodes):
        assert node.milliseconds_mean == pytest.approx(sum(times[index] for times in seen) / 3)
    assert report.totals["milliseconds_mean"] == pytest.approx(sum(node.milliseconds_mean for node in report.nodes))
    deltafx.reset(dm)
    dm(frame())
    assert deltafx.report(dm)["first"].milliseconds_mean == deltafx.report(dm)["first"].milliseconds


def test_modules_outside_of_the_graphs_have_times_too():
    dm = in_parts()
    found = deltafx.report(dm)["found"]
    assert (found.kernel, found.reason is not None) == ("eager", True)
    assert 0 < found.milliseconds < 1000
    assert 0 < found.milliseconds_mean < 1000
    assert deltafx.report(dm).totals["milliseconds"] > found.milliseconds


def test_a_module_that_is_called_twice_has_the_time_of_both(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(eager_times.time, "perf_counter", lambda: next(ticks))
    times = eager_times.EagerTimes()
    for _ in range(3):
        times.begin()
        times.run("a", torch.nn.Identity(), abs, (1,), {})
        times.run("a", torch.nn.Identity(), abs, (1,), {})
        times.run("b", torch.nn.Sequential(torch.nn.Identity()), abs, (1,), {})
        times.end()
    assert times.of("a") == (2000, 2000)
    assert times.of("b") == (None, None)
    times.forget()
    assert times.of("a") == (2000, None)


def test_a_module_on_a_gpu_is_timed_by_events_that_are_read_later(monkeypatch, timer):
    times = eager_times.EagerTimes()
    on_gpu = types.SimpleNamespace(device=torch.device("cuda"), is_cuda=True)
    monkeypatch.setattr(eager_times, "Tensor", types.SimpleNamespace)
    for _ in range(KEPT_FRAMES - 1):
        times.begin()
        times.run("a", torch.nn.Identity(), lambda x: x, (on_gpu,), {})
        times.run("b", torch.nn.Identity(), abs, (-1,), {})
        times.end()
    assert Event.waited == 0
    assert times.of("a") == pytest.approx((2, 2))
    assert Event.waited == KEPT_FRAMES - 1
    assert 0 <= times.of("b")[0] < 1000


class Event:
    """A device's clock that moves by 2 ms with every event."""

    now, made, waited = 0, 0, 0

    def __init__(self, enable_timing):
        Event.made += 1

    def record(self, stream):
        Event.now += 2
        self.at = Event.now

    def synchronize(self):
        Event.waited += 1

    def elapsed_time(self, end):
        return end.at - self.at


@pytest.fixture
def ranges(monkeypatch):
    """NVTX: the ranges that were opened, and None where one was closed."""
    seen = []
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", seen.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: seen.append(None))
    return seen


@pytest.fixture
def timer(monkeypatch, ranges):
    Event.now = Event.made = Event.waited = 0
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return DeviceTimer(torch.device("cuda"))


def test_a_node_that_is_launched_from_python_is_a_range(timer, ranges):
    timer.run(NodeState("a.b"), abs, 1)
    assert ranges == ["a.b", None]
    with pytest.raises(TypeError):
        timer.run(NodeState("c"), abs, "x")
    assert ranges[2:] == ["c", None]


class Ticking(GraphTimes):
    """A captured frame on a device whose clock is about to wrap around."""

    def __init__(self, states):
        super().__init__(torch.device("cpu"), states)
        self.now, self.captured = 2**63 - 1_500_000, []

    def tick(self, place, count):
        self.captured.append((place, count))

    def replay(self, *nanoseconds):
        for (place, count), spent in zip(self.captured, (1_000_000, *nanoseconds), strict=True):
            self.now = signed(self.now + spent)
            self.ticks[0, place : place + count] = self.now
            self.ticks[1, place : place + count] += self.now


def captured(timer, states=None):
    states = states or [NodeState("a"), NodeState("b")]
    times = Ticking(states)
    with timer.capture(times):
        times.begin()
        assert [timer.run(state, abs, -1) for state in states] == [1, 1]
    assert times.captured == [(0, 1), (1, 1), (2, 1)]
    return times, states


def replay(timer, times, *nanoseconds):
    times.replay(*nanoseconds)
    timer.replayed(times)
    timer.end_frame()


def test_a_captured_frame_is_timed_by_the_clock_of_the_device(timer):
    times, states = captured(timer)
    assert (Event.made, timer.marks) == (0, [])
    for spent in ((3_000_000, 1_000_000), (5_000_000, 2_000_000)):
        replay(timer, times, *spent)
    assert [state.seconds_sum for state in states] == [0, 0]  # nothing is read before it is wanted
    for _ in range(2):
        timer.settle()
        assert [state.seconds for state in states] == pytest.approx([0.005, 0.002])
        assert [state.seconds_sum for state in states] == pytest.approx([0.008, 0.003])
    for state in states:
        state.forget_counts()
    replay(timer, times, 7_000_000, 4_000_000)
    timer.settle()
    assert [state.seconds_sum for state in states] == pytest.approx([0.007, 0.004])


def test_captured_frames_and_others_take_turns(timer):
    times, states = captured(timer)
    replay(timer, times, 3_000_000, 1_000_000)
    for state in states:
        timer.run(state, abs, 1)  # 2 ms
    timer.end_frame()
    timer.settle()
    assert [state.seconds for state in states] == [0.002, 0.002]
    assert [state.seconds_sum for state in states] == pytest.approx([0.005, 0.003])
    replay(timer, times, 3_000_000, 1_000_000)
    other, _ = captured(timer, states)
    replay(timer, other, 6_000_000, 8_000_000)
    timer.settle()
    assert [state.seconds for state in states] == pytest.approx([0.006, 0.008])
    assert [state.seconds_sum for state in states] == pytest.approx([0.014, 0.012])


def test_nodes_that_take_no_time_are_marked_together(timer):
    states = [NodeState(name) for name in "abc"]
    times = Ticking(states)
    with timer.capture(times):
        times.begin()
        timer.run(states[0], abs, 1)
        times.mark(states[1], 2)
    replay(timer, times, 3_000_000, 1_000_000)
    timer.settle()
    assert [state.seconds for state in states] == pytest.approx([0.003, 0.001, 0])


def test_a_capture_that_fails_is_over(timer):
    with pytest.raises(ZeroDivisionError), timer.capture(Ticking([])):
        raise ZeroDivisionError
    assert timer.capturing is None


def test_events_are_read_late_and_used_again(timer):
    states = [NodeState("a"), NodeState("b")]
    for _ in range(3):
        assert [timer.run(state, lambda x: x + 1, 1) for state in states] == [2, 2]
        timer.end_frame()
    assert (Event.waited, states[0].seconds_sum) == (0, 0.0)  # no frame waited
    timer.settle()
    assert Event.waited == 1
    assert [state.seconds for state in states] == [0.002, 0.002]
    assert [state.seconds_sum for state in states] == pytest.approx([0.006, 0.006])
    timer.run(states[0], abs, 1)
    assert Event.made == 12
    timer.settle()
    timer.settle()
    assert states[0].seconds_sum == pytest.approx(0.008)


def test_events_do_not_pile_up(timer):
    state = NodeState("a")
    for _ in range(3 * KEPT_FRAMES):
        timer.run(state, abs, 1)
        timer.end_frame()
    assert Event.made == 2 * KEPT_FRAMES
    assert state.seconds_sum == pytest.approx(0.002 * 3 * KEPT_FRAMES)


@pytest.mark.cuda
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_device_times_its_nodes(cuda_graph):
    dm = deltafx.convert(small().cuda(), backend="cuda", options={"profile": True, "cuda_graph": cuda_graph})
    seen = []
    for number in range(6):
        dm(touched(frame(), amount=number).cuda())
        seen.append(milliseconds(dm))
    assert all(0 < time < 1000 for times in seen for time in times)
    for index, node in enumerate(deltafx.report(dm).nodes):
        assert node.milliseconds_mean == pytest.approx(sum(times[index] for times in seen) / 6)
    assert (dm.runtime.plans[0].frame_graph is not None) == cuda_graph


@pytest.mark.cuda
def test_profiling_a_captured_frame_neither_waits_nor_changes_it():
    """The times of the nodes add up to the frame's."""
    plain, dm = (
        deltafx.convert(small().cuda(), backend="cuda", options={"profile": profile, "copy_outputs": False})
        for profile in (False, True)
    )
    frames = [touched(frame(), amount=number).cuda() for number in range(9)]
    for picture in frames[:4]:
        assert torch.equal(plain(picture), dm(picture))
    forget_counts(dm)
    with without_waiting():
        for picture in frames[4:]:
            result = dm(picture)
    for picture in frames[4:]:
        expected = plain(picture)
    assert torch.equal(result, expected)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    dm.runtime.plans[0].frame_graph.graph.replay()
    end.record()
    torch.cuda.synchronize()
    inner = [node.milliseconds for node in deltafx.report(dm).nodes if node.operator != "dense_to_delta"]
    assert 0 < sum(inner) < 2 * start.elapsed_time(end) + 0.1
