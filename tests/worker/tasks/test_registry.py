"""Tasks by name, users' tasks from files, and the checker of what they return."""

import subprocess
import sys

import numpy as np
import pytest

from ps.errors import TaskError, UsageError
from ps.rows import Rows
from worker import task as page
from worker.task import check_task
from worker.tasks import TASKS, describe, one_line, options, task_class

GOOD = """
import numpy as np

class MyTask:
    def __init__(self, noise: float = 0.1):
        self.x = np.eye(4)

    def parameters(self, rng):
        return {"w": np.zeros(4, np.float32)}

    def dataset(self):
        return self.x, np.arange(4.0)

    def loss_and_gradient(self, parameters, batch):
        x, y = batch
        gap = x @ parameters["w"] - y
        return 0.5 * np.mean(gap ** 2), {"w": x.T @ gap / len(y)}

    def evaluate(self, parameters):
        return {}
"""


def test_every_name_loads_and_describes_itself():
    for name in TASKS:
        assert isinstance(task_class(name), type)
        assert one_line(name) and describe(name).startswith(f"{name}: ")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'sparse_linear'.*file.py:ClassName"):
        task_class("sparse_liner")


def test_listing_tasks_imports_none_of_them():
    code = "import sys, worker.tasks; sys.exit('numba' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_users_task_is_loaded_from_its_path(tmp_path):
    (tmp_path / "worker.py").write_text(GOOD)  # a name of ours: it must hide nothing
    path_before = list(sys.path)
    cls = task_class("worker.py:MyTask", tmp_path)
    assert sys.path == [*path_before, str(tmp_path)] and sys.modules["worker"].__name__ == "worker"
    assert cls.__module__.startswith("hogshead_user_") and list(options(cls)) == ["noise"]
    assert check_task(cls()) == pytest.approx(0.5 * np.mean(np.arange(4.0) ** 2))
    assert task_class(f"{tmp_path}/worker.py:MyTask") is cls  # unchanged: the same class
    (tmp_path / "worker.py").write_text(GOOD + "\n# changed\n")
    assert task_class("worker.py:MyTask", tmp_path) is not cls


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.py:MyTask", None, "there is no file .*gone.py; a relative path is relative to the job file"),
        ("t.py", GOOD, "the name of the class is missing"),
        ("t.py:My Task", GOOD, "the name of the class is missing"),
        ("t.py:MyTsk", GOOD, "has no 'MyTsk'; did you mean 'MyTask'"),
        ("t.py:number", GOOD + "number = 3\n", "must be a class, got int"),
        (
            "t.py:MyTask",
            "class MyTask:\n    def dataset(self): pass\n",
            "lacks the methods parameters, loss_and_gradient, evaluate",
        ),
        ("t.py:MyTask", "import numpy\nclass MyTask(:\n", r"t.py, line 2, column 14"),
        ("t.py:MyTask", "import numpy\n\nimport nothing_of_this_name\n", "failed in line 3: ModuleNotFoundError"),
        ("t.py:MyTask", "def f():\n    return 1 / 0\nf()\n", "failed in line 2: ZeroDivisionError"),
    ],
)
def test_a_users_mistakes_are_said_with_their_place(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / "t.py").write_text(content)
    with pytest.raises(UsageError, match=message):
        task_class(name, tmp_path)


def test_the_example_of_the_documentation_runs(tmp_path):
    lines = page.__doc__.split("::\n\n", 1)[1].split("\n\nFour methods", 1)[0]
    (tmp_path / "mine.py").write_text("\n".join(line[4:] for line in lines.split("\n")))
    cls = task_class("mine.py:MyTask", tmp_path)
    task = cls(noise=0.0)
    assert check_task(task) > 0
    assert task.evaluate({"w": np.arange(5.0)})["rmse"] == pytest.approx(0, abs=1e-12)


