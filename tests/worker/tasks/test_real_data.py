"""The sparse tasks learn what is known to be learnable, by their sweeps, and say it in the files' own terms."""

import numpy as np
import pytest

from worker.locking import Locking
from worker.tasks import task_class


def train(task, step, epochs=20, decay=0.9, seed=0):
    rng = np.random.default_rng(seed)
    parameters = task.parameters(rng)
    for epoch in range(epochs):
        task.sweep(parameters, rng.permutation(len(task.dataset())), step * decay**epoch, Locking())
    return parameters


@pytest.mark.parametrize(
    ("loss", "step", "bound"), [("hinge", 0.005, 0.845), ("logistic", 0.01, 0.845), ("squared", 0.003, 0.84)]
)
def test_a9a(loss, step, bound):
    positive = 1 if loss == "squared" else None  # a classifier by least squares
    task = task_class("sparse_linear")("hogshead:a9a", "hogshead:a9a.t", loss=loss, l2=1.0, positive=positive)
    assert task.evaluate(train(task, step))["test_accuracy"] >= bound


def test_the_objective_is_liblinears():
    """l2 is 1/C: at its optimum our objective equals that of scikit-learn's solver of the same problem."""
    svm = pytest.importorskip("sklearn.svm")
    sparse = pytest.importorskip("scipy.sparse")
    task = task_class("sparse_linear")("hogshead:a9a", l2=2.0, dtype="float64", bias=False)
    data = task.dataset()
    matrix = sparse.csr_matrix((data.values, data.indices, data.indptr), shape=(len(data), task.features))
    model = svm.LinearSVC(loss="hinge", C=0.5, fit_intercept=False, max_iter=5000, tol=1e-3, random_state=0)
    model.fit(matrix[:3000], data.labels[:3000])
    best = model.coef_[0]
    margins = np.maximum(1 - data.labels * (matrix @ best), 0).mean()
    expected = margins + 0.5 * 2.0 * (best @ best) / len(data)
    # Features that no example has carry no regulariser here and are 0 there.
    assert task.evaluate({"weights": best})["objective"] == pytest.approx(expected, rel=1e-12)


def test_reuters(shared_data):
    train_file = str(shared_data("reuters_corp.train.libsvm.xz"))
    task = task_class("sparse_linear")(train_file, str(shared_data("reuters_corp.test.libsvm.xz")), l2=0.3)
    assert (len(task.dataset()), task.features) == (9603, 15652)
    assert task.evaluate(train(task, 0.2))["test_accuracy"] >= 0.98


def test_movielens(shared_data):
    task = task_class("matrix_completion")(str(shared_data("ml-100k_u.data.xz")), test_fraction=0.1)
    assert (task.user_ids.size, task.item_ids.size, len(task.dataset())) == (943, 1682, 90_000)
    parameters = train(task, 0.05)
    assert task.evaluate(parameters)["test_rmse"] <= 0.915


def test_difficulty_is_the_number_of_nonzeros(make):
    task = make("sparse_linear")
    np.testing.assert_array_equal(task.difficulty(), np.diff(task.dataset().indptr))


def test_unknown_users_and_items_are_predicted_by_what_is_known(make, tmp_path):
    task = make("matrix_completion", biases=True, dtype="float32")
    parameters = train(task, 0.1)
    (tmp_path / "new.tsv").write_text("100\ti0\n100\tnothing\n9999\ti0\nnobody\tnothing\n")
    inputs = task.load_inputs(str(tmp_path / "new.tsv"))
    assert inputs["user"].tolist() == [0, 0, -1, -1] and inputs["item"].tolist() == [0, -1, 0, -1]
    low, high = task._range
    expected = [
        task.mean
        + parameters["user_biases"][0]
        + parameters["item_biases"][0]
        + parameters["users"][0] @ parameters["items"][0],
        task.mean + parameters["user_biases"][0],
        task.mean + parameters["item_biases"][0],
        task.mean,
    ]
    np.testing.assert_allclose(task.predict(parameters, inputs), np.clip(expected, low, high), rtol=1e-5)


def test_users_and_items_of_the_test_file_alone_are_predicted_by_the_mean(files, tmp_path):
    (tmp_path / "test.tsv").write_text("newcomer\tnovelty\t4\n0100\tnovelty\t2\n")
    task = task_class("matrix_completion")(str(files / "ratings.tsv"), str(tmp_path / "test.tsv"), rank=3)
    assert not {"newcomer", "0100"} & set(task.user_ids.astype(str))
    parameters = train(task, 0.05)
    expected = np.sqrt(((task.mean - 4) ** 2 + (task.mean - 2) ** 2) / 2)
    assert task.evaluate(parameters)["test_rmse"] == pytest.approx(expected, rel=1e-5)
    assert "2 of the 2 users and 1 of the 1 items" in task.notes()[0] and "2 of 2 lines" in task.notes()[0]


def test_users_held_out_whole_are_predicted_by_the_mean(tmp_path):
    (tmp_path / "r.csv").write_text("".join(f"u{k},i{k % 3},{k % 2 + 1}\n" for k in range(20)))
    task = task_class("matrix_completion")(str(tmp_path / "r.csv"), test_fraction=0.25, biases=False)
    parameters = task.parameters(np.random.default_rng(0))  # every held out user has its only rating there
    train_rows = set(task.dataset()["user"].tolist())
    held_out = [k % 2 + 1 for k in range(20) if task.user_ids.tolist().index(f"u{k}") not in train_rows]
    expected = np.sqrt(np.mean((task.mean - np.array(held_out)) ** 2))
    assert task.evaluate(parameters)["test_rmse"] == pytest.approx(expected, rel=1e-5)


