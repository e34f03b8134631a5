"""The perceptron against torch, batch normalisation in all its modes, dropout, and learning on real data."""

import numpy as np
import pytest

from ps.errors import UsageError
from worker.tasks import task_class
from worker.tasks.network import EPSILON

COMBINATIONS = [
    {"activation": activation, "batch_norm": batch_norm, "loss": loss}
    for activation in ("relu", "tanh")
    for batch_norm in (False, True)
    for loss in ("softmax", "squared")
]


def torch_twin(task, parameters):
    """The same network in torch, float64, holding the same values."""
    torch = pytest.importorskip("torch")
    modules = []
    for layer in task.layers:
        weight = parameters[f"{layer.name}.weight"]
        linear = torch.nn.Linear(*weight.shape, bias=not layer.normalise, dtype=torch.float64)
        linear.weight.data = torch.tensor(weight.T.copy())
        modules.append(linear)
        if layer.normalise:
            norm = torch.nn.BatchNorm1d(weight.shape[1], eps=EPSILON, momentum=task.averaging, dtype=torch.float64)
            values = {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "variance"}
            for theirs, ours in values.items():
                getattr(norm, theirs).data = torch.tensor(parameters[f"{layer.name}.{ours}"].copy())
            modules.append(norm)
        else:
            linear.bias.data = torch.tensor(parameters[f"{layer.name}.bias"].copy())
        if layer.activation != "none":
            modules.append(torch.nn.ReLU() if layer.activation == "relu" else torch.nn.Tanh())
    return torch.nn.Sequential(*modules)


def torch_loss(task, outputs, y):
    torch = pytest.importorskip("torch")
    if task.loss == "softmax":
        return torch.nn.functional.cross_entropy(outputs, torch.tensor(y))
    return 0.5 * ((outputs - torch.tensor(y)) ** 2).sum(1).mean()


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_loss_gradients_statistics_and_evaluation_equal_torchs(options, make, somewhere):
    torch = pytest.importorskip("torch")
    task = make("mlp", **options)
    parameters = somewhere(task)
    batch = task.dataset().take(np.arange(11))
    twin = torch_twin(task, parameters)
    inputs = torch.tensor(batch["x"].astype(np.float64))

    twin.eval()
    np.testing.assert_allclose(task.outputs(parameters, batch), twin(inputs).detach().numpy(), rtol=1e-11)
    assert task.measure(parameters, batch)["loss"] == pytest.approx(torch_loss(task, twin(inputs), batch["y"]).item())

    twin.train()
    expected = torch_loss(task, twin(inputs), batch["y"])
    expected.backward()
    loss, gradient = task.loss_and_gradient(parameters, batch)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    modules = iter(twin)
    for layer in task.layers:
        linear = next(modules)
        pairs = {"weight": linear.weight.grad.T}
        if layer.normalise:
            norm = next(modules)
            pairs |= {"scale": norm.weight.grad, "shift": norm.bias.grad}
            for name, theirs in (("mean", norm.running_mean), ("variance", norm.running_var)):
                old, observed = parameters[f"{layer.name}.{name}"], gradient[f"{layer.name}.{name}"]
                np.testing.assert_allclose(old + task.averaging * (observed - old), theirs.numpy(), rtol=1e-11)
        else:
            pairs["bias"] = linear.bias.grad
        if layer.activation != "none":
            next(modules)
        for name, theirs in pairs.items():
            ours, theirs = gradient[f"{layer.name}.{name}"], theirs.numpy()
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12, err_msg=f"{layer.name}.{name}")
            assert not np.allclose(-ours, theirs, rtol=1e-9, atol=1e-12)


def test_batch_normalisation_evaluates_with_the_running_statistics(make, somewhere):
    task = make("mlp", batch_norm=True)
    assert task.averaged == ("layer1.mean", "layer1.variance", "layer2.mean", "layer2.variance")
    parameters = somewhere(task)
    batch = task.dataset().take(np.arange(8))
    before = task.measure(parameters, batch)["loss"]
    alone = [task.measure(parameters, task.dataset().take(np.array([k])))["loss"] for k in range(8)]
    assert before == pytest.approx(np.mean(alone))  # no example sees another
    parameters["layer1.mean"] += 1.0
    assert task.measure(parameters, batch)["loss"] != pytest.approx(before)
    training = task.loss_and_gradient(parameters, batch)[0]
    parameters["layer1.mean"] += 1.0
    assert task.loss_and_gradient(parameters, batch)[0] == training  # training looks at the batch only


