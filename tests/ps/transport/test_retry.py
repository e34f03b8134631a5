"""Retries are bounded, jittered, and end when they are told to."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from ps.errors import TransportError, UsageError
from ps.transport.retry import Attempts, Retry, Watch, outcome


class Time:
    """A clock that moves when somebody waits."""

    def __init__(self):
        self.now, self.waits = 100.0, []

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)


def attempts(retry: Retry, stopped=lambda: None) -> tuple[Attempts, Time]:
    time = Time()
    return Attempts(retry, stopped, lambda: time.now, time.wait), time


def failure() -> TransportError:
    return TransportError("shard 3 at there:1: gone", shard=3, replica=2)


@pytest.mark.parametrize(
    "option, message",
    [
        ({"deadline_s": 0}, "deadline_s must be > 0 seconds, got 0"),
        ({"first_s": -1.0}, "first_s must be > 0"),
        ({"longest_s": 0.0}, "longest_s must be > 0"),
        ({"patience_s": -0.1}, "patience_s must be >= 0 seconds, got -0.1; 0 tries once"),
        ({"patience_s": float("nan")}, "patience_s must be >= 0"),
    ],
)
def test_bounds_are_checked(option, message):
    with pytest.raises(UsageError, match=message):
        Retry(**option)


def test_the_pause_is_anything_up_to_a_bound_that_doubles():
    retry = Retry(first_s=0.1, longest_s=1.0)
    bounds = []
    for attempt in range(6):
        assert retry.pause_s(attempt, lambda low, high: low) == 0.0
        bounds.append(retry.pause_s(attempt, lambda low, high: high))
    assert bounds == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert retry.pause_s(10**6, lambda low, high: high) == 1.0


def test_patience_ends_and_the_error_says_what_was_tried():
    counted, time = attempts(Retry(patience_s=10.0, longest_s=4.0))
    with pytest.raises(TransportError, match=r"shard 3 at there:1: gone; gave up after \d+ tries in 10.0 s") as raised:
        while True:
            counted.failed(failure())
    assert time.now == pytest.approx(110.0)
    assert (raised.value.shard, raised.value.replica) == (3, 2)
    assert isinstance(raised.value.__cause__, TransportError)


def test_without_patience_one_try_is_made():
    counted, time = attempts(Retry(patience_s=0.0))
    with pytest.raises(TransportError, match="gone; gave up after 1 try in 0.0 s"):
        counted.failed(failure())
    assert time.waits == []


def test_a_success_begins_patience_anew():
    counted, time = attempts(Retry(patience_s=10.0))
    for _ in range(50):
        counted.failed(failure())
        time.now += 9.0
        counted.succeeded()
    assert counted.count == 0 and time.now > 500


def test_waiting_stops_when_told_to():
    def stopped():
        if time.now > 101.0:
            raise KeyError("enough")

    counted, time = attempts(Retry(patience_s=1000.0, first_s=50.0, longest_s=50.0), stopped)
    with pytest.raises(KeyError, match="enough"):
        while True:
            counted.failed(failure())
    assert time.now < 101.2  # it looked often in between


def test_an_outcome_is_waited_for_while_nobody_stops_it():
    looks, future = [], Future()

    def stopped():
        looks.append(1)
        if len(looks) == 2:
            future.set_result("there")

    assert outcome(future, stopped) == "there"
    assert len(looks) == 2

    def enough():
        raise KeyError("enough")

    with pytest.raises(KeyError):
        outcome(Future(), enough)


def test_an_outcome_that_is_a_timeout_error_is_raised_as_such():
    future = Future()
    future.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        outcome(future, lambda: None)


def test_a_call_is_cancelled_once_nothing_has_come_of_it():
    cancelled = threading.Event()
    with Watch().over(cancelled.set, deadline_s=0.02) as watched:
        assert cancelled.wait(30)
    assert watched.expired


def test_what_is_not_busy_and_what_goes_on_is_not_late(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ps.transport.retry.time.monotonic", lambda: now[0])
    busy = [True]
    watched = Watch().over(lambda: None, 5.0, lambda: busy[0])
    now[0] = 4.9
    watched.progress()
    now[0] = 9.8
    assert not watched.is_late()
    now[0] = 10.0
    assert watched.is_late()
    busy[0] = False
    assert not watched.is_late()
    busy[0], now[0] = True, 14.9  # counted from when it was idle last
    assert not watched.is_late()
