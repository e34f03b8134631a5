"""Sparse linear models: support vector machine, logistic and least-squares regression."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ps.errors import DataError, UsageError
from ps.rows import Rows
from worker.data.dataset import CsrBatch, CsrDataset
from worker.data.sparsity import Sparsity, sparsity
from worker.data.split import split
from worker.data.svmlight import read_svmlight
from worker.locking import Locking
from worker.tasks import checks, sparse_kernels
from worker.tasks.sparse_kernels import LOSSES

NAME = "sparse_linear"


class SparseLinear:
    """Linear model on sparse examples (svmlight files): hinge (SVM), logistic or squared loss, degree-weighted L2.

    The objective is the mean over the n training examples e, with score s = sum of x_u z_u over the features u of e, of

        loss(s, y_e) + l2/2 * sum over u in e of x_u^2 / d_u        (d_u: number of training examples with u nonzero)

    so that an example touches its own coordinates only (Niu, Recht, Ré, Wright 2011, section 2). Summed over all
    examples the regulariser is l2/2 * |x|^2: l2 is 1/C of LIBLINEAR. Losses: hinge max(0, 1 - ys), logistic log(1 +
    exp(-ys)), squared (s - y)^2 / 2.

    Options of [task]:
      loss: "hinge", "logistic" or "squared".
      l2: weight of the regulariser, >= 0.
      bias: add a constant feature, without regulariser. It is a variable that every example touches.
      dtype: "float32" or "float64", of weights and values.
    Options of [data]:
      train: svmlight/libsvm file, plain or .gz, .bz2, .xz; "hogshead:a9a" is bundled (UCI Adult). Labels are +-1 or 0/1
        unless the loss is squared, which takes any finite number.
      test: another such file ("hogshead:a9a.t"); features that no training example has keep weight 0.
      test_fraction: without a test file, the part of train that is held out, in [0, 1); 0 holds out nothing.
      split_seed: seed of that split.
      features: number of features, if more than those seen.
      index_base: 0 or 1, what the indices of the files start at; by default 0 if any index of train is 0.

    Raises:
      UsageError: an option out of its bound. DataError: the data cannot be used.

    References: Niu, Recht, Ré, Wright 2011, "Hogwild!", sections 2 and 6.
    """

    paths = ("train", "test")
    sparse = ("weights",)

    def __init__(
        self,
        train: str,
        test: str | None = None,
        loss: str = "hinge",
        l2: float = 1.0,
        bias: bool = False,
        dtype: str = "float32",
        test_fraction: float = 0.0,
        split_seed: int = 0,
        features: int | None = None,
        index_base: int | None = None,
    ):
        self.loss = checks.one_of(loss, LOSSES, NAME, "loss")
        self.l2 = checks.at_least(l2, 0, NAME, "l2")
        self.bias = checks.boolean(bias, NAME, "bias")
        self.dtype = np.dtype(checks.one_of(dtype, ("float32", "float64"), NAME, "dtype"))
        checks.require(index_base in (None, 0, 1), NAME, "index_base", "0 or 1", index_base)
        fraction = checks.fraction(test_fraction, NAME, "test_fraction")
        if test is not None and fraction:
            raise UsageError(f"{NAME}: give either a test file or test_fraction, got both")
        checks.integer(split_seed, 0, NAME, "split_seed")

        read = read_svmlight(train, index_base=index_base, dtype=dtype, what=f"{NAME}: train")
        self._index_base = read.index_base
        sets, found = [read.data], [read.features]
        if test is not None:
            other = read_svmlight(test, index_base=read.index_base, dtype=dtype, what=f"{NAME}: test")
            sets.append(other.data)
            found.append(other.features)
        elif fraction:
            sets = [_rows_of(read.data, chosen) for chosen in split(len(read.data), fraction, split_seed)]
        self.features = max(found)
        if features is not None:
            checks.integer(features, self.features, NAME, "features", "the data have that many")
            self.features = features
        if self.features == 0:
            raise DataError(f"{NAME}: {train}: no example has any feature")
        self._negative = _sign_labels(sets, self.loss, train)
        if self.bias:
            sets = [_with_bias(data, self.features) for data in sets]
        self._train, self._test = sets[0], sets[1] if len(sets) > 1 else None
        self._inverse_degrees = self._degrees()

    def _degrees(self) -> np.ndarray:
        """1/d_u of the training set, (lockables,); 0 for unseen features and for the bias, which has no regulariser."""
        degrees = np.bincount(self._train.indices, minlength=self.lockables).astype(self.dtype)
        inverse = np.divide(1, degrees, out=np.zeros_like(degrees), where=degrees > 0)
        if self.bias:
            inverse[self.features] = 0
        return inverse

    @property
    def lockables(self) -> int:
        """Number of variables that AIG can lock: the weights."""
        return self.features + int(self.bias)

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """``weights`` (features [+ 1 for the bias, the last],), zeros."""
        return {"weights": np.zeros(self.lockables, self.dtype)}

    def dataset(self) -> CsrDataset:
        """The training examples."""
        return self._train

    def loss_and_gradient(self, parameters: Mapping[str, np.ndarray], batch: CsrBatch) -> tuple[float, dict[str, Rows]]:
        """Mean of the objective over the batch and its gradient: only the rows that the batch touches."""
        weights = parameters["weights"]
        if len(batch) == 1:  # whose features are sorted and unique as they are
            rows, places = batch.indices, np.arange(batch.indices.size)
        else:
            rows, places = np.unique(batch.indices, return_inverse=True)
        gradient = np.zeros(rows.size, weights.dtype)
        one = weights.dtype.type(1)
        loss = sparse_kernels.batch_gradient(
            weights, self._inverse_degrees, batch.indptr, batch.indices, batch.values, batch.labels, places,
            LOSSES[self.loss], weights.dtype.type(self.l2), one, one / weights.dtype.type(len(batch)), gradient,
        )  # fmt: skip
        return loss, {"weights": Rows(rows.astype(np.int64), gradient.reshape(-1, 1))}

    def sweep(
        self, parameters: Mapping[str, np.ndarray], examples: np.ndarray, step_size: float, locking: Locking
    ) -> float:
        """Hogwild!'s loop over ``examples`` (int64), in place: x += step*y*z where the hinge is active (others
        likewise), then x_u *= 1 - step*l2/d_u for each u of the example, as the authors' code does.

        Returns:
          Sum of the examples' objectives, each before its own update.
        """
        weights, data = parameters["weights"], self._train
        scalar = weights.dtype.type
        return sparse_kernels.sweep(
            weights, self._inverse_degrees, data.indptr, data.indices, data.values, data.labels, examples,
            LOSSES[self.loss], scalar(step_size), scalar(self.l2), scalar(1), *locking.words,
        )  # fmt: skip

    def scores(self, parameters: Mapping[str, np.ndarray], inputs: CsrBatch) -> np.ndarray:
        """x.z of each example, (n,)."""
        weights = parameters["weights"]
        return sparse_kernels.scores(weights, inputs.indptr, inputs.indices, inputs.values, weights.dtype.type(1))

    def measure(self, parameters: Mapping[str, np.ndarray], batch: CsrBatch) -> dict[str, float]:
        """``loss`` without the regulariser, and ``accuracy`` (classification) or ``rmse``, means over the batch."""
        found = self.scores(parameters, batch)
        result = {"loss": float(sparse_kernels.mean_loss(found, batch.labels, LOSSES[self.loss], found.dtype.type(1)))}
        if self._negative is None:
            result["rmse"] = float(np.sqrt(np.mean((found - batch.labels) ** 2)))
        else:
            result["accuracy"] = float(np.mean((found >= 0) == (batch.labels > 0)))
        return result

    def evaluate(self, parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``objective`` over all training data; with a test set ``test_loss`` and ``test_accuracy`` (or
        ``test_rmse``)."""
        result = {} if self._test is None else {f"test_{k}": v for k, v in self.measure(parameters, self._test).items()}
        weights = parameters["weights"].astype(np.float64)
        penalty = np.dot(weights * weights, self._inverse_degrees > 0)
        fit = self.measure(parameters, self._train)["loss"]
        return {**result, "objective": fit + 0.5 * self.l2 * float(penalty) / len(self._train)}

    def sparsity(self) -> Sparsity:
        """Omega, Delta and rho of the training examples."""
        return sparsity(self._train.indptr, self._train.indices)

    def difficulty(self) -> np.ndarray:
        """Number of nonzeros of each training example, (n,): short ones are easy."""
        return np.diff(self._train.indptr).astype(np.float64)

    def predict(self, parameters: Mapping[str, np.ndarray], inputs: CsrBatch) -> np.ndarray:
        """The label of each example, in the training file's own terms (+-1 or 0/1), or the score for real labels;
        (n,)."""
        found = self.scores(parameters, inputs)
        if self._negative is None:
            return found
        return np.where(found >= 0, 1, self._negative).astype(np.int64)

    def load_inputs(self, path: str) -> CsrDataset:
        """Examples to predict, from a file such as ``train``; its labels are not used and may be missing."""
        data = read_svmlight(
            path, index_base=self._index_base, dtype=self.dtype.name, what="inputs", labelled=False
        ).data
        if self.bias:
            data = _with_bias(_without(data, self.features), self.features)
        return data


