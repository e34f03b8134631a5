"""What a task may answer, and the message for everything else."""

from __future__ import annotations

import numpy as np
import pytest

from ps.errors import TaskError, UsageError
from ps.layout import Layout
from ps.rows import Rows
from worker.data.dataset import as_dataset
from worker.locking import Locking
from worker.task_calls import TaskCalls, call_task, numbers

LAYOUT = Layout.of({"table": np.zeros((4, 2)), "w": np.zeros(3)}, sparse=["table"])
EXAMPLES = np.array([2, 0])
GOOD = {"table": np.ones((4, 2)), "w": np.array([1.0, 2.0, 3.0])}
ROWS = Rows(np.array([1, 3]), np.ones((2, 2)))


class Answers:
    """Gives a fixed answer."""

    def __init__(self, answer):
        self.answer = answer

    def loss_and_gradient(self, parameters, batch):
        self.seen = parameters, batch
        return self.answer


def calls(task) -> TaskCalls:
    return TaskCalls(task, as_dataset(np.array([10.0, 20.0, 30.0])), LAYOUT)


def test_dense_answers_become_one_vector():
    task = Answers((0.5, GOOD))
    made = calls(task)
    point = np.arange(11.0)
    loss, gradient = made.gradient(point, EXAMPLES)
    assert loss == 0.5 and gradient.tolist() == [1.0] * 8 + [1.0, 2.0, 3.0]
    parameters, batch = task.seen
    assert batch.tolist() == [30.0, 10.0]
    assert parameters["table"].shape == (4, 2) and np.shares_memory(parameters["w"], point)


def test_integers_and_other_floats_are_cast():
    answer = {"table": np.ones((4, 2), np.int32), "w": np.ones(3, np.float32)}
    loss, gradient = calls(Answers((np.float32(2), answer))).gradient(np.zeros(11), EXAMPLES)
    assert loss == 2.0 and gradient.dtype == np.float64 and gradient.tolist() == [1.0] * 11


def test_rows_stay_rows_and_may_come_alone():
    for answer in (
        {"table": ROWS},
        {"table": ROWS, "w": np.ones(3)},
        {"table": Rows(np.zeros(0, np.int64), np.zeros((0, 2)))},
    ):
        _, gradient = calls(Answers((0.0, answer))).gradient(np.zeros(11), EXAMPLES)
        assert isinstance(gradient["table"], Rows) and set(gradient) == set(answer)


def test_rows_as_one_vector():
    made = calls(Answers(None))
    twice = Rows(np.array([3, 1, 3]), np.array([[1.0, 2.0], [5.0, 5.0], [10.0, 20.0]]))
    for _ in range(2):  # nothing is left from before
        assert made.dense({"table": twice}).tolist() == [0, 0, 5, 5, 0, 0, 11, 22, 0, 0, 0]
    assert made.dense({"table": twice, "w": np.ones(3)})[8:].tolist() == [1, 1, 1]
    vector = np.ones(11)
    assert made.dense(vector) is vector


