"""What every rule must do, whatever its formula: one table of rules x properties."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher

from ps.errors import UsageError
from ps.rules import Context, kernels, kernels_adaptive, kernels_delay, kernels_transform, transforms
from ps.rules.base import part_of, replace_context
from ps.rules.transforms import GradientNoise
from ps.rules.wrappers import Scheduled, Wrapper, chain

from .cases import all_rules, gradients

RULES = all_rules()
KERNELS = {
    name: value
    for module in (kernels, kernels_adaptive, kernels_delay, kernels_transform)
    for name, value in vars(module).items()
    if isinstance(value, Dispatcher)
}
# Wrappers see a row as it was before the push, as their docstrings state.
UNWRAPPED = {name: rule for name, rule in RULES.items() if not isinstance(rule, Wrapper)}
by_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def started(rule, center):
    slots = rule.allocate(center.size, center.dtype)
    slots = {name: slot.reshape(center.shape) for name, slot in slots.items()}
    rule.initialise(center, slots)
    return slots


def remembered_for(rule, center, slots):
    """Something else than the present value: as if others had pushed since the read."""
    if rule.remembers is None:
        return None
    present = center if rule.remembers == "center" else slots[rule.remembers]
    return present - 0.1


@given(st.data())
@settings(max_examples=12, deadline=None)
@by_rule
def test_split_anywhere_apply_and_join_is_the_whole(rule, data):
    """Bit for bit, with the norm of the whole gradient known to the parts."""
    size = data.draw(st.integers(1, 60), label="size")
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=3), label="cuts"))
    pushed = gradients(3, size, seed=size).astype(np.float32)
    whole = np.linspace(-1, 1, size, dtype=np.float32)
    parts = whole.copy()
    slots, part_slots = started(rule, whole), started(rule, parts)
    for t, gradient in enumerate(pushed):
        norm = float(np.linalg.norm(gradient))
        context = Context(step=t + 1, epoch=t, staleness=t, gradient_norm=norm, offset=5, seed=9)
        context = replace_context(context, remembered=remembered_for(rule, whole, slots))
        rule.apply(whole, slots, gradient, context)
        for start, stop in zip([0, *cuts], [*cuts, size], strict=True):
            views = {name: slot[start:stop] for name, slot in part_slots.items()}
            rule.apply(parts[start:stop], views, gradient[start:stop], part_of(context, start, stop))
    np.testing.assert_array_equal(parts, whole)
    for name in slots:
        np.testing.assert_array_equal(part_slots[name], slots[name], err_msg=name)


@by_rule
def test_rows_equal_dense_on_touched_rows_and_leave_the_others(rule):
    """Each row has a history of its own: as if it were a vector that only the pushes that hold it have stepped."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((6, 5))
    initial, slots = table.copy(), started(rule, table)
    row_steps = np.zeros(6, np.int64)
    vectors = [table[r].copy() for r in range(6)]
    vector_slots = [started(rule, vector) for vector in vectors]
    for t in range(20):
        rows = np.sort(rng.choice(5, size=rng.integers(1, 5), replace=False)).astype(np.int64)
        pushed = rng.standard_normal((rows.size, 5))
        norm = float(np.linalg.norm(pushed))
        context = Context(step=t + 1, staleness=2, gradient_norm=norm, offset=100, seed=3)
        remembered = remembered_for(rule, table, slots)
        rule.apply_rows(
            table, slots, rows, pushed, replace_context(context, row_steps=row_steps, remembered=remembered)
        )
        for r, gradient in zip(rows, pushed, strict=True):
            own = _context_of_row(rule, context, int(r), int(row_steps[r]))
            own = replace_context(own, remembered=remembered_for(rule, vectors[r], vector_slots[r]))
            rule.apply(vectors[r], vector_slots[r], gradient, own)
    np.testing.assert_allclose(table, vectors, rtol=1e-12)
    for name in slots:
        np.testing.assert_allclose(slots[name], [own[name] for own in vector_slots], rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(table[5], initial[5])
    assert row_steps[5] == 0 and row_steps[:5].min() > 0


def _context_of_row(rule, context, row, count):
    """Bias corrections count the row's updates, schedules and noise count pushes; no rule of the table has both."""
    counts_pushes = any(isinstance(inner, (GradientNoise, Scheduled)) for inner in chain(rule))
    return replace_context(context, step=context.step if counts_pushes else count, offset=context.offset + row * 5)


@pytest.mark.parametrize("rule", UNWRAPPED.values(), ids=UNWRAPPED)
def test_a_row_that_stands_twice_is_stepped_twice_in_order(rule):
    table = np.linspace(-1, 1, 8).reshape(2, 4)
    pushed = np.random.default_rng(1).standard_normal((2, 4))
    at_once, one_by_one = table.copy(), table.copy()
    slots, slots_one = started(rule, at_once), started(rule, one_by_one)
    steps, steps_one = np.zeros(2, np.int64), np.zeros(2, np.int64)
    rule.apply_rows(at_once, slots, np.array([1, 1]), pushed, Context(row_steps=steps))
    for gradient in pushed:
        rule.apply_rows(one_by_one, slots_one, np.array([1]), gradient[None], Context(row_steps=steps_one))
    np.testing.assert_array_equal(at_once, one_by_one)
    np.testing.assert_array_equal(steps, [0, 2])


@by_rule
def test_float32_stays_float32_and_a_nan_reaches_the_center(rule):
    center = np.ones(70, np.float32)
    slots = started(rule, center)
    assert {slot.dtype for slot in slots.values()} <= {np.dtype(np.float32)}
    gradient = np.ones(70, np.float32)
    gradient[41] = np.nan
    rule.apply(center, slots, gradient, Context(gradient_norm=1.0))
    assert center.dtype == np.float32
    assert np.flatnonzero(np.isnan(center)).tolist() == [41]


@by_rule
def test_no_temporary_of_the_vector_size(rule):
    size = 1_000_000  # nested wrappers hold a block each, whatever the size
    center = np.ones(size)
    slots, gradient = started(rule, center), np.full(size, 0.5)
    context = Context(step=3, remembered=remembered_for(rule, center, slots))
    rule.apply(center, slots, gradient, context)  # compiles
    tracemalloc.start()
    try:
        rule.apply(center, slots, gradient, context)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < center.nbytes // 2


@by_rule
def test_blocks_of_the_wrappers_do_not_show(rule, monkeypatch):
    """The same numbers whatever the block size; only wrappers have blocks, so the table is cut to them."""
    size = 50
    gradient = gradients(1, size)[0]

    def result(block):
        monkeypatch.setattr(transforms, "BLOCK_ELEMENTS", block)
        center = np.linspace(-1, 1, size)
        slots = started(rule, center)
        remembered = remembered_for(rule, center, slots)
        rule.apply(center, slots, gradient, Context(seed=4, offset=3, remembered=remembered))
        table = np.linspace(-1, 1, size).reshape(10, 5)
        table_slots, steps = started(rule, table), np.zeros(10, np.int64)
        remembered = remembered_for(rule, table, table_slots)
        context = Context(seed=4, offset=3, remembered=remembered, row_steps=steps)
        rule.apply_rows(table, table_slots, np.arange(0, 10, 2), gradient[:25].reshape(5, 5), context)
        return np.concatenate([center, table.reshape(-1), steps])

    np.testing.assert_array_equal(result(7), result(1 << 16))


@by_rule
def test_arrays_that_do_not_fit_are_refused(rule):
    center = np.ones(4)
    slots = started(rule, center)
    for gradient in (np.ones(5), np.ones(4, np.float32), np.ones((4, 1))):
        with pytest.raises(UsageError, match="one length and dtype"):
            rule.apply(center, slots, gradient, Context())
    table = np.ones((3, 2))
    slots = started(rule, table)
    for rows, pushed in (([0], np.ones((2, 2))), ([0], np.ones((1, 3))), ([0], np.ones((1, 2), np.float32))):
        with pytest.raises(UsageError, match="must have shape"):
            rule.apply_rows(table, slots, np.array(rows), pushed, Context())
    for row in (-1, 3):
        with pytest.raises(UsageError, match=r"rows must lie in \[0, 3\)"):
            rule.apply_rows(table, slots, np.array([row]), np.ones((1, 2)), Context())
    np.testing.assert_array_equal(table, 1.0)


@by_rule
def test_empty_pushes_change_nothing(rule):
    empty = np.zeros(0)
    rule.apply(empty, started(rule, empty), np.zeros(0), Context())
    table = np.ones((3, 2))
    rule.apply_rows(
        table, started(rule, table), np.zeros(0, np.int64), np.zeros((0, 2)), Context(row_steps=np.zeros(3, np.int64))
    )
    np.testing.assert_array_equal(table, 1.0)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_release_the_interpreter_and_are_cached(name):
    assert KERNELS[name].targetoptions["nogil"] and not KERNELS[name].targetoptions.get("fastmath")
    assert type(KERNELS[name]._cache).__name__ == "FunctionCache"


MEANT_TO_BE_DOUBLE = {"sum_of_squares", "add_noise", "all_below", "count_rows", "mixed"}


def test_float32_loops_hold_no_float64():
    """One literal would promote a whole loop and halve its speed: the types that numba inferred say so."""
    for rule in RULES.values():
        center = np.ones(3, np.float32)
        slots = started(rule, center)
        for remembered in (None, np.zeros(3, np.float32)):
            rule.apply(center, slots, np.ones(3, np.float32), Context(remembered=remembered))
    seen = 0
    for name, kernel in KERNELS.items():
        for signature, compiled in kernel.overloads.items():
            if name in MEANT_TO_BE_DOUBLE or "float32" not in str(signature):
                continue
            assert "float64" not in str(compiled.type_annotation), f"{name} {signature}"
            seen += 1
    assert seen >= len(KERNELS) - len(MEANT_TO_BE_DOUBLE)
