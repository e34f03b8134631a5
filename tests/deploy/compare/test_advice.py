"""The answer, on made-up cells."""

from __future__ import annotations

import pytest

from deploy.compare.advice import advise, exchanges_per_worker, is_asynchronous, pays
from tests.deploy.compare.making import TARGET, cell, missed, reached, with_options

ONE = reached("sequential", 1, 400.0)


def answer(*figures, **options):
    figures = [ONE, *figures]
    return advise(figures, TARGET, ONE, **options)


def test_workers_are_added_while_they_pay():
    advice = answer(reached("downpour", 4, 100.0), reached("downpour", 16, 40.0), reached("downpour", 64, 30.0))
    assert advice.helps == "yes"
    assert advice.settings["workers.count"] == 16 and advice.settings["strategy.n_push"] == 1
    assert "10x as fast as sequential with 1 worker" in advice.headline
    assert any("beyond 16 they no longer pay" in reason for reason in advice.reasons)


def test_the_fastest_is_suggested_while_all_workers_pay():
    advice = answer(reached("downpour", 4, 100.0), reached("downpour", 16, 30.0), reached("easgd", 16, 60.0))
    assert (advice.settings["strategy.name"], advice.settings["workers.count"]) == ("downpour", 16)
    assert any("the most that was tried" in reason for reason in advice.reasons)


def test_it_says_where_the_suggestion_breaks():
    advice = answer(reached("downpour", 4, 100.0), missed("downpour", 16, "diverged", "the parameters are not finite"))
    assert advice.settings["workers.count"] == 4
    assert any(
        "With 16 workers it breaks: diverged (the parameters are not finite)" in reason for reason in advice.reasons
    )


def test_a_cell_that_lost_the_target_again_does_not_count():
    advice = answer(reached("downpour", 4, 50.0, final=0.9, holds=False), reached("easgd", 4, 120.0))
    assert advice.settings["strategy.name"] == "easgd"
    assert any("reached the target but ended worse, at 0.9" in line for line in advice.strategies)


def test_a_gain_far_below_the_number_of_workers_is_a_little():
    advice = answer(reached("downpour", 16, 250.0))
    assert advice.helps == "a little" and "with 16 times the workers" in advice.headline


def test_no_where_one_worker_is_as_fast():
    advice = answer(reached("downpour", 4, 390.0))
    assert (advice.helps, advice.settings["strategy.name"], advice.settings["workers.count"]) == ("no", "sequential", 1)
    assert "takes longer" in answer(reached("downpour", 4, 800.0)).headline


def test_no_where_nothing_reached_the_target():
    advice = answer(missed("downpour", 4, "diverged", "not finite"), missed("easgd", 4))
    assert advice.helps == "no" and advice.settings["strategy.name"] == "sequential"
    assert any("diverged (not finite)" in reason for reason in advice.reasons)


def test_synchronous_training_that_is_faster_wins():
    advice = answer(reached("downpour", 4, 200.0), reached("synchronous", 4, 110.0))
    assert advice.helps == "no" and advice.settings["strategy.name"] == "synchronous"


def test_synchronous_training_that_is_as_fast_is_preferred():
    advice = answer(reached("downpour", 4, 110.0), reached("synchronous", 4, 115.0))
    assert advice.helps == "not by itself" and advice.settings["strategy.name"] == "synchronous"


def test_synchronous_training_that_is_slower_is_named():
    advice = answer(reached("downpour", 4, 100.0), reached("synchronous", 4, 250.0))
    assert advice.helps == "yes"
    assert any("synchronous with 4 workers takes 250 virtual s, 2.5x as long" in reason for reason in advice.reasons)


def test_too_few_workers_to_gain_are_not_suggested():
    advice = answer(reached("downpour", 4, 395.0), reached("downpour", 16, 240.0))
    assert advice.settings["workers.count"] == 16


def test_nothing_is_claimed_without_a_baseline_or_a_target():
    alone = [missed("sequential", 1), reached("downpour", 4, 100.0)]
    assert advise(alone, TARGET, None).helps == "unknown"
    assert "short of the target" in advise(alone, TARGET, None).headline
    assert advise([missed("downpour", 4)], TARGET, None).settings is None
    assert advise([missed("downpour", 4)], None, None).helps == "unknown"
    assert answer().helps == "unknown"


def test_without_one_worker_the_suggestion_agrees_with_how_it_scales():
    few = reached("downpour", 4, 100.0)
    advice = advise([few, reached("downpour", 32, 60.0)], TARGET, few)
    assert advice.helps == "unknown" and advice.settings["workers.count"] == 4
    assert "The fastest whose workers pay is downpour with 4 workers" in advice.headline
    assert any("beyond 4 they no longer pay" in reason for reason in advice.reasons)
    assert "more than 4 hardly pay" in advice.strategies[0]


def test_cells_that_failed_say_nothing_about_asynchrony():
    advice = answer(missed("downpour", 4, "failed", "oops"), missed("easgd", 4, "interrupted"))
    assert (advice.helps, advice.settings) == ("unknown", None)


def test_scaling_of_each_strategy_in_a_sentence():
    advice = answer(reached("easgd", 1, 400.0), reached("easgd", 4, 100.0), reached("easgd", 16, 120.0))
    (line,) = advice.strategies
    assert line.startswith(
        "easgd: 1 worker 400 virtual s, 4 workers 100 virtual s (4x), 16 workers 120 virtual s (3.3x)"
    )
    assert line.endswith("more than 4 only slow it down.")
    broken = answer(missed("easgd", 4, "failed", "oops"), missed("easgd", 16, "failed", "oops"))
    assert broken.strategies == ("easgd: with any number of workers failed (oops).",)


def test_replicas_that_hardly_met_the_center_are_pointed_out():
    few = with_options(missed("easgd", 64, steps_per_worker=40.0), tau=10)
    assert exchanges_per_worker(few) == 4.0
    advice = answer(few)
    assert any("met the center only 4 times" in note for note in advice.cautions)
    assert not any("met the center" in note for note in answer(with_options(few, tau=1)).cautions)


def test_cautions():
    assert any("--repeats" in note for note in answer(reached("easgd", 4, 100.0)).cautions)
    assert not answer(reached("easgd", 4, 100.0), repeats=3).cautions
    assert any(
        "2 of 3 cells did not" in n
        for n in answer(missed("easgd", 4, "waiting"), missed("easgd", 8, "interrupted")).cautions
    )


@pytest.mark.parametrize(
    ("strategy", "options", "expected"),
    [
        ("downpour", {}, True),
        ("easgd", {}, True),
        ("easgd", {"mode": "synchronous"}, False),
        ("synchronous", {}, False),
        ("sequential", {}, False),
    ],
)
def test_who_is_asynchronous(strategy, options, expected):
    figures = missed(strategy, 1)
    assert is_asynchronous(with_options(figures, **options)) is expected


def test_four_times_the_workers_pay_if_they_halve_the_time():
    assert pays(reached("easgd", 4, 100.0), reached("easgd", 16, 49.0))
    assert not pays(reached("easgd", 4, 100.0), reached("easgd", 16, 51.0))
    assert cell("easgd", 4).title == "easgd with 4 workers"