def test_a_batch_of_one_uses_and_keeps_the_running_statistics(make, somewhere, central_differences):
    task = make("mlp", batch_norm=True)
    parameters = somewhere(task)
    batch = task.dataset().take(np.array([3]))
    loss, gradient = task.loss_and_gradient(parameters, batch)
    assert loss == pytest.approx(task.measure(parameters, batch)["loss"])
    for name in task.averaged:
        np.testing.assert_array_equal(gradient[name], parameters[name])
    name = "layer1.weight"
    numeric = central_differences(lambda p: task.loss_and_gradient(p, batch)[0], parameters, [name])
    np.testing.assert_allclose(gradient[name], numeric[name], rtol=1e-5, atol=1e-8)
    assert np.abs(numeric[name]).max() > 1e-3


def test_dropout_masks_follow_the_replicas_generator_and_keep_the_mean(make, somewhere):
    task = make("mlp", hidden=[400], dropout=0.25)
    parameters = somewhere(task)
    batch = task.dataset().take(np.arange(4))
    losses = []
    for seed in (1, 1, 2):
        task.rng = np.random.default_rng(seed)
        losses.append(task.loss_and_gradient(parameters, batch)[0])
    assert losses[0] == losses[1] != losses[2]
    trace = task.layers[0].forward(parameters, batch["x"].astype(np.float64), np.random.default_rng(0))
    assert np.mean(trace.mask == 0) == pytest.approx(0.25, abs=0.04)
    np.testing.assert_allclose(np.unique(trace.mask), [0, 1 / 0.75])
    whole = task.layers[0].forward(parameters, batch["x"].astype(np.float64), None)
    assert whole.mask is None  # evaluation drops nothing


def test_into_writes_every_element(make, somewhere):
    task = make("mlp", batch_norm=True)
    parameters, batch = somewhere(task), task.dataset().take(np.arange(9))
    gradient = {name: np.full_like(value, np.nan) for name, value in parameters.items()}
    loss = task.loss_and_gradient_into(parameters, batch, gradient)
    again, expected = task.loss_and_gradient(parameters, batch)
    assert loss == again
    for name, value in expected.items():
        np.testing.assert_array_equal(gradient[name], value)


def test_large_logits_do_not_overflow(make, somewhere):
    task = make("mlp", hidden=[])
    parameters = somewhere(task)
    parameters["output.weight"] *= 1e4
    loss, gradient = task.loss_and_gradient(parameters, task.dataset().take(np.arange(9)))
    assert np.isfinite(loss) and loss > 100
    assert all(np.isfinite(value).all() for value in gradient.values())


@pytest.mark.parametrize(
    ("init", "activation", "expected"),
    [("auto", "relu", 2 / 300), ("auto", "tanh", 2 / 500), ("he", "tanh", 2 / 300), ("xavier", "relu", 2 / 500)],
)
def test_initial_weights_have_the_variance_of_their_scheme(init, activation, expected, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.ones((2, 300)), y=np.arange(2))
    task = task_class("mlp")(str(tmp_path / "d.npz"), hidden=[200], init=init, activation=activation)
    weight = task.parameters(np.random.default_rng(0))["layer1.weight"]
    assert weight.var() == pytest.approx(expected, rel=0.03)


def test_standardized_inputs_have_mean_0_and_deviation_1(files, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 3), dtype=np.uint8)
    x[:, 2] = 9  # a constant input must not become NaN
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(40) % 2)
    task = task_class("mlp")(str(tmp_path / "d.npz"), standardize=True, dtype="float64")
    seen = task._inputs(x, np.dtype(np.float64))
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(seen.std(0), [1, 1, 0], atol=1e-12)
    plain = task_class("mlp")(str(tmp_path / "d.npz"))
    assert plain._inputs(x, np.dtype(np.float32)).max() <= 1
    assert plain.dataset()["x"].dtype == np.uint8


