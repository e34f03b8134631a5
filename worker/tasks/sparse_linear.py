"""Sparse linear models: support vector machine, logistic and least-squares regression."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ps.errors import DataError, UsageError
from ps.rows import Rows
from worker.data.dataset import CsrBatch, CsrDataset
from worker.data.sparsity import Sparsity, sparsity
from worker.data.split import split
from worker.data.svmlight import read_svmlight, widest
from worker.locking import Locking
from worker.tasks import checks, sparse_kernels
from worker.tasks.classes import classes_of, require_known
from worker.tasks.ranking import auc
from worker.tasks.sparse_kernels import LOSSES, NO_BIAS

NAME = "sparse_linear"
_LEAST_VECTORS = 3  # the weights, the features' degrees, and these inverted


class SparseLinear:
    """Linear model on sparse examples (svmlight files): hinge (SVM), logistic or squared loss, degree-weighted L2.

    The objective is the mean over the n training examples e, with score s = b + sum of x_u z_u over the features u of e,
    of

        loss(s, y_e) + l2/2 * sum over u in e of x_u^2 / d_u        (d_u: number of training examples with u nonzero)

    so that an example touches its own coordinates and the bias b only (Niu, Recht, Ré, Wright 2011, section 2). Summed
    over all examples the regulariser is l2/2 * |x|^2: l2 is 1/C of LIBLINEAR. Losses: hinge max(0, 1 - ys), logistic
    log(1 + exp(-ys)), squared (s - y)^2 / 2.

    Hinge and logistic loss classify: labels are of any two values, the larger is positive. The squared loss is a
    regression on the labels as numbers; with ``positive`` it classifies. A score of exactly 0 is predicted as the class
    that is more frequent in the training data.

    Metrics of the test set: test_loss (without the regulariser), and test_rmse of a regression, else test_accuracy and
    test_auc: the part of all pairs of a positive and a negative example whose scores are in the right order, a pair of
    equal scores counting one half; it is left out where the test set has one class. With the logistic loss also
    test_log_loss, -mean(log(probability of the right class)), which there is test_loss.

    Predictions (``--output``): label, the value in the training file; score, s; probability, 1 / (1 + exp(-s)) of the
    positive class, for the logistic loss only.

    Options of [task]:
      loss: "hinge", "logistic" or "squared".
      l2: weight of the regulariser, >= 0.
      bias: add an intercept, the last of the weights, without regulariser; every example touches it. false leaves it out.
      dtype: "float32" or "float64", of weights and values.
    Options of [data]:
      train: svmlight/libsvm file, plain or .gz, .bz2, .xz; "hogshead:a9a" is bundled (UCI Adult).
      test: another such file ("hogshead:a9a.t"); features that no training example has keep weight 0.
      positive: label of the positive class, for example 1 where labels are 1 and 2; by default the larger.
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
        bias: bool = True,
        dtype: str = "float32",
        positive: float | None = None,
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
        if positive is not None:
            checks.number(positive, NAME, "positive")
        classifies = positive is not None or self.loss != "squared"
        self.classes = classes_of(read, train, positive, NAME) if classifies else None
        if test is not None:
            other = read_svmlight(test, index_base=read.index_base, dtype=dtype, what=f"{NAME}: test")
            if self.classes is not None:
                require_known(other, test, self.classes, train, NAME)
            sets.append(other.data)
            found.append(other.features)
        elif fraction:
            sets = [_rows_of(read.data, chosen) for chosen in split(len(read.data), fraction, split_seed)]
        self.features = max(found)
        if features is not None:
            checks.integer(features, self.features, NAME, "features", "the data have that many")
            self.features = features
        #: What decides the number of parameters, for messages.
        self.model_size = f"[data] features = {self.features}" if features is not None else ""
        if features is None and self.features:
            name, file = (train, read) if read.features == self.features else (test, other)
            self.model_size = f"{name}, {widest(file)}"
        checks.fits(self.features, _LEAST_VECTORS, self.dtype, NAME, self.model_size)
        if self.features == 0:
            raise DataError(f"{NAME}: {train}: no example has any feature")
        if self.classes is not None:
            for data in sets:
                data.labels = self.classes.signs(data.labels)
        self._train, self._test = sets[0], sets[1] if len(sets) > 1 else None
        #: +1 or -1: the class of the greater part of the training examples; +1 of equal parts.
        self._majority = 1 if 2 * np.count_nonzero(self._train.labels > 0) >= len(self._train) else -1
        self._inverse_degrees = self._degrees()

    def _degrees(self) -> np.ndarray:
        """1/d_u of the training set, (lockables,); 0 for unseen features and for the bias, which has no regulariser."""
        degrees = np.bincount(self._train.indices, minlength=self.lockables).astype(self.dtype)
        return np.divide(1, degrees, out=np.zeros_like(degrees), where=degrees > 0)

    @property
    def _bias_index(self) -> int:
        return self.features if self.bias else NO_BIAS

    @property
    def lockables(self) -> int:
        """Number of variables that AIG can lock: the weights, the bias included."""
        return self.features + int(self.bias)

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """``weights`` (features + 1,), zeros; the last is the bias. (features,) without a bias."""
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
        if self.bias:
            rows = np.append(rows, np.int32(self.features))
        gradient = np.zeros(rows.size, weights.dtype)
        one = weights.dtype.type(1)
        loss = sparse_kernels.batch_gradient(
            weights, self._inverse_degrees, self._bias_index, batch.indptr, batch.indices, batch.values, batch.labels,
            places, LOSSES[self.loss], weights.dtype.type(self.l2), one, one / weights.dtype.type(len(batch)), gradient,
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
            weights, self._inverse_degrees, self._bias_index, data.indptr, data.indices, data.values, data.labels,
            examples, LOSSES[self.loss], scalar(step_size), scalar(self.l2), scalar(1), *locking.words,
        )  # fmt: skip

    def scores(self, parameters: Mapping[str, np.ndarray], inputs: CsrBatch) -> np.ndarray:
        """b + x.z of each example, (n,).

        Raises:
          UsageError: the weights are those of another job or of other data.
        """
        weights = parameters["weights"]
        if weights.size != self.lockables:
            raise UsageError(
                f"{NAME}: the model has {weights.size} weights, but the training data have {self.features} features and "
                f"bias is {str(self.bias).lower()}; the data have changed since, or the model was trained with another "
                "value of bias: set it in the run's job.toml"
            )
        return sparse_kernels.scores(
            weights,
            self._bias_index,
            self.features,
            inputs.indptr,
            inputs.indices,
            inputs.values,
            weights.dtype.type(1),
        )

    def _signs(self, scores: np.ndarray) -> np.ndarray:
        """The predicted class +1 or -1 of each score; a tie goes to the more frequent class."""
        return np.where(scores == 0, self._majority, np.where(scores > 0, 1, -1))

    def _fit(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        one = scores.dtype.type(1)
        result = {"loss": float(sparse_kernels.mean_loss(scores, labels, LOSSES[self.loss], one))}
        if self.classes is None:
            result["rmse"] = float(np.sqrt(np.mean((scores - labels) ** 2)))
        else:
            result["accuracy"] = float(np.mean(self._signs(scores) == labels))
        return result

    def measure(self, parameters: Mapping[str, np.ndarray], batch: CsrBatch) -> dict[str, float]:
        """``loss`` without the regulariser, and ``accuracy`` (classification) or ``rmse``, means over the batch."""
        return self._fit(self.scores(parameters, batch), batch.labels)

    def evaluate(self, parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``objective`` over all training data; with a test set its metrics (see the class)."""
        result = {}
        if self._test is not None:
            scores, labels = self.scores(parameters, self._test), self._test.labels
            result = self._fit(scores, labels)
            area = auc(scores, labels > 0) if self.classes is not None else None
            if area is not None:
                result["auc"] = area
            if self.loss == "logistic":
                result["log_loss"] = result["loss"]
        weights = parameters["weights"].astype(np.float64)
        penalty = np.dot(weights * weights, self._inverse_degrees > 0)
        fit = self.measure(parameters, self._train)["loss"]
        objective = fit + 0.5 * self.l2 * float(penalty) / len(self._train)
        return {**{f"test_{name}": value for name, value in result.items()}, "objective": objective}

    def baseline(self) -> dict[str, float]:
        """``test_accuracy`` of the more frequent class of the training data for every example of the test set;
        ``test_rmse`` of their mean."""
        if self._test is None:
            return {}
        if self.classes is not None:
            return {"test_accuracy": float(np.mean(self._test.labels == self._majority))}
        mean = np.mean(self._train.labels, dtype=np.float64)
        return {"test_rmse": float(np.sqrt(np.mean((self._test.labels - mean) ** 2)))}

    def notes(self) -> list[str]:
        """Which label is positive, and how frequent it is in the training data; of a regression only what could surprise."""
        if self.classes is None:
            values = np.unique(self._train.labels)
            if values.size != 2:
                return []
            return [
                f"labels: {values[0]:g} and {values[1]:g} are numbers of a regression; to classify set [data] positive"
            ]
        share = np.mean(self._train.labels > 0)
        return [
            f"labels: {self.classes.positive:g} is positive ({100 * share:.3g} % of the training examples), "
            f"{self.classes.negative:g} is negative"
        ]

    def sparsity(self) -> Sparsity:
        """Omega, Delta and rho of the training examples, the bias aside: with it Delta and rho would be 1 everywhere."""
        return sparsity(self._train.indptr, self._train.indices)

    def difficulty(self) -> np.ndarray:
        """Number of nonzeros of each training example, (n,): short ones are easy."""
        return np.diff(self._train.indptr).astype(np.float64)

    def predict(self, parameters: Mapping[str, np.ndarray], inputs: CsrBatch, output: str | None = None) -> np.ndarray:
        """What the model says of each example, (n,).

        Args:
          output: "label" (in the training file's own terms), "score" or "probability" (of the positive class); None is
            the label, of a regression the score.

        Raises:
          UsageError: the model has no such output.
        """
        if output is None:
            output = "score" if self.classes is None else "label"
        remedy = "probabilities need loss = 'logistic'" if output == "probability" else ""
        checks.output_of(output, self._outputs(), f"{NAME} with loss = {self.loss!r}", remedy)
        scores = self.scores(parameters, inputs)
        if output == "probability":
            small = np.exp(-np.abs(scores.astype(np.float64)))  # never overflows
            return np.where(scores > 0, 1, small) / (1 + small)
        return scores if output == "score" else self.classes.values(self._signs(scores))

    def _outputs(self) -> tuple[str, ...]:
        if self.classes is None:
            return ("score",)
        return ("label", "score", "probability") if self.loss == "logistic" else ("label", "score")

    def load_inputs(self, path: str) -> CsrDataset:
        """Examples to predict, from a file such as ``train``; its labels are not used and may be missing, features that the
        model does not know count nothing."""
        return read_svmlight(
            path, index_base=self._index_base, dtype=self.dtype.name, what="inputs", labelled=False
        ).data


def _rows_of(data: CsrDataset, chosen: np.ndarray) -> CsrDataset:
    batch = data.take(chosen)
    return CsrDataset(batch.indptr, batch.indices, batch.values, batch.labels)