def test_a_test_file_whose_ids_look_like_numbers_has_the_ids_of_train(tmp_path):
    """Books by their ISBN: only train has one that ends in X."""
    (tmp_path / "train.csv").write_text("user,item,rating\na,0195153448,5\nb,0195153448,4\na,019515344X,1\n")
    (tmp_path / "test.csv").write_text("user,item,rating\na,0195153448,5\n")
    task = task_class("matrix_completion")(str(tmp_path / "train.csv"), str(tmp_path / "test.csv"), rank=2)
    assert task.notes() == [] and task.item_ids.tolist() == ["0195153448", "019515344X"]
    (tmp_path / "new.csv").write_text("item,user\n0195153448,b\n195153448,a\n")
    inputs = task.load_inputs(str(tmp_path / "new.csv"))
    assert inputs["user"].tolist() == [1, 0] and inputs["item"].tolist() == [0, -1]
    assert "0 of the 2 users and 1 of the 2 items" in task.input_notes()[0]
    assert "header: item, user" in task.input_notes()[1]


def grid(folder, size=10):
    """A noisy picture of two halves: edges between neighbours, and from each pixel to the terminal it looks like."""
    rng = np.random.default_rng(0)
    edges = []
    for i in range(size):
        for j in range(size):
            for neighbour in ((i, j + 1), (i + 1, j)):
                if max(neighbour) < size:
                    edges.append((i * size + j, neighbour[0] * size + neighbour[1], rng.uniform(0.5, 1.5)))
            bright = (j > size // 2) ^ (rng.random() < 0.1)
            edges.append((i * size + j, 1000 + int(bright), rng.uniform(0.3, 1)))
    (folder / "edges.csv").write_text("\n".join(f"{u},{v},{w:.4f}" for u, v, w in edges))
    (folder / "terminals.csv").write_text("1000,dark\n1001,bright\n")
    return edges


def test_a_graph_cut_of_two_labels_is_the_minimum_cut(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    edges = [(u, v, round(w, 4)) for u, v, w in grid(tmp_path)]
    capacity = sparse.lil_matrix((102, 102), dtype=np.int32)
    for u, v, w in edges:
        u, v = (node if node < 1000 else node - 900 for node in (u, v))
        capacity[u, v] += round(w * 1e4)
        capacity[v, u] += round(w * 1e4)
    minimum = sparse.csgraph.maximum_flow(capacity.tocsr(), 100, 101).flow_value / 1e4
    task = task_class("graph_cuts")(str(tmp_path / "edges.csv"), str(tmp_path / "terminals.csv"), dtype="float64")
    before = task.evaluate(task.parameters(np.random.default_rng(0)))["cut_value"]
    parameters = train(task, 0.3, epochs=80, decay=0.94)
    found = task.evaluate(parameters)
    assert before > 1.2 * minimum
    assert found["cut_value"] == pytest.approx(minimum, rel=1e-6)
    # The relaxation's value: |x_u - x_v|_1 of a cut edge is 2, and its optimum is the cut.
    assert found["objective"] * len(task.dataset()) == pytest.approx(2 * minimum, rel=0.05)
    (tmp_path / "new").write_text("0\n9\n1001\n")
    labels = task.predict(parameters, task.load_inputs(str(tmp_path / "new")))
    assert labels.tolist()[2] == "bright" and set(labels.tolist()) <= {"dark", "bright"}
    (tmp_path / "bad").write_text("5000\n")
    with pytest.raises(ValueError, match="no node 5000"):
        task.load_inputs(str(tmp_path / "bad"))


def test_gradient_steps_find_the_cut_too(tmp_path, dense):
    """Strategies that push gradients know no simplex; the evaluation projects."""
    grid(tmp_path)
    task = task_class("graph_cuts")(str(tmp_path / "edges.csv"), str(tmp_path / "terminals.csv"))
    parameters = task.parameters(np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for epoch in range(60):
        order = rng.permutation(len(task.dataset()))
        for start in range(0, order.size, 20):
            _, gradient = task.loss_and_gradient(parameters, task.dataset().take(order[start : start + 20]))
            step = np.float32(4.0 * 0.93**epoch)
            parameters["nodes"] -= step * dense(gradient["nodes"], parameters["nodes"])
    swept = task.evaluate(train(task, 0.3, epochs=80, decay=0.94))["cut_value"]
    assert task.evaluate(parameters)["cut_value"] <= 1.1 * swept


def test_terminals_are_never_moved(make):
    task = make("graph_cuts")
    parameters = train(task, 0.3)
    np.testing.assert_array_equal(parameters["nodes"][:3], task.parameters(None)["nodes"][:3])
    np.testing.assert_allclose(parameters["nodes"].sum(1), 1, atol=1e-9)
    assert parameters["nodes"].min() >= 0


def test_a_graph_of_terminals_only_is_refused(tmp_path):
    (tmp_path / "e").write_text("1 2 1\n")
    (tmp_path / "t").write_text("1 a\n2 b\n")
    with pytest.raises(ValueError, match="every node is a terminal"):
        task_class("graph_cuts")(str(tmp_path / "e"), str(tmp_path / "t"))


def test_a_linear_model_predicts_examples_without_labels(make, tmp_path):
    task = make("sparse_linear")
    parameters = train(task, 0.1)
    (tmp_path / "labelled.svm").write_text("1 2:1\n-1 1:1 5:2\n1\n")
    (tmp_path / "bare.svm").write_text("2:1\n1:1 5:2\n\n")
    expected = task.predict(parameters, task.load_inputs(str(tmp_path / "labelled.svm")))
    assert task.predict(parameters, task.load_inputs(str(tmp_path / "bare.svm"))).tolist() == expected.tolist()
