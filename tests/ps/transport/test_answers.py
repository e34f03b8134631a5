"""Answers to exchanges are kept, one per replica, within a byte bound."""

from __future__ import annotations

import numpy as np

from ps.shard import Applied, Stamp
from ps.transport.answers import Answer, Answers


def answer(replica: int, sequence: int = 1, size: int = 40) -> Answer:
    return Answer(Stamp(replica, 1, sequence), Applied(sequence, 0), np.zeros(size, np.uint8))


def test_the_last_answer_of_each_replica_is_found_by_its_stamp():
    answers = Answers(100)
    first, second, other = answer(0), answer(0, 2), answer(1)
    answers.keep(first)
    answers.keep(other)
    assert answers.find(first.stamp) is first and answers.find(other.stamp) is other
    answers.keep(second)
    assert answers.find(first.stamp) is None and answers.find(second.stamp) is second
    assert answers.find(Stamp(0, 2, 2)) is None and answers.find(Stamp(7, 1, 1)) is None


def test_an_array_that_is_not_kept_any_more_is_given_back():
    answers = Answers(100)
    first, second, large = answer(0), answer(0, 2), answer(0, 3, size=101)
    assert answers.keep(first) is None
    assert answers.keep(second) is first.content
    assert answers.keep(large) is large.content
    assert answers.find(second.stamp) is None and answers.find(large.stamp) is None


def test_the_oldest_goes_where_there_is_no_room():
    answers = Answers(100)
    kept = [answer(replica) for replica in (2, 0, 1)]
    for each in kept:
        answers.keep(each)
    assert [answers.find(each.stamp) is each for each in kept] == [False, True, True]
    again = answer(0, 2)
    answers.keep(again)  # now replica 1's is the oldest
    last = answer(3)
    answers.keep(last)
    assert [answers.find(each.stamp) is each for each in (kept[2], again, last)] == [False, True, True]


def test_without_room_nothing_is_kept():
    answers = Answers(0)
    assert answers.keep(answer(0)) is not None
    assert answers.find(Stamp(0, 1, 1)) is None
