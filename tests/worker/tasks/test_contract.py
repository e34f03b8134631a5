"""What holds for every built-in task: gradients, batches, shared arrays, dtypes, pickling, description."""

import pickle

import numpy as np
import pytest

from ps.layout import Layout
from worker.data.dataset import as_dataset
from worker.data.sparsity import sparsity
from worker.task import Task, check_task
from worker.tasks import TASKS, describe, one_line, options, task_class

TASKS_UNDER_TEST = [
    ("sparse_linear", {"loss": "hinge", "bias": False}),
    ("sparse_linear", {"loss": "logistic"}),
    ("sparse_linear", {"loss": "squared", "l2": 0.0}),
    ("matrix_completion", {"biases": False}),
    ("matrix_completion", {"biases": True, "mean": False}),
    ("graph_cuts", {}),
    ("mlp", {}),
    ("mlp", {"activation": "tanh", "dropout": 0.4, "standardize": True}),
    ("mlp", {"batch_norm": True}),
    ("mlp", {"batch_norm": True, "activation": "tanh", "loss": "squared", "dropout": 0.3, "scale": 0.5}),
    ("mlp", {"hidden": [], "loss": "squared"}),
]


@pytest.fixture(params=TASKS_UNDER_TEST, ids=lambda row: "-".join([row[0], *map(str, row[1].values())]))
def task(request, make):
    return make(request.param[0], **request.param[1])


def batch_of(task, count=9):
    examples = np.random.default_rng(3).permutation(len(task.dataset()))[:count]
    return task.dataset().take(examples)


def fixed_loss(task, batch):
    """Loss and gradient with the same dropout masks at every call."""

    def call(parameters):
        task.rng = np.random.default_rng(5)
        return task.loss_and_gradient(parameters, batch)

    return call


def test_gradients_are_the_slopes_of_the_loss(task, somewhere, central_differences, dense):
    parameters, batch = somewhere(task), batch_of(task)
    call = fixed_loss(task, batch)
    _, gradient = call(parameters)
    trained = [name for name in parameters if name not in getattr(task, "averaged", ())]
    numeric = central_differences(lambda p: call(p)[0], parameters, trained)
    for name in trained:
        found = dense(gradient[name], parameters[name])
        assert np.abs(numeric[name]).max() > 1e-4, "a zero gradient proves nothing"
        np.testing.assert_allclose(found, numeric[name], rtol=2e-5, atol=2e-8, err_msg=name)
        assert not np.allclose(-found, numeric[name], rtol=2e-5, atol=2e-8), "a flipped sign must not pass"


# With batch statistics or dropout the examples of a batch are not independent.
INDEPENDENT = [(name, given) for name, given in TASKS_UNDER_TEST if not {"batch_norm", "dropout"} & set(given)]


@pytest.mark.parametrize(("name", "given"), INDEPENDENT)
def test_loss_is_the_mean_over_the_batch(name, given, make, somewhere):
    task = make(name, **given)
    parameters, data = somewhere(task), task.dataset()
    examples = np.arange(6)
    alone = [task.loss_and_gradient(parameters, data.take(examples[k : k + 1]))[0] for k in range(6)]
    together, _ = task.loss_and_gradient(parameters, data.take(examples))
    assert together == pytest.approx(np.mean(alone), rel=1e-12)


def test_parameters_are_only_read(task, somewhere):
    parameters = somewhere(task)
    before = {name: value.copy() for name, value in parameters.items()}
    for value in parameters.values():
        value.flags.writeable = False
    batch = batch_of(task)
    task.loss_and_gradient(parameters, batch)
    task.measure(parameters, batch)
    task.evaluate(parameters)
    for name in before:
        np.testing.assert_array_equal(parameters[name], before[name])


def test_the_checker_and_the_layout_accept_it(task):
    assert isinstance(task, Task)
    assert np.isfinite(check_task(task))
    parameters = task.parameters(np.random.default_rng(0))
    layout = Layout.of(parameters, averaged=getattr(task, "averaged", ()), sparse=getattr(task, "sparse", ()))
    views = layout.views(layout.flatten(parameters))
    loss, _ = fixed_loss(task, batch_of(task))(views)
    assert loss == fixed_loss(task, batch_of(task))(parameters)[0]


def test_one_seed_one_start(task):
    first, again, other = (task.parameters(np.random.default_rng(seed)) for seed in (4, 4, 5))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    if type(task).__name__ in ("MLP", "MatrixCompletion"):
        assert any((first[name] != other[name]).any() for name in first)


def test_works_the_same_on_copies_of_its_arrays_and_after_pickling(task, somewhere):
    parameters, batch = somewhere(task), batch_of(task)
    before, evaluation = fixed_loss(task, batch)(parameters)[0], task.evaluate(parameters)
    data = as_dataset(task.dataset())
    data.replace({name: array.copy() for name, array in data.arrays().items()})
    assert fixed_loss(task, batch_of(task))(parameters)[0] == before
    moved = pickle.loads(pickle.dumps(task))
    assert fixed_loss(moved, batch_of(moved))(parameters)[0] == before
    assert moved.evaluate(parameters) == pytest.approx(evaluation)