def test_written_gradients_need_no_copy():
    class Into(Answers):
        def loss_and_gradient_into(self, parameters, batch, gradient):
            gradient["w"][:] = batch.sum()
            gradient["table"][:] = 1
            return 0.25

    made = calls(Into(None))
    first, second = (made.gradient(np.zeros(11), EXAMPLES) for _ in range(2))
    assert first[0] == 0.25 and first[1].tolist() == [1.0] * 8 + [40.0] * 3
    assert first[1] is second[1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0.5, r"must return \(loss, dict of gradients\), got 0.5"),
        (None, r"must return \(loss, dict of gradients\), got None"),
        ((0.5, GOOD, 1), r"must return \(loss, dict of gradients\), got \(0.5"),
        (("high", GOOD), r"must return \(loss, dict of gradients\), got \('high'"),
        ((np.ones(2), GOOD), r"must return \(loss, dict of gradients\)"),
        ((0.5, [GOOD["w"]]), "must return a dict of gradients, got list"),
        ((0.5, {"w": GOOD["w"]}), "must name the parameters table, w, got w"),
        ((0.5, {**GOOD, "v": 1.0}), "must name the parameters table, w, got table, v, w"),
        ((0.5, {"table": ROWS, "v": np.ones(3)}), "must name the parameters table, w, got table, v"),
        ((0.5, {**GOOD, "w": np.ones(2)}), r"the gradient of 'w' must have shape \(3,\), got \(2,\)"),
        ((0.5, {**GOOD, "w": np.ones((3, 1))}), r"the gradient of 'w' must have shape \(3,\), got \(3, 1\)"),
        ((0.5, {**GOOD, "w": 1j * np.ones(3)}), "the gradient of 'w' must be real numbers, got dtype complex128"),
        ((0.5, {**GOOD, "w": np.array(["a", "b", "c"])}), "the gradient of 'w' must be real numbers, got dtype <U1"),
        (
            (0.5, {**GOOD, "w": Rows(np.array([0]), np.ones(1))}),
            "'w' came as rows: name it in the task's attribute `sparse`",
        ),
        (
            (0.5, {"table": Rows(np.array([0, 4]), np.ones((2, 2)))}),
            r"the gradient of 'table': rows must be >= 0 and < 4, got \[0 4\]",
        ),
        ((0.5, {"table": Rows(np.array([-1]), np.ones((1, 2)))}), r"rows must be >= 0 and < 4, got \[-1\]"),
        ((0.5, {"table": Rows(np.array([0.5]), np.ones((1, 2)))}), "'table': rows must be integers, got dtype float64"),
        (
            (0.5, {"table": Rows(np.array([0, 1]), np.ones((2, 3)))}),
            r"'table': values must have shape \(2, 2\), got \(2, 3\)",
        ),
    ],
)
def test_answers_that_do_not_fit(answer, message):
    with pytest.raises(TaskError, match=message):
        calls(Answers(answer)).gradient(np.zeros(11), EXAMPLES)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("loss_and_gradient_into", lambda made: made.gradient(np.zeros(11), EXAMPLES)),
        ("sweep", lambda made: made.sweep(np.zeros(11), EXAMPLES, 0.1, Locking())),
    ],
)
def test_losses_that_are_no_number(method, call):
    task = Answers(None)
    setattr(task, method, lambda *arguments: None)
    with pytest.raises(TaskError, match=f"the task's {method} must return one number, the loss, got None"):
        call(calls(task))


def test_measures():
    task = Answers((0.5, GOOD))
    assert calls(task).measure(np.zeros(11), EXAMPLES) == {"loss": 0.5}
    task.measure = lambda parameters, batch: {"accuracy": np.float32(0.25), "n": len(batch)}
    assert calls(task).measure(np.zeros(11), EXAMPLES) == {"accuracy": 0.25, "n": 2.0}
    task.measure = lambda parameters, batch: [1.0]
    with pytest.raises(TaskError, match=r"the task's measure must return a dict of numbers by name, got \[1.0\]"):
        calls(task).measure(np.zeros(11), EXAMPLES)
    task.measure = None
    task.answer = 0.5
    with pytest.raises(TaskError, match="loss_and_gradient must return"):
        calls(task).measure(np.zeros(11), EXAMPLES)


@pytest.mark.parametrize("metrics", [None, 0.5, {"loss": "low"}, {"loss": np.ones(2)}])
def test_metrics_that_are_no_numbers(metrics):
    with pytest.raises(TaskError, match="the task's evaluate must return a dict of numbers by name, got"):
        numbers("evaluate", metrics)


def broken_inside(*_arguments):
    return {}["nothing"]


def test_a_tasks_own_error_shows_its_own_code():
    task = Answers(None)
    task.loss_and_gradient = lambda parameters, batch: broken_inside()
    with pytest.raises(TaskError) as caught:
        calls(task).gradient(np.zeros(11), EXAMPLES)
    text = str(caught.value)
    assert text.startswith("the task's loss_and_gradient raised KeyError: 'nothing'\n")
    assert "test_task_calls.py" in text and "broken_inside" in text and 'return {}["nothing"]' in text
    assert "worker/task_calls.py" not in text
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_data_set_that_raises_is_the_tasks():
    class Short:
        def __len__(self):
            return 3

        def __getitem__(self, indices):
            raise IndexError("no such example")

    made = TaskCalls(Answers((0.5, GOOD)), as_dataset(Short()), LAYOUT)
    with pytest.raises(TaskError, match="the task's dataset raised IndexError: no such example"):
        made.gradient(np.zeros(11), EXAMPLES)


def test_our_own_errors_pass():
    def fails():
        raise TaskError("as it is")

    with pytest.raises(TaskError, match="^as it is$"):
        call_task("evaluate", fails)


def test_a_users_mistake_that_a_task_finds_is_no_crash_of_the_task():
    def fails():
        raise UsageError("difficulty: name a file")

    with pytest.raises(UsageError, match="^difficulty: name a file$"):
        call_task("difficulty", fails)


def test_an_interruption_is_no_error_of_the_task():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_task("evaluate", interrupted)


def test_views_are_kept_for_few_vectors():
    made = calls(Answers(None))
    again = np.zeros(11)
    assert made.views(again) is made.views(again)
    for _ in range(100):
        assert made.views(np.zeros(11))["w"].shape == (3,)
    assert len(made._views) < 20
