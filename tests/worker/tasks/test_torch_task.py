"""Modules of PyTorch as tasks: gradients, buffers, batches, data sets, devices. Runs of jobs are in tests/deploy."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest

import hogshead
from ps.errors import DataError, UsageError
from ps.layout import Layout
from ps.rows import Rows
from ps.rules import build_rule
from worker.gradients import LocalStep
from worker.task import Task, check_task

torch = pytest.importorskip("torch", reason="a task in PyTorch; pip install 'hogshead[torch]'")
nn, F = torch.nn, torch.nn.functional

from .networks import (  # noqa: E402
    CLASSES,
    EXAMPLES,
    FEATURES,
    Network,
    Squares,
    Words,
    batch_of,
    by_name,
    data,
    linear,
    network,
    start,
    words_data,
)

# -- gradients --------------------------------------------------------------------------------------------------------


def test_it_is_a_task_that_the_checker_accepts():
    task = Network()
    assert isinstance(task, Task) and np.isfinite(check_task(task))
    assert task.averaged == ("1.running_mean", "1.running_var") and task.sparse == ()
    assert set(start(task)) - set(task.averaged) == {"0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"}


def test_gradients_are_the_slopes_of_the_loss(central_differences):
    task = Network(double=True, dropout=0.3)
    parameters, batch = start(task), batch_of(task)

    def loss(values):
        task.rng = np.random.default_rng(5)
        return task.loss_and_gradient(values, batch)[0]

    trained = [name for name in parameters if name not in task.averaged]
    numeric = central_differences(loss, parameters, trained)
    task.rng = np.random.default_rng(5)
    _, found = task.loss_and_gradient(parameters, batch)
    for name in trained:
        if name != "0.bias":  # batch normalisation takes it out again
            assert np.abs(numeric[name]).max() > 1e-4
        np.testing.assert_allclose(found[name], numeric[name], rtol=1e-5, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("momentum", [0.1, 0.35, None])
@pytest.mark.parametrize(
    "optimizer", [{"name": "torch.Adam", "lr": 0.02}, {"name": "torch.SGD", "lr": 0.1, "momentum": 0.9}]
)
def test_trained_on_a_replica_as_by_pytorch_itself(momentum, optimizer):
    """Twenty steps: parameters, and batch normalisation's running statistics with its own momentum, and the state_dict."""

    def make():
        module = network()
        module[1].momentum = momentum
        return module

    cls = hogshead.torch_task(make, F.cross_entropy, data)
    task = cls()
    layout = Layout.of(start(task), averaged=task.averaged)
    parameters = layout.flatten(start(task))
    reference = make()
    reference.load_state_dict(cls.export({}, layout.views(parameters)))
    local = LocalStep(layout, build_rule(optimizer), task.averaging)
    options = {key: value for key, value in optimizer.items() if key != "name"}
    by_torch = getattr(torch.optim, optimizer["name"][6:])(reference.parameters(), **options)
    x, y = (column for column in data())
    gradient = np.empty_like(parameters)
    for step in range(20):
        chosen = np.random.default_rng(step).permutation(EXAMPLES)[:8]
        loss = task.loss_and_gradient_into(
            layout.views(parameters), task.dataset().take(chosen), layout.views(gradient)
        )
        local.apply(parameters, gradient)
        by_torch.zero_grad()
        expected = F.cross_entropy(reference(x[chosen].float()), y[chosen])
        expected.backward()
        by_torch.step()
        assert loss == pytest.approx(expected.item(), rel=1e-5)
    exported, wanted = cls.export({}, layout.views(parameters)), reference.state_dict()
    assert list(exported) == list(wanted)
    for name, value in wanted.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(exported[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.allclose(wanted["0.weight"], cls.export({}, start(task))["0.weight"], atol=1e-3)


def test_parameters_are_only_read_and_lent_without_copies():
    task = Network()
    parameters = start(task)
    before = copy.deepcopy(parameters)
    for value in parameters.values():
        value.flags.writeable = False
    task.loss_and_gradient(parameters, batch_of(task))
    assert all(
        tensor.data_ptr() == parameters[name].ctypes.data for name, tensor in task._model.module.named_parameters()
    )
    task.measure(parameters, batch_of(task))
    task.evaluate(parameters)
    for name, value in before.items():
        np.testing.assert_array_equal(parameters[name], value)


def test_a_batch_of_one_uses_the_running_statistics():
    task = Network()
    parameters = start(task)
    loss, gradient = task.loss_and_gradient(parameters, batch_of(task, 1))
    assert np.isfinite(loss)
    np.testing.assert_array_equal(gradient["1.running_var"], parameters["1.running_var"])
    _, gradient = task.loss_and_gradient(parameters, batch_of(task, 5))
    assert np.abs(gradient["1.running_var"] - parameters["1.running_var"]).min() > 1e-4, "training mode is back"


@pytest.mark.parametrize("staged", [False, True])
def test_a_parameter_that_a_batch_does_not_use_has_no_gradient(staged):
    """Whatever lay where its gradient is written."""
    from worker.tasks.torch_device import OnAccelerator

    class Idle(nn.Linear):
        def __init__(self):
            super().__init__(FEATURES, CLASSES)
            self.idle = nn.Parameter(torch.ones(CLASSES))

        def forward(self, x):
            return super().forward(x) * (self.idle if len(x) > 5 else 1)

    task = hogshead.torch_task(Idle, F.cross_entropy, Squares)()
    if staged:
        task._placement = OnAccelerator(task._model, torch.device("cpu"))
    parameters = start(task)
    gradient = {name: np.full_like(value, np.nan) for name, value in parameters.items()}
    task.loss_and_gradient_into(parameters, task.dataset().take(np.arange(6)), gradient)
    assert np.abs(gradient["idle"]).max() > 0
    task.loss_and_gradient_into(parameters, task.dataset().take(np.arange(5)), gradient)
    assert (gradient["idle"] == 0).all() and np.abs(gradient["weight"]).max() > 0


def test_what_a_module_draws_comes_from_the_replicas_generator():
    task = Network(dropout=0.5, norm=False)
    parameters, batch = start(task), batch_of(task)

    def losses(seed):
        task.rng = np.random.default_rng(seed)
        return [task.loss_and_gradient(parameters, batch)[0] for _ in range(3)]

    first = losses(5)
    torch.manual_seed(99)
    assert losses(5) == first and losses(6) != first and len(set(first)) == 3


def test_one_seed_one_start():
    task = Network()
    first, again, other = start(task, 4), start(task, 4), start(task, 5)
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["0.weight"] != other["0.weight"]).all()
    assert (start(Network(), 4)["0.weight"] == first["0.weight"]).all()


def test_the_seed_of_the_user_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    start(Network())
    assert torch.rand(1) == expected


def test_sparse_embeddings_give_rows_and_frozen_parameters_nothing(dense):
    sparse = hogshead.torch_task(Words, F.cross_entropy, words_data)()
    whole = hogshead.torch_task(Words, F.cross_entropy, words_data)(sparse=False)
    assert sparse.sparse == ("words.weight", "bags.weight") and whole.sparse == ()
    assert not hasattr(sparse, "loss_and_gradient_into") and hasattr(whole, "loss_and_gradient_into")
    assert set(start(sparse)) == {"words.weight", "bags.weight", "out.weight", "out.bias", "seen"}
    parameters, batch = start(sparse), batch_of(sparse, 4)
    loss, found = sparse.loss_and_gradient(parameters, batch)
    expected_loss, expected = whole.loss_and_gradient(parameters, batch)
    assert loss == expected_loss and isinstance(found["words.weight"], Rows) and found["words.weight"].size <= 8
    for name, entry in expected.items():
        np.testing.assert_allclose(dense(found[name], parameters[name]), entry, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(found["seen"], [1 / sparse.averaging, 0], err_msg="moves the average by what was added")
    assert np.isfinite(check_task(sparse))


# -- data -------------------------------------------------------------------------------------------------------------


class Noisy(torch.utils.data.Dataset):
    """Items drawn at random from three generators, as augmentation does."""

    def __len__(self):
        return EXAMPLES

    def __getitem__(self, index):
        noise = torch.rand(FEATURES) + random.random() + np.random.rand()
        return {"x": noise, "y": index % CLASSES}


def test_items_are_drawn_from_the_replicas_generator():
    cls = hogshead.torch_task(linear, lambda output, batch: F.cross_entropy(output, batch["y"]), Noisy, forward=by_name)
    task = cls()
    assert np.isfinite(check_task(task)) and task.dataset().arrays() == {}

    def draw(seed):
        task.rng = np.random.default_rng(seed)
        return task.dataset().take(np.arange(3))["x"]

    assert (draw(1) == draw(1)).all() and (draw(1) != draw(2)).any()


def test_preloaded_items_are_shared_arrays():
    loaded = hogshead.torch_task(linear, F.cross_entropy, Squares, preload=True)()
    asked = hogshead.torch_task(linear, F.cross_entropy, Squares)()
    arrays = loaded.dataset().arrays()
    assert [array.shape for array in arrays.values()] == [(EXAMPLES, FEATURES), (EXAMPLES,)]
    parameters, chosen = start(asked), np.array([7, 3, 8])
    losses = [task.loss_and_gradient(parameters, task.dataset().take(chosen))[0] for task in (loaded, asked)]
    assert losses[0] == losses[1] > 0


def test_subsets_fetch_together():
    class Together(Squares):
        def __getitems__(self, indices):
            return [super(Together, self).__getitem__(index) for index in indices]

        def __getitem__(self, index):
            raise AssertionError("one by one")

    task = hogshead.torch_task(linear, F.cross_entropy, torch.utils.data.Subset(Together(), range(20)))()
    x, y = task.dataset().take(np.array([19, 2]))
    assert x[:, 0].tolist() == [19, 2] and y.tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["tensors", "list", "TensorDataset", "arrays", "dict", "one"])
def test_tensors_become_arrays_without_copies(kind):
    x, y = data()
    loss, forward = F.cross_entropy, None
    source = {
        "tensors": (x, y), "list": [x, y], "TensorDataset": torch.utils.data.TensorDataset(x, y),
        "arrays": (x.numpy(), y.numpy()), "dict": {"x": x, "y": y}, "one": x,
    }[kind]  # fmt: skip
    if kind == "dict":
        loss, forward = (lambda output, batch: F.cross_entropy(output, batch["y"])), by_name
    if kind == "one":  # the batch is both: an autoencoder's loss
        loss = lambda output, batch: ((output - batch[:, :CLASSES]) ** 2).mean()  # noqa: E731
    task = hogshead.torch_task(linear, loss, source, forward=forward)()
    arrays = list(task.dataset().arrays().values())
    assert arrays[0].ctypes.data == x.data_ptr()
    assert np.isfinite(check_task(task))


def test_evaluation_is_the_mean_over_the_whole_test_set(monkeypatch):
    task = Network(dropout=0.5)
    parameters = start(task)
    whole = task.evaluate(parameters)
    monkeypatch.setattr("worker.tasks.made_task.EVALUATION_BATCH", 7)
    assert task.evaluate(parameters) == pytest.approx(whole)
    module = network(dropout=0.5)
    module.load_state_dict(Network.export({"dropout": 0.5}, parameters))
    x, y = data(1)
    output = module.eval()(x.float())
    assert whole["test_loss"] == pytest.approx(F.cross_entropy(output, y).item(), rel=1e-5)
    assert whole["test_accuracy"] == pytest.approx((output.argmax(1) == y).float().mean().item())
    np.testing.assert_array_equal(task.predict(parameters, x), output.argmax(1).numpy())


def test_inputs_to_predict_are_read_from_files(tmp_path):
    x = data(1)[0].numpy()
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    task = Network()
    for name in ("x.npy", "x.npz"):
        np.testing.assert_array_equal(task.load_inputs(str(tmp_path / name)), x)
    with pytest.raises(DataError, match="nothing.npy: must be a .npy"):
        task.load_inputs(str(tmp_path / "nothing.npy"))
    own = hogshead.torch_task(linear, F.cross_entropy, Squares, load_inputs=lambda path: path[::-1])
    assert own().load_inputs("abc") == "cba"


# -- a device with memory of its own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Network(), lambda: hogshead.torch_task(Words, F.cross_entropy, words_data)()])
def test_staged_to_a_device_it_computes_the_same(make, monkeypatch, dense):
    """The CPU stands for the device: the same transfers, without streams and pinned memory."""
    from worker.tasks import torch_device

    here, there = make(), make()
    monkeypatch.setattr(torch_device, "PIECE_BYTES", 64)
    there._placement = torch_device.OnAccelerator(there._model, torch.device("cpu"))
    for seed in (1, 2):
        parameters, batch = start(here, seed), batch_of(here)
        (loss, gradient), (other_loss, other) = (task.loss_and_gradient(parameters, batch) for task in (here, there))
        assert loss == other_loss and set(gradient) == set(other)
        for name, entry in gradient.items():
            np.testing.assert_array_equal(
                dense(entry, parameters[name]), dense(other[name], parameters[name]), err_msg=name
            )
        assert here.measure(parameters, batch) == there.measure(parameters, batch)
    bound = {tensor.data_ptr() for tensor in there._model.trained.values()}
    assert not bound & {value.ctypes.data for value in parameters.values()}, "it has memory of its own"


def test_devices(monkeypatch):
    from worker.tasks import torch_device

    assert torch_device.choose_device("auto").type == "cpu" or torch_device.cuda_devices()
    monkeypatch.setattr(torch_device, "cuda_devices", lambda: 2)
    assert [str(torch_device.choose_device(name, 3)) for name in ("auto", "cuda", "cpu", "cuda:0")] == [
        "cuda:1", "cuda:1", "cpu", "cuda:0",
    ]  # fmt: skip
    assert Network().isolated
    for name, message in [
        ("cuda:2", "finds 2 CUDA devices"),
        ("gpu", "must be 'auto'"),
        ("meta", "on the CPU or on CUDA"),
    ]:
        with pytest.raises(UsageError, match=message):
            torch_device.choose_device(name)
    monkeypatch.setattr(torch_device, "cuda_devices", lambda: 0)
    with pytest.raises(UsageError, match="finds 0 CUDA devices"):
        Network(device="cuda").before_forking()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UsageError, match="CUDA has been used in this process already"):
        Network().before_forking()