@pytest.mark.parametrize(
    ("y", "given", "message"),
    [
        (np.array([0, 1, -1]), {}, "integers >= 0, got -1 in row 2"),
        (np.array([0, 1.5, 1]), {}, "got 1.5 in row 1.*loss = 'squared'"),
        (np.zeros((3, 2)), {}, "loss = 'squared'"),
        (np.array([0, 1, 10**6]), {}, "classes"),
    ],
)
def test_bad_labels_are_refused(tmp_path, y, given, message):
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), y=y)
    with pytest.raises(UsageError, match=message):
        task_class("mlp")(str(tmp_path / "d.npz"), **given)


def test_a_test_set_must_fit_the_training_set(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), y=np.arange(3))
    np.savez(tmp_path / "wide.npz", x=np.ones((3, 4)), y=np.arange(3))
    np.savez(tmp_path / "more.npz", x=np.ones((3, 2)), y=np.array([0, 7, 1]))
    with pytest.raises(UsageError, match="must have 2 inputs per example as train has, got 4"):
        task_class("mlp")(str(tmp_path / "a.npz"), str(tmp_path / "wide.npz"))
    with pytest.raises(UsageError, match="more.npz: test labels must be < 3.*got 7; set classes"):
        task_class("mlp")(str(tmp_path / "a.npz"), str(tmp_path / "more.npz"))
    np.savez(tmp_path / "real.npz", x=np.ones((3, 2)), y=np.array([0, 0.5, 1]))
    with pytest.raises(UsageError, match="real.npz: labels must be integers >= 0, got 0.5 in row 1"):
        task_class("mlp")(str(tmp_path / "a.npz"), str(tmp_path / "real.npz"))
    task = task_class("mlp")(str(tmp_path / "a.npz"), str(tmp_path / "more.npz"), classes=8)
    assert task.parameters(np.random.default_rng(0))["output.bias"].shape == (8,)
    with pytest.raises(UsageError, match="2 inputs"):
        task.load_inputs(str(tmp_path / "wide.npz"))


def test_difficulties_come_from_their_file_and_follow_the_split(tmp_path, make):
    values = np.arange(50.0)
    np.save(tmp_path / "d.npy", values)
    np.savetxt(tmp_path / "d.txt", values)
    for name in ("d.npy", "d.txt"):
        np.testing.assert_array_equal(make("mlp", difficulty=tmp_path / name).difficulty(), values)
    cut = make("mlp", difficulty=tmp_path / "d.npy", test_fraction=0.3)
    assert cut.difficulty().shape == (35,) and len(cut.dataset()) == 35
    whole = make("mlp").dataset()["x"]
    np.testing.assert_array_equal(whole[cut.difficulty().astype(int)], cut.dataset()["x"])
    np.save(tmp_path / "short.npy", values[:10])
    with pytest.raises(UsageError, match="one finite number for each"):
        make("mlp", difficulty=tmp_path / "short.npy")
    with pytest.raises(UsageError, match="difficulty = 'FILE.npy'"):
        make("mlp").difficulty()


def train(task, epochs, batch, step):
    """Plain mini-batch descent with averaged statistics, single process."""
    rng = np.random.default_rng(0)
    parameters = task.parameters(rng)
    gradient = {name: np.empty_like(value) for name, value in parameters.items()}
    for _ in range(epochs):
        order = rng.permutation(len(task.dataset()))
        for start in range(0, order.size, batch):
            task.loss_and_gradient_into(parameters, task.dataset().take(order[start : start + batch]), gradient)
            for name, value in parameters.items():
                if name in task.averaged:
                    value += np.float32(task.averaging) * (gradient[name] - value)
                else:
                    value -= np.float32(step) * gradient[name]
    return parameters