def test_measures_and_evaluations_are_finite_numbers(task, somewhere):
    parameters = somewhere(task)
    measured = task.measure(parameters, batch_of(task))
    assert "loss" in measured
    for value in [*measured.values(), *task.evaluate(parameters).values()]:
        assert type(value) is float and np.isfinite(value)


def test_float32_stays_float32(make, dense):
    for name in TASKS:
        task = make(name, dtype="float32")
        parameters = task.parameters(np.random.default_rng(0))
        loss, gradient = task.loss_and_gradient(parameters, batch_of(task))
        assert type(loss) is float
        for key, value in parameters.items():
            assert value.dtype == np.float32
            assert dense(gradient[key], value).dtype == np.float32


def test_a_nan_is_seen_in_the_loss(task, somewhere):
    parameters = somewhere(task)
    for name, value in parameters.items():
        if name not in getattr(task, "averaged", ()):
            value[...] = np.nan
    assert not np.isfinite(task.loss_and_gradient(parameters, batch_of(task))[0])


@pytest.mark.parametrize("name", TASKS)
def test_descriptions_name_every_option(name):
    text = describe(name)
    assert one_line(name) in text and one_line(name).endswith(".")
    for option in options(task_class(name)):
        assert f"      {option}:" in text or f"  {option}:" in text, f"{option} is not explained"
        assert f"{option} = " in text
    assert set(task_class(name).paths) <= set(options(task_class(name)))


@pytest.mark.parametrize("name", TASKS)
def test_missing_files_are_named(name, files):
    options_ = {"train": str(files / "nothing.svm")} | ({"terminals": "t"} if name == "graph_cuts" else {})
    with pytest.raises(ValueError, match="nothing.svm"):
        task_class(name)(**options_)


@pytest.mark.parametrize("name", ["sparse_linear", "matrix_completion", "mlp"])
def test_a_part_of_the_file_is_held_out(name, make):
    whole, cut = make(name), make(name, test_fraction=0.2)
    assert len(cut.dataset()) == len(whole.dataset()) - round(0.2 * len(whole.dataset()))
    start = cut.parameters(np.random.default_rng(0))
    assert any(key.startswith("test_") for key in cut.evaluate(start))
    assert not any(key.startswith("test_") for key in whole.evaluate(whole.parameters(np.random.default_rng(0))))
    with pytest.raises(ValueError, match="either a test file or test_fraction"):
        make(name, test_fraction=0.2, test="x")


BAD_OPTIONS = [
    ("sparse_linear", {"loss": "hinges"}, "did you mean 'hinge'"),
    ("sparse_linear", {"l2": -1.0}, "l2 must be >= 0, got -1.0"),
    ("sparse_linear", {"l2": float("nan")}, "finite"),
    ("sparse_linear", {"bias": 1}, "true or false"),
    ("sparse_linear", {"positive": "1"}, "positive must be a finite number"),
    ("sparse_linear", {"positive": 2}, "positive must be one of the labels of .*, -1 and 1, got 2"),
    ("sparse_linear", {"features": 3}, "features must be an integer >= 25"),
    ("sparse_linear", {"index_base": 2}, "index_base must be 0 or 1"),
    ("sparse_linear", {"dtype": "float16"}, "float32, float64"),
    ("sparse_linear", {"test_fraction": 1.0}, r"in \[0, 1\)"),
    ("matrix_completion", {"rank": 0}, "rank must be an integer >= 1, got 0"),
    ("matrix_completion", {"rank": 2.0}, "rank must be an integer"),
    ("matrix_completion", {"init": 0}, "init must be > 0"),
    ("matrix_completion", {"split_seed": -1}, "split_seed"),
    ("graph_cuts", {"dtype": 32}, "float32, float64"),
    ("mlp", {"hidden": 256}, r"list of layer sizes such as \[256, 128\], got 256"),
    ("mlp", {"hidden": [3, 0]}, "hidden"),
    ("mlp", {"dropout": 1.0}, "dropout"),
    ("mlp", {"activation": "rleu"}, "did you mean 'relu'"),
    ("mlp", {"averaging": 0}, "averaging"),
    ("mlp", {"classes": 2}, "classes must be an integer >= 3"),
    ("mlp", {"scale": "1/255"}, "scale must be a finite number"),
    ("mlp", {"loss": "crossentropy"}, "softmax, squared"),
]


@pytest.mark.parametrize(("name", "bad", "message"), BAD_OPTIONS, ids=[f"{n}-{b}" for n, b, _ in BAD_OPTIONS])
def test_options_out_of_bounds_are_refused(name, bad, message, make):
    with pytest.raises(ValueError, match=message) as caught:
        make(name, **bad)
    assert str(caught.value).startswith(name)


def test_tasks_say_how_sparse_they_are(make):
    task = make("sparse_linear")
    data = task.dataset()
    assert task.sparsity() == sparsity(data.indptr, data.indices)
    ratings = make("matrix_completion")
    users, items = ratings.dataset()["user"], ratings.dataset()["item"]
    found = ratings.sparsity()
    assert found.omega == 2
    assert found.delta == max(np.bincount(users).max(), np.bincount(items).max()) / users.size
    assert found.rho == max(((users == u) | (items == v)).sum() for u, v in zip(users, items, strict=True)) / users.size
    assert make("graph_cuts").sparsity().omega == 2
