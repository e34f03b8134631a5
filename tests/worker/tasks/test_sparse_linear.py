"""Labels, ties, the bias, metrics and predictions of the sparse linear task."""

from fractions import Fraction

import numpy as np
import pytest

from worker.locking import Locking
from worker.tasks import task_class
from worker.tasks.ranking import auc


@pytest.fixture
def linear(tmp_path):
    """``linear(train text, test text, loss="squared")``: a task on files of these lines, in float64."""

    def linear(train, test=None, **options):
        (tmp_path / "train.svm").write_text(train)
        if test is not None:
            (tmp_path / "test.svm").write_text(test)
            options["test"] = str(tmp_path / "test.svm")
        return task_class("sparse_linear")(str(tmp_path / "train.svm"), **({"dtype": "float64"} | options))

    return linear


@pytest.fixture
def inputs(tmp_path):
    """``inputs(task, text)``: what the task reads from a file of that text."""

    def inputs(task, text):
        (tmp_path / "new.svm").write_text(text)
        return task.load_inputs(str(tmp_path / "new.svm"))

    return inputs


def train(task, step=0.3, epochs=30):
    parameters = task.parameters(np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        task.sweep(parameters, rng.permutation(len(task.dataset())), step * 0.9**epoch, Locking())
    return parameters


def two_classes(low, high, count=20):
    """Lines of which feature 1 has the label ``low`` and feature 2 the label ``high``."""
    return "".join(f"{(low, high)[k % 2]} {1 + k % 2}:1\n" for k in range(count))


@pytest.mark.parametrize(("low", "high"), [("-1", "+1"), ("0", "1"), ("1", "2"), ("3", "7"), ("0.1", "0.25")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_labels_of_any_value_are_learned_and_given_back(linear, inputs, low, high, dtype):
    task = linear(two_classes(low, high), l2=0.1, dtype=dtype)
    parameters = train(task)
    new = inputs(task, "0 2:1\n0 1:1\n0 2:3 77:5\n")  # feature 77 is unknown and counts nothing
    assert task.predict(parameters, new).tolist() == [float(high), float(low), float(high)]
    assert task.evaluate(parameters)["objective"] < 0.5
    assert task.notes() == [
        f"labels: {float(high):g} is positive (50 % of the training examples), {float(low):g} is negative"
    ]


def test_the_option_positive_turns_the_classes_round(linear, inputs):
    usual, turned = (linear(two_classes(1, 2), l2=0.1, loss="logistic", positive=p) for p in (None, 1))
    assert "1 is positive" in turned.notes()[0] and "2 is positive" in usual.notes()[0]
    a, b = train(usual), train(turned)
    np.testing.assert_allclose(a["weights"], -b["weights"], rtol=1e-12)
    new = inputs(usual, "0 1:1\n0 2:1\n")
    assert usual.predict(a, new).tolist() == turned.predict(b, new).tolist() == [1, 2]
    np.testing.assert_allclose(
        turned.predict(b, new, "probability"), 1 - usual.predict(a, new, "probability"), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1 1:1\n\n-1 2:1\n2 1:1\n",
            r"train\.svm, line 4: .*two values, got a third one, 2 \(labels are -1, 1, 2\).*'squared'",
        ),
        ("1 1:1\n1 2:1\n", r"train\.svm: every example has the label 1; .*two labels"),
        ("1\n-1\n", "no example has any feature"),
    ],
)
def test_labels_that_are_no_two_classes_are_refused(linear, text, message):
    with pytest.raises(ValueError, match=message):
        linear(text)


def test_a_strange_label_of_the_test_file_is_blamed_on_the_test_file(linear):
    with pytest.raises(ValueError, match=r"test\.svm, line 3: the label must be -1 or 1, as in .*train\.svm, got 0$"):
        linear(two_classes(-1, 1), "1 1:1\n# nothing\n0 1:1\n")


def test_the_squared_loss_is_a_regression_also_on_0_and_1(linear, inputs):
    text = two_classes(0, 1)
    task = linear(text, text, loss="squared", l2=0.0)
    parameters = train(task)
    assert set(task.evaluate(parameters)) == {"test_loss", "test_rmse", "objective"}
    assert task.dataset().labels.tolist() == [0, 1] * 10
    np.testing.assert_allclose(task.predict(parameters, inputs(task, "0 1:1\n0 2:1\n")), [0, 1], atol=0.05)
    assert task.baseline() == {"test_rmse": 0.5}
    assert "set [data] positive" in task.notes()[0]


def test_the_squared_loss_classifies_when_asked_to(linear, inputs):
    task = linear(two_classes(0, 1), two_classes(0, 1), loss="squared", l2=0.0, positive=1)
    parameters = train(task)
    assert task.evaluate(parameters)["test_accuracy"] == 1.0
    assert task.predict(parameters, inputs(task, "0 1:1\n0 2:1\n")).tolist() == [0, 1]


@pytest.mark.parametrize("frequent", [-1, 1])
def test_a_score_of_zero_is_the_more_frequent_class(linear, inputs, frequent):
    lines = "".join(f"{frequent if k % 4 else -frequent} {1 + k % 4}:1\n" for k in range(20))
    task = linear(lines, lines, bias=False)
    parameters = task.parameters(np.random.default_rng(0))
    assert task.predict(parameters, inputs(task, "0\n0 9:1\n")).tolist() == [frequent] * 2
    found = task.evaluate(parameters)
    assert found["test_accuracy"] == task.baseline()["test_accuracy"] == 0.75 and found["test_auc"] == 0.5


def test_rows_without_features_are_predicted_by_the_bias(linear, inputs):
    """The shape of w8a: nearly all examples negative, many without any feature."""
    lines = "".join("-1\n" if k % 3 else f"{1 if k % 30 == 0 else -1} {1 + (k % 30 == 0)}:1\n" for k in range(300))
    task = linear(lines, lines, l2=0.1)
    parameters = train(task)
    assert task.evaluate(parameters)["test_accuracy"] == 1.0
    assert task.predict(parameters, inputs(task, "0\n0 2:1\n")).tolist() == [-1, 1]


def test_the_bias_is_the_last_weight_stands_in_no_example_and_is_not_regularised(linear):
    text = two_classes(-1, 1)
    task = linear(text, l2=4.0)
    assert task.parameters(None)["weights"].shape == (3,) and task.lockables == 3 and task.features == 2
    assert task.dataset().indices.max() == 1 and task.sparsity().omega == 1 and task.sparsity().delta == 0.5
    plain, shifted = np.array([0.5, -0.5, 0.0]), np.array([0.5, -0.5, 10.0])
    loss = task.measure({"weights": shifted}, task.dataset())["loss"]
    assert task.evaluate({"weights": shifted})["objective"] - loss == pytest.approx(
        task.evaluate({"weights": plain})["objective"] - task.measure({"weights": plain}, task.dataset())["loss"]
    )
    assert linear(text, bias=False).parameters(None)["weights"].shape == (2,)


def test_weights_of_another_shape_are_refused(linear):
    task = linear(two_classes(-1, 1))
    with pytest.raises(
        ValueError, match="the model has 2 weights, but the training data have 2 features and bias is true"
    ):
        task.predict({"weights": np.zeros(2)}, task.dataset())


def test_outputs_of_a_logistic_model(linear, inputs):
    task = linear(two_classes(1, 2), loss="logistic")
    parameters = {"weights": np.array([-1.0, 2000.0, 0.5])}
    new = inputs(task, "0 1:1\n0 2:1\n0 1:1000000\n0 1:0.5\n")
    scores = task.predict(parameters, new, "score")
    assert scores.tolist() == [-0.5, 2000.5, -999999.5, 0.0]
    expected = [1 / (1 + np.exp(0.5)), 1.0, 0.0, 0.5]
    np.testing.assert_allclose(task.predict(parameters, new, "probability"), expected, rtol=1e-15)
    assert task.predict(parameters, new, "label").tolist() == task.predict(parameters, new).tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("loss", "refused", "message"),
    [
        (
            "hinge",
            "probability",
            r"loss = 'hinge' cannot predict output = 'probability'; it can: label, score; .*'logistic'",
        ),
        ("squared", "probability", r"loss = 'squared' cannot predict output = 'probability'; it can: score"),
        ("squared", "label", r"it can: score"),
    ],
)
def test_outputs_that_a_model_has_not_are_refused(linear, loss, refused, message):
    task = linear(two_classes(0, 1), loss=loss)
    with pytest.raises(ValueError, match=message):
        task.predict(task.parameters(None), task.dataset(), refused)