def test_learns_digits_with_batch_normalisation_and_dropout():
    task = task_class("mlp")("sklearn:digits", test_fraction=0.2, hidden=[48], batch_norm=True, dropout=0.1)
    parameters = train(task, epochs=15, batch=16, step=0.1)
    assert task.evaluate(parameters)["test_accuracy"] >= 0.96
    predicted = task.predict(parameters, task.load_inputs("sklearn:digits"))
    assert (
        predicted.shape == (1797,) and np.mean(predicted == task_class("mlp")("sklearn:digits").dataset()["y"]) > 0.97
    )


def test_outputs_of_a_classifier(make, somewhere):
    task = make("mlp")
    parameters, inputs = somewhere(task), task.dataset().arrays()
    scores, probabilities = (task.predict(parameters, inputs, name) for name in ("score", "probability"))
    assert scores.shape == probabilities.shape == (50, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.diff(np.log(probabilities)), np.diff(scores), rtol=1e-9)
    labels = task.predict(parameters, inputs, "label")
    assert labels.tolist() == task.predict(parameters, inputs).tolist() == probabilities.argmax(1).tolist()


def test_a_regression_has_scores_only(make, somewhere):
    task = make("mlp", loss="squared")
    parameters, inputs = somewhere(task), task.dataset().arrays()
    np.testing.assert_array_equal(task.predict(parameters, inputs, "score"), task.predict(parameters, inputs))
    for output in ("label", "probability"):
        with pytest.raises(ValueError, match=f"loss = 'squared' cannot predict output = '{output}'; it can: score"):
            task.predict(parameters, inputs, output)


def test_baselines_know_the_training_targets_only(make):
    task = make("mlp", test_fraction=0.4)
    most = np.bincount(task.dataset()["y"]).argmax()
    whole, trained = np.bincount(make("mlp").dataset()["y"]), np.bincount(task.dataset()["y"])
    assert task.baseline() == {"test_accuracy": pytest.approx((whole - trained)[most] / 20)}
    assert make("mlp").baseline() == {}
    reals = make("mlp", loss="squared", test_fraction=0.4)
    everything = make("mlp", loss="squared").dataset()["y"]
    held_out = np.array([row for row in everything if not (reals.dataset()["y"] == row).all(1).any()])
    expected = np.sqrt(np.mean((held_out - reals.dataset()["y"].mean(0)) ** 2))
    assert reals.baseline() == {"test_rmse": pytest.approx(expected)}


def test_learns_a_regression():
    task = task_class("mlp")("sklearn:diabetes", test_fraction=0.2, loss="squared", hidden=[16], standardize=True)
    parameters = train(task, epochs=30, batch=16, step=0.0005)
    targets = task._test["y"]
    assert task.evaluate(parameters)["test_rmse"] < 0.85 * targets.std()
    assert task.predict(parameters, task._test.arrays()).shape == targets.shape


def test_learns_fashion_mnist(shared_data):
    folder = str(shared_data("fashion-mnist"))
    task = task_class("mlp")(folder, folder)
    parameters = train(task, epochs=1, batch=64, step=0.1)
    assert sum(value.size for value in parameters.values()) == 235_146
    assert task.evaluate(parameters)["test_accuracy"] >= 0.80


def test_predictions_go_by_the_columns_names_and_need_no_target(tmp_path):
    (tmp_path / "train.csv").write_text("a,b,class\n0,9,0\n0,8,0\n9,0,1\n8,1,1\n")
    task = task_class("mlp")(str(tmp_path / "train.csv"), hidden=[])
    parameters = {"output.weight": np.array([[-1, 1], [1, -1]], np.float32), "output.bias": np.zeros(2, np.float32)}
    for text in ("a,b\n1,7\n6,2\n", "b,a\n7,1\n2,6\n", "1,7\n6,2\n", "1,7,5\n6,2,5\n"):
        (tmp_path / "new.csv").write_text(text)
        assert task.predict(parameters, task.load_inputs(str(tmp_path / "new.csv"))).tolist() == [0, 1]
    (tmp_path / "new.csv").write_text("1\n6\n")
    with pytest.raises(ValueError, match="must have 2 inputs per example as train has, got 1"):
        task.load_inputs(str(tmp_path / "new.csv"))
