"""Times of nodes: one source, which the report reads."""

import pytest
import torch

import deltafx
from deltafx import eager_times
from deltafx.profile import KEPT_FRAMES, DeviceTimer
from deltafx.state import NodeState
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
def timer(monkeypatch):
    Event.now = Event.made = Event.waited = 0
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return DeviceTimer(torch.device("cuda"))


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
def test_a_device_times_its_nodes():
    dm = deltafx.convert(small().cuda(), backend="cuda", options={"profile": True})
    for number in range(4):
        dm(touched(frame(), amount=number).cuda())
    assert all(0 < time < 1000 for time in milliseconds(dm))
    assert deltafx.report(dm).totals["milliseconds_mean"] > 0