def test_log_loss_and_auc_equal_scikit_learns(linear):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    lines = "".join(f"{rng.integers(0, 2)} 1:{rng.integers(0, 4)} 2:{rng.integers(0, 3)}\n" for _ in range(300))
    task = linear(lines, lines, loss="logistic")
    parameters = {"weights": np.array([0.5, -0.25, 0.1])}  # scores that often are equal
    found, labels = task.evaluate(parameters), task.dataset().labels
    assert found["test_auc"] == pytest.approx(
        metrics.roc_auc_score(labels, task.scores(parameters, task.dataset())), abs=1e-14
    )
    probability = task.predict(parameters, task.dataset(), "probability")
    assert (
        found["test_log_loss"] == found["test_loss"] == pytest.approx(metrics.log_loss(labels, probability), rel=1e-12)
    )


def test_auc_counts_every_pair_and_a_tie_as_one_half():
    rng = np.random.default_rng(0)
    for levels in (1, 2, 5, 1000):
        scores, positive = rng.integers(0, levels, 60).astype(np.float32), rng.random(60) < 0.3
        pairs = [(a > b) + Fraction(int(a == b), 2) for a in scores[positive] for b in scores[~positive]]
        assert auc(scores, positive) == float(sum(pairs, Fraction(0)) / len(pairs))
    assert auc(np.array([3.0, 1.0]), np.array([True, True])) is None


def test_a_test_set_of_one_class_has_no_auc(linear):
    task = linear(two_classes(-1, 1), "1 1:1\n1 2:1\n")
    assert "test_auc" not in task.evaluate(task.parameters(None))