class Broken:
    """A task whose parts are replaced one by one."""

    sparse = ("table",)
    averaged = ("mean",)

    def parameters(self, rng):
        return {"w": np.ones(3, np.float32), "table": np.ones((4, 2), np.float32), "mean": np.ones(2, np.float32)}

    def dataset(self):
        return np.arange(5.0)

    def loss_and_gradient(self, parameters, batch):
        rows = Rows(np.array([1, 3]), np.ones((2, 2), np.float32))
        return 1.0, {"w": np.ones(3, np.float32), "table": rows, "mean": np.zeros(2, np.float32)}

    def evaluate(self, parameters):
        return {}


def changed(**entries):
    """loss_and_gradient with some gradients replaced; None takes one out."""

    def loss_and_gradient(self, parameters, batch):
        loss, gradient = Broken.loss_and_gradient(self, parameters, batch)
        return loss, {key: value for key, value in (gradient | entries).items() if value is not None}

    return {"loss_and_gradient": loss_and_gradient}


def answer(value):
    return {"loss_and_gradient": lambda self, parameters, batch: value}


BROKEN = [
    ({"parameters": lambda self, rng: {}}, "at least one entry"),
    ({"parameters": lambda self, rng: [1]}, "dict of name to array"),
    ({"parameters": lambda self, rng: {"w": np.ones(3, int)}}, "'w' must be an array of float32 or float64"),
    ({"parameters": lambda self, rng: {"w": np.array([np.nan])}}, "'w' must be finite"),
    ({"parameters": lambda self, rng: {"w": np.ma.masked_equal(np.arange(3.0), 1)}}, "'w' must not be a masked array"),
    (changed(w=np.ma.masked_equal(np.arange(3.0), 1)), "gradient of 'w' must not be a masked array"),
    (
        answer((float("nan"), {})) | {"dataset": lambda self: np.array([0, 1, np.nan])},
        "got nan .*: example 2 of the data .* has nan",
    ),
    ({"sparse": ("tabel",)}, "sparse names 'tabel', which is no parameter"),
    ({"averaged": ("meen",)}, "averaged names 'meen'"),
    (answer(1.0), r"must return \(loss, dict of gradients\), got float"),
    (answer((1.0, [1])), r"must return \(loss, dict of gradients\)"),
    (answer((np.ones(2), {})), "the loss must be one number"),
    (answer((float("nan"), {})), "the loss must be finite, got nan"),
    (changed(w=None), "missing: w, unknown: none"),
    (changed(v=np.ones(3)), "missing: none, unknown: v"),
    (changed(w=np.ones(4)), r"'w' must be an array of shape \(3,\), got an array of shape \(4,\)"),
    (changed(w=[1, 2, 3]), "got list"),
    (changed(w=np.array([1, np.inf, 1])), "'w' is not finite"),
    (changed(table=np.ones((4, 2))), r"must be Rows\(rows, values\), got an array"),
    (changed(table=Rows(np.array([1, 4]), np.ones((2, 2)))), r"must be in \[0, 4\), got 1 to 4"),
    (changed(table=Rows(np.array([1.0]), np.ones((1, 2)))), "must be integers"),
    (changed(table=Rows(np.array([1]), np.ones((1, 3)))), r"must be \(1, 2\), got \(1, 3\)"),
    (changed(table=Rows(np.array([1]), np.full((1, 2), np.nan))), "'table' is not finite"),
]


def test_the_unbroken_one_passes():
    assert check_task(Broken()) == 1.0


@pytest.mark.parametrize(("members", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_what_does_not_fit_is_said(members, message):
    broken = type("Broken", (Broken,), members)()
    with pytest.raises(TaskError, match=message):
        check_task(broken)


def test_into_is_checked_too():
    class Into:
        def parameters(self, rng):
            return {"w": np.ones(3)}

        def dataset(self):
            return np.arange(3.0)

        def evaluate(self, parameters):
            return {}

        def loss_and_gradient(self, parameters, batch):
            return 1.0, {"w": np.ones(3)}

        def loss_and_gradient_into(self, parameters, batch, gradient):
            gradient["w"][:] = np.nan
            return 1.0

    with pytest.raises(TaskError, match="'w' is not finite"):
        check_task(Into())


def test_a_bad_data_set_is_refused():
    with pytest.raises(UsageError, match="list"):
        check_task(type("Lists", (Broken,), {"dataset": lambda self: [1, 2]})())
