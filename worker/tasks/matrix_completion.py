"""Matrix completion: ratings as products of factors of users and items."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ps.errors import UsageError
from ps.rows import Rows
from worker.data.dataset import ArrayDataset
from worker.data.ids import digest, places
from worker.data.ratings import Ratings, read_pairs, read_ratings
from worker.data.sparsity import Sparsity, sparsity_of_pairs
from worker.data.split import split
from worker.locking import Locking
from worker.tasks import checks, matrix_kernels

NAME = "matrix_completion"


class MatrixCompletion:
    """Matrix completion (recommendation): rating of item v by user u = mean + L_u.R_v, degree-weighted L2.

    The objective is the mean over the training ratings of

        (L_u.R_v + mean - Z_uv)^2 / 2 + l2/2 * (|L_u|^2 / |E_u| + |R_v|^2 / |E_v|)    (|E_u|: number of u's ratings)

    so that, summed over all ratings, the regulariser is l2/2 * (|L|^2 + |R|^2) (Niu, Recht, Ré, Wright 2011, section 2;
    the factors of 2 are folded into the step size there).

    Options of [task]:
      rank: number of factors, >= 1.
      l2: weight of the regulariser, >= 0; MovieLens-100K is best near 12.
      mean: subtract the mean of the training ratings.
      biases: learn an offset for each user and each item too, with the same regulariser (the paper has none: false).
      init: standard deviation of the initial factors, > 0.
      clip: cut predictions to the range of the training ratings (in measuring and predicting, not in training).
      dtype: "float32" or "float64".
    Options of [data]:
      train: table of user, item, rating (csv, tsv, blanks or ::; plain or compressed), or .npz with arrays of these
        names. A header names the columns (userId,movieId,rating,timestamp in any order); without one, or with other
        names, they are the first three. An id is the text of its cell: 1, 01 and 1.0 are three.
      test: another such file, with its columns at the same places unless its own header names them. A user or an item
        without a rating in train is predicted by the mean (and a bias of 0).
      test_fraction: without a test file, the part of train that is held out at random, in [0, 1).
      split_seed: seed of that split.

    Raises:
      UsageError: an option out of its bound. DataError: the data cannot be used.
    """

    paths = ("train", "test")

    def __init__(
        self,
        train: str,
        test: str | None = None,
        rank: int = 32,
        l2: float = 12.0,
        mean: bool = True,
        biases: bool = True,
        init: float = 0.05,
        clip: bool = True,
        dtype: str = "float32",
        test_fraction: float = 0.0,
        split_seed: int = 0,
    ):
        self.rank = checks.integer(rank, 1, NAME, "rank")
        self.l2 = checks.at_least(l2, 0, NAME, "l2")
        self.biases = checks.boolean(biases, NAME, "biases")
        self.clip = checks.boolean(clip, NAME, "clip")
        self.init = checks.number(init, NAME, "init")
        checks.require(self.init > 0, NAME, "init", "> 0", init, "factors of 0 never leave it")
        self.dtype = np.dtype(checks.one_of(dtype, ("float32", "float64"), NAME, "dtype"))
        checks.boolean(mean, NAME, "mean")
        fraction = checks.fraction(test_fraction, NAME, "test_fraction")
        if test is not None and fraction:
            raise UsageError(f"{NAME}: give either a test file or test_fraction, got both")
        checks.integer(split_seed, 0, NAME, "split_seed")
        self.sparse = ("users", "items", "user_biases", "item_biases") if biases else ("users", "items")

        ratings = read_ratings(train, what=f"{NAME}: train")
        self._columns = ratings.columns
        self.user_ids, self.item_ids = ratings.user.ids, ratings.item.ids
        columns = [self._numbered(ratings)]
        self._notes: list[str] = []
        self._input_notes: list[str] = []
        if test is not None:
            ratings = read_ratings(test, what=f"{NAME}: test", like=self._columns)
            columns.append(self._numbered(ratings))
            self._notes = self._unknown(ratings, test)
        if fraction:
            parts = split(len(columns[0]["rating"]), fraction, split_seed)
            columns = [{name: column[chosen] for name, column in columns[0].items()} for chosen in parts]
        self._train, self._test = ArrayDataset(columns[0]), ArrayDataset(columns[1]) if len(columns) > 1 else None
        values = self._train["rating"]
        self.mean = float(values.mean(dtype=np.float64)) if mean else 0.0
        self._range = (float(values.min()), float(values.max()))
        self._user_inverse = _inverse_degrees(self._train["user"], self.user_ids.size, self.dtype)
        self._item_inverse = _inverse_degrees(self._train["item"], self.item_ids.size, self.dtype)

    def _numbered(self, ratings: Ratings) -> dict[str, np.ndarray]:
        """The columns of a file, ids as rows of the parameters: -1 for an id that train does not have."""
        found = {"user": ratings.user.codes_in(self.user_ids), "item": ratings.item.codes_in(self.item_ids)}
        return found | ({"rating": ratings.rating.astype(self.dtype)} if ratings.rating.size else {})

    def _unknown(self, ratings: Ratings, name: str) -> list[str]:
        """How many ids of a file train does not have, in words; empty if it has all."""
        users, items = places(self.user_ids, ratings.user.ids) < 0, places(self.item_ids, ratings.item.ids) < 0
        if not (users.any() or items.any()):
            return []
        rows = int((users[ratings.user.codes] | items[ratings.item.codes]).sum())
        return [
            f"{name}: train has no ratings of {users.sum()} of the {users.size} users and {items.sum()} of the "
            f"{items.size} items here; {rows} of {len(ratings.user)} lines are predicted by the mean and the known biases"
        ]

    @property
    def model_size(self) -> str:
        """What decides the number of parameters, for messages."""
        return f"[task] rank = {self.rank}, for {self.lockables:,} users and items,"

    @property
    def lockables(self) -> int:
        """Number of variables that AIG can lock: a user's factors are one, an item's another."""
        return self.user_ids.size + self.item_ids.size

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """``users`` (users, rank) and ``items`` (items, rank), normal; with biases ``user_biases`` (users,),
        ``item_biases``."""
        checks.fits(self.lockables * (self.rank + int(self.biases)), 2, self.dtype, NAME, self.model_size)
        shapes = {"users": (self.user_ids.size, self.rank), "items": (self.item_ids.size, self.rank)}
        found = {name: (rng.standard_normal(shape) * self.init).astype(self.dtype) for name, shape in shapes.items()}
        if self.biases:
            found["user_biases"] = np.zeros(self.user_ids.size, self.dtype)
            found["item_biases"] = np.zeros(self.item_ids.size, self.dtype)
        return found

    def rows_digest(self) -> str:
        """Text that changes with the ids that the rows of the parameters stand for."""
        return digest(self.user_ids, self.item_ids)

    def notes(self) -> list[str]:
        """How many ids of the test file train does not have; empty if it has all."""
        return self._notes

    def input_notes(self) -> list[str]:
        """How many ids of the inputs read last train does not have, and that they have a header."""
        return self._input_notes

    def dataset(self) -> ArrayDataset:
        """The training ratings: a batch is ``{"user": (m,), "item": (m,), "rating": (m,)}``."""
        return self._train

    def _tables(self, parameters: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        none = np.empty(0, parameters["users"].dtype)
        return [
            parameters["users"],
            parameters["items"],
            parameters.get("user_biases", none),
            parameters.get("item_biases", none),
        ]

    def _predictions(self, parameters: Mapping[str, np.ndarray], users: np.ndarray, items: np.ndarray) -> np.ndarray:
        scalar = parameters["users"].dtype.type
        return matrix_kernels.predictions(*self._tables(parameters), users, items, scalar(self.mean), scalar(0))

    def loss_and_gradient(
        self, parameters: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]
    ) -> tuple[float, dict[str, Rows]]:
        """Mean of the objective over the batch and its gradient, only the rows that the batch touches."""
        u, v = batch["user"], batch["item"]
        error = self._predictions(parameters, u, v) - batch["rating"]
        scalar, l2 = error.dtype.type, error.dtype.type(self.l2)
        share = scalar(1 / len(u))
        loss = 0.5 * float(np.dot(error, error))
        result = {}
        sides = (("user", u, self._user_inverse[u], "items", v), ("item", v, self._item_inverse[v], "users", u))
        for side, own, inverse, other, theirs in sides:
            shrink = l2 * inverse
            mine = parameters[f"{side}s"][own]
            loss += 0.5 * float(np.dot(shrink, np.einsum("ij,ij->i", mine, mine)))
            slopes = error[:, None] * parameters[other][theirs] + shrink[:, None] * mine
            result[f"{side}s"] = _summed(own, slopes * share)
            if self.biases:
                bias = parameters[f"{side}_biases"][own]
                loss += 0.5 * float(np.dot(shrink, bias * bias))
                result[f"{side}_biases"] = _summed(own, (error + shrink * bias)[:, None] * share)
        return loss / len(u), result

    def sweep(
        self, parameters: Mapping[str, np.ndarray], examples: np.ndarray, step_size: float, locking: Locking
    ) -> float:
        """Hogwild!'s loop over ``examples`` (int64), in place, as the authors' code steps it:
        L_u <- (1 - step*l2/|E_u|) L_u - step*err*R_v, and R_v likewise with the old L_u.

        Returns:
          Sum of the examples' objectives, each before its own update.
        """
        data, scalar = self._train, parameters["users"].dtype.type
        return matrix_kernels.sweep(
            *self._tables(parameters), data["user"], data["item"], data["rating"], self._user_inverse,
            self._item_inverse, examples, scalar(self.mean), scalar(step_size), scalar(self.l2), scalar(1),
            *locking.words,
        )  # fmt: skip

    def measure(self, parameters: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``loss``, half the mean squared error, and ``rmse`` over the batch, without the regulariser."""
        error = self.predict(parameters, batch) - batch["rating"]
        squared = float(np.mean(np.square(error, dtype=np.float64)))
        return {"loss": 0.5 * squared, "rmse": squared**0.5}

    def evaluate(self, parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``objective`` over all training ratings; with a test set ``test_loss`` and ``test_rmse``."""
        result = {} if self._test is None else {
            f"test_{name}": value for name, value in self.measure(parameters, self._test.arrays()).items()
        }  # fmt: skip
        data = self._train
        error = self._predictions(parameters, data["user"], data["item"]).astype(np.float64) - data["rating"]
        penalty = 0.0
        for name in self.sparse:
            trained = self._user_inverse > 0 if name.startswith("user") else self._item_inverse > 0
            penalty += float(np.square(parameters[name][trained], dtype=np.float64).sum())
        return {**result, "objective": float(0.5 * np.dot(error, error) + 0.5 * self.l2 * penalty) / len(data)}

    def sparsity(self) -> Sparsity:
        """Omega, Delta and rho of the training ratings; a variable is all factors of one user or item."""
        return sparsity_of_pairs(self._train["user"], self._train["item"] + self.user_ids.size)

    def _clipped(self, ratings: np.ndarray) -> np.ndarray:
        return np.clip(ratings, *self._range) if self.clip else ratings

    def predict(self, parameters: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The rating of each pair, (n,); a pair whose user or item has no rating in train gets the mean and the bias of
        the other."""
        u, v = inputs["user"], inputs["item"]
        knows_user, knows_item = (u >= 0) & (self._user_inverse[u] > 0), (v >= 0) & (self._item_inverse[v] > 0)
        both = knows_user & knows_item
        if both.all():
            return self._clipped(self._predictions(parameters, u, v))
        found = np.full(u.size, self.mean, parameters["users"].dtype)
        found[both] = self._predictions(parameters, u[both], v[both])
        if self.biases:
            for side, own, known in (("user", u, knows_user), ("item", v, knows_item)):
                alone = known & ~both
                found[alone] += parameters[f"{side}_biases"][own[alone]]
        return self._clipped(found)

    def load_inputs(self, path: str) -> dict[str, np.ndarray]:
        """Pairs to predict: a file such as ``test``, which needs no ratings. Unknown ids become -1."""
        known = {"user": self.user_ids, "item": self.item_ids}
        pairs = read_pairs(path, like=self._columns, known=known)
        self._input_notes = self._unknown(pairs, path)
        if pairs.columns is not None and pairs.columns.header is not None:
            self._input_notes.append(f"{path}: the first line is a header: {', '.join(pairs.columns.header)}")
        return self._numbered(pairs)


def _inverse_degrees(column: np.ndarray, count: int, dtype: np.dtype) -> np.ndarray:
    """1/|E_u| (count,), 0 for those without a rating."""
    degrees = np.bincount(column, minlength=count).astype(dtype)
    return np.divide(1, degrees, out=np.zeros_like(degrees), where=degrees > 0)


def _summed(rows: np.ndarray, values: np.ndarray) -> Rows:
    """``values`` (m, width) summed where ``rows`` (m,) are equal."""
    unique, places = np.unique(rows, return_inverse=True)
    total = np.zeros((unique.size, values.shape[1]), values.dtype)
    np.add.at(total, places, values)
    return Rows(unique, total)