def _rows_of(data: CsrDataset, chosen: np.ndarray) -> CsrDataset:
    batch = data.take(chosen)
    return CsrDataset(batch.indptr, batch.indices, batch.values, batch.labels)


def _sign_labels(sets: list[CsrDataset], loss: str, name: str) -> int | None:
    """Make the labels +-1 in place. Returns the file's own negative label (-1 or 0), or None for real labels."""
    labels = np.unique(np.concatenate([data.labels for data in sets]))
    if np.isin(labels, (-1, 1)).all():
        return -1
    if np.isin(labels, (0, 1)).all():
        for data in sets:
            data.labels = np.where(data.labels > 0, 1, -1).astype(data.labels.dtype)
        return 0
    if loss == "squared":
        return None
    shown = ", ".join(f"{label:g}" for label in labels[:6]) + (", ..." if labels.size > 6 else "")
    raise DataError(f"{NAME}: {name}: labels must be +1 and -1, or 1 and 0, for loss {loss!r}, got {shown}")


def _with_bias(data: CsrDataset, feature: int) -> CsrDataset:
    """The same examples with ``feature`` = 1 at the end of each row."""
    ends = data.indptr[1:]
    return CsrDataset(
        data.indptr + np.arange(data.indptr.size),
        np.insert(data.indices, ends, np.int32(feature)),
        np.insert(data.values, ends, 1),
        data.labels,
    )


def _without(data: CsrDataset, features: int) -> CsrDataset:
    """The same examples less the features >= ``features``, which the model does not know."""
    known = data.indices < features
    indptr = np.concatenate([[0], np.cumsum(known)])[data.indptr].astype(np.int64)
    return CsrDataset(indptr, data.indices[known], data.values[known], data.labels)
