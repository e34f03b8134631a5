"""Processes that do not move are counted in the time of the one that looks."""

from __future__ import annotations

import pytest

from deploy.watchdog import LOOK_S, WARN_S, Watchdog


def watched(beats_at, seconds, watchdog=None, start=0.0):
    """A watchdog after looks every half second; ``beats_at(time)`` gives the beats."""
    watchdog = watchdog or Watchdog()
    for turn in range(int(2 * seconds) + 1):
        now = start + turn / 2
        watchdog.look(now, lambda: beats_at(now))  # noqa: B023 (called at once)
    return watchdog


def test_one_that_does_not_move_is_stuck_and_one_that_moves_is_not():
    watchdog = watched(lambda now: {0: now, 1: 7}, 20)
    assert watchdog.still == {0: 0.0, 1: pytest.approx(20)}
    assert watchdog.stuck(20) == {1} and watchdog.stuck(21) == set()


def test_one_that_has_nothing_to_do_is_not_watched():
    watchdog = watched(lambda now: {0: 7} if now < 10 or now > 15 else {}, 20)
    assert watchdog.still[0] == pytest.approx(20 - 15.5)


def test_a_replaced_worker_counts_from_its_start():
    watchdog = watched(lambda now: {0: ("incarnation", now >= 15, 7)}, 20)
    assert watchdog.still[0] == pytest.approx(5)


def test_time_in_which_nobody_looked_does_not_count():
    """The launcher was stopped together with its workers, or wrote a checkpoint for which they held still."""
    watchdog = watched(lambda now: {0: 7}, 10)
    watchdog.look(1000.0, lambda: {0: 7})
    assert watchdog.still[0] <= 11


def test_looks_in_quick_succession_are_one():
    watchdog = Watchdog()
    assert watchdog.look(0.0, lambda: {0: 7})
    assert not watchdog.look(LOOK_S / 2, lambda: pytest.fail("looked again"))


def test_the_longest_step_is_known_once_it_has_ended():
    watchdog = watched(lambda now: {0: now < 25}, 30)
    assert watchdog.longest == pytest.approx(24.5)
    assert watched(lambda now: {0: 7}, 30).longest == 0


def test_one_is_named_after_a_while_and_again_when_that_has_doubled():
    watchdog, named = Watchdog(), []
    for turn in range(int(2 * 4.5 * WARN_S)):
        watchdog.look(turn / 2, lambda: {3: 7})
        named += watchdog.to_tell().items()
    assert [key for key, _ in named] == [3, 3, 3]
    assert [seconds for _, seconds in named] == pytest.approx([WARN_S, 2 * WARN_S, 4 * WARN_S])


def test_those_that_waited_for_another_count_anew():
    watchdog = watched(lambda now: {0: 7, 1: 7}, 20)
    watchdog.forgive()
    assert watchdog.stuck(1) == set()
    watched(lambda now: {0: 7, 1: now}, 5, watchdog, start=20.5)
    assert watchdog.stuck(5) == {0}
