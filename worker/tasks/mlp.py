"""Multi-layer perceptrons on dense data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from ps.errors import DataError, UsageError
from worker.data.dataset import ArrayDataset
from worker.data.dense import read_examples, read_inputs
from worker.data.files import NUMPY_MAGIC, first_bytes, locate, read_bytes, read_text
from worker.data.split import split
from worker.tasks import checks
from worker.tasks.network import Layer, Trace, softmax, softmax_loss, squared_loss

NAME = "mlp"
_LOSSES = {"softmax": softmax_loss, "squared": squared_loss}
_BLOCK = 2048  # examples per block of an evaluation; fewer where so many take more than the bytes below
_BLOCK_BYTES = 256 << 20
_LEAST_VECTORS = 3  # initial values, a replica's parameters and their gradient
_DRAWN = 1 << 20  # initial values at a time


class MLP:
    """Multi-layer perceptron (ReLU or tanh, dropout, batch normalisation) for classification or regression.

    Options of [task]:
      hidden: sizes of the hidden layers, for example [256, 128]; [] is a linear model.
      activation: "relu" or "tanh".
      loss: "softmax" (negative log-likelihood; targets are integers >= 0) or "squared" (|output - y|^2 / 2; targets are
        reals).
      dropout: probability that a hidden output is dropped in training, in [0, 1).
      batch_norm: normalise each hidden layer over the batch (Ioffe and Szegedy 2015); the running mean and variance are
        averaged parameters and are used in evaluation. A batch of one example uses them too.
      averaging: weight of a new observation in the running statistics, in (0, 1].
      init: "he" (standard deviation sqrt(2/inputs)), "xavier" (sqrt(2/(inputs + outputs))) or "auto": he for relu,
        xavier for tanh. Biases start at 0.
      classes: number of classes, if more than those in train.
      scale: factor on the inputs; by default 1/255 for uint8 data, else 1.
      standardize: give every input mean 0 and deviation 1 over the training set (after ``scale``).
      dtype: "float32" or "float64".
    Options of [data]:
      train: "sklearn:digits" (or iris, wine, breast_cancer, diabetes), an .npz with arrays x and y, a folder of
        MNIST-like idx files (its train- files) or one images file, or a csv whose last column is the target.
      test: likewise (of a folder, its t10k- files). The columns of a csv are matched by name if both have a header.
      test_fraction: without test, the part of train that is held out, in [0, 1).
      split_seed: seed of that split.
      difficulty: file (.npy, or text with one number a line) with the difficulty of each training example, for a
        curriculum.

    Raises:
      UsageError: an option out of its bound. DataError: the data cannot be used.
    """

    paths = ("train", "test", "difficulty")

    def __init__(
        self,
        train: str,
        test: str | None = None,
        hidden: Sequence[int] = (256, 128),
        activation: str = "relu",
        loss: str = "softmax",
        dropout: float = 0.0,
        batch_norm: bool = False,
        averaging: float = 0.1,
        init: str = "auto",
        classes: int | None = None,
        scale: float | None = None,
        standardize: bool = False,
        dtype: str = "float32",
        test_fraction: float = 0.0,
        split_seed: int = 0,
        difficulty: str | None = None,
    ):
        checks.require(
            isinstance(hidden, (list, tuple)), NAME, "hidden", "a list of layer sizes such as [256, 128]", hidden
        )
        hidden = [checks.integer(size, 1, NAME, "hidden (each size)") for size in hidden]
        self.loss = checks.one_of(loss, _LOSSES, NAME, "loss")
        self.activation = checks.one_of(activation, ("relu", "tanh"), NAME, "activation")
        self.dropout = checks.fraction(dropout, NAME, "dropout")
        self.batch_norm = checks.boolean(batch_norm, NAME, "batch_norm")
        self.averaging = checks.number(averaging, NAME, "averaging")
        checks.require(0 < self.averaging <= 1, NAME, "averaging", "in (0, 1]", averaging)
        self.init = checks.one_of(init, ("auto", "he", "xavier"), NAME, "init")
        self.dtype = np.dtype(checks.one_of(dtype, ("float32", "float64"), NAME, "dtype"))
        checks.boolean(standardize, NAME, "standardize")
        fraction = checks.fraction(test_fraction, NAME, "test_fraction")
        if test is not None and fraction:
            raise UsageError(f"{NAME}: give either a test file or test_fraction, got both")
        checks.integer(split_seed, 0, NAME, "split_seed")
        #: Draws the dropout masks; the framework gives each replica its own.
        self.rng = np.random.default_rng(0)

        pairs, kept, self._names = _read(train, test, fraction, split_seed)
        if loss == "softmax":
            outputs = _class_count(pairs, (train, test or train), classes)
        else:
            outputs = _make_real(pairs, train, self.dtype)
        self._train = ArrayDataset(pairs[0])
        self._test = ArrayDataset(pairs[1]) if len(pairs) > 1 else None
        self._set_scaling(scale, standardize)
        self._difficulty = None if difficulty is None else _read_difficulty(difficulty, kept, len(self._train))
        self.sizes = [pairs[0]["x"].shape[1], *hidden, outputs]
        #: What decides the number of parameters, for messages.
        self.model_size = f"[task] hidden = {hidden}" + (f", classes = {classes}" if classes is not None else "")
        self.layers = [Layer(f"layer{k}", activation, batch_norm, dropout) for k in range(1, len(hidden) + 1)]
        self.layers.append(Layer("output", "none"))
        self.averaged = tuple(
            f"{layer.name}.{statistic}"
            for layer in self.layers
            if layer.normalise
            for statistic in ("mean", "variance")
        )

    def _set_scaling(self, scale: float | None, standardize: bool) -> None:
        """Inputs are used as ``x * factor + offset``: scalars, or arrays (d,)."""
        x = self._train["x"]
        if scale is None:
            scale = 1 / 255 if x.dtype == np.uint8 else 1.0
        self._factor, self._offset = self.dtype.type(checks.number(scale, NAME, "scale")), None
        if standardize:
            mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
            factor = 1 / np.where(deviation > 0, deviation, 1)  # in units of the data: the scale cancels
            self._factor, self._offset = factor.astype(self.dtype), (-mean * factor).astype(self.dtype)

    def _inputs(self, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        scaled = np.multiply(x, self._factor, dtype=dtype)
        return scaled if self._offset is None else np.add(scaled, self._offset, out=scaled)

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Initial values: ``layer1.weight`` (inputs, outputs), ``layer1.bias`` (outputs,), ..., ``output.weight``; with
        batch_norm ``layer1.scale``, ``.shift``, ``.mean`` and ``.variance`` instead of the bias."""
        connections = sum((inputs + 1) * outputs for inputs, outputs in zip(self.sizes, self.sizes[1:], strict=False))
        checks.fits(connections, _LEAST_VECTORS, self.dtype, NAME, self.model_size)
        found: dict[str, np.ndarray] = {}
        he = self.init == "he" or (self.init == "auto" and self.activation == "relu")
        for layer, inputs, outputs in zip(self.layers, self.sizes, self.sizes[1:], strict=False):
            deviation = np.sqrt(2 / (inputs if he else inputs + outputs))
            found[f"{layer.name}.weight"] = _normal(rng, (inputs, outputs), deviation, self.dtype)
            constants = {"scale": 1, "shift": 0, "mean": 0, "variance": 1} if layer.normalise else {"bias": 0}
            for name, value in constants.items():
                found[f"{layer.name}.{name}"] = np.full(outputs, value, self.dtype)
        return found

    def dataset(self) -> ArrayDataset:
        """The training examples: a batch is ``{"x": (m, d), "y": (m,) or (m, k)}``."""
        return self._train

    def loss_and_gradient(
        self, parameters: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Mean loss of the batch and its gradient, in training mode; for averaged names the batch's own statistics."""
        gradient = {name: np.empty_like(value) for name, value in parameters.items()}
        return self.loss_and_gradient_into(parameters, batch, gradient), gradient

    def loss_and_gradient_into(
        self, parameters: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray], gradient: Mapping[str, np.ndarray]
    ) -> float:
        """As ``loss_and_gradient``, the gradient written into the arrays given."""
        traces = self._forward(parameters, batch["x"], self.rng)
        losses, slope = _LOSSES[self.loss](traces[-1].outputs, batch["y"])
        slope *= slope.dtype.type(1 / len(losses))
        for position in range(len(self.layers) - 1, -1, -1):
            slope = self.layers[position].backward(parameters, traces[position], slope, gradient, wanted=position > 0)
        return float(losses.mean())

    def _forward(self, parameters, x: np.ndarray, rng: np.random.Generator | None) -> list[Trace]:
        inputs = self._inputs(x, parameters["output.weight"].dtype)
        traces = []
        for layer in self.layers:
            traces.append(layer.forward(parameters, inputs, rng))
            inputs = traces[-1].outputs
        return traces

    def outputs(self, parameters: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The network's outputs (n, outputs) in evaluation mode: logits or reals."""
        x = inputs["x"]
        block = max(min(_BLOCK, _BLOCK_BYTES // self.working_bytes(1)), 1)
        blocks = [self._forward(parameters, x[k : k + block], None)[-1].outputs for k in range(0, len(x), block)]
        return np.concatenate(blocks)

    def working_bytes(self, examples: int) -> int:
        """Memory that the outputs of all layers take for a batch of so many examples."""
        return examples * sum(self.sizes[1:]) * self.dtype.itemsize

    def measure(self, parameters: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``loss`` and ``accuracy`` (softmax) or ``rmse`` (squared), means over the batch in evaluation mode."""
        found = self.outputs(parameters, batch)
        result = {"loss": float(_LOSSES[self.loss](found, batch["y"])[0].mean())}
        if self.loss == "softmax":
            result["accuracy"] = float(np.mean(found.argmax(1) == batch["y"]))
        else:
            result["rmse"] = float(np.sqrt(np.mean((found - batch["y"]) ** 2)))
        return result

    def evaluate(self, parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``test_loss`` and ``test_accuracy`` or ``test_rmse``; without a test set nothing."""
        if self._test is None:
            return {}
        return {f"test_{name}": value for name, value in self.measure(parameters, self._test.arrays()).items()}

    def baseline(self) -> dict[str, float]:
        """``test_accuracy`` of the most frequent class of the training data for every example of the test set;
        ``test_rmse`` of their means."""
        if self._test is None:
            return {}
        known, asked = self._train["y"], self._test["y"]
        if self.loss == "softmax":
            return {"test_accuracy": float(np.mean(asked == np.bincount(known).argmax()))}
        return {"test_rmse": float(np.sqrt(np.mean((asked - known.mean(0, dtype=np.float64)) ** 2)))}

    def difficulty(self) -> np.ndarray:
        """Difficulty of each training example (n,), from the file of that option; low is easy."""
        if self._difficulty is None:
            raise UsageError(
                f"{NAME}: a curriculum needs difficulties; name a file of them: [data] difficulty = 'FILE.npy'"
            )
        return self._difficulty

    def predict(
        self, parameters: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray], output: str | None = None
    ) -> np.ndarray:
        """What the network says of each example.

        Args:
          output: "label" (the class (n,)), "score" (the outputs (n, k): logits or reals) or "probability" (the softmax
            (n, k)); None is the label, for a squared loss the score.

        Raises:
          UsageError: a network with squared loss has scores only.
        """
        classifies = self.loss == "softmax"
        if output is None:
            output = "label" if classifies else "score"
        checks.output_of(output, checks.OUTPUTS if classifies else ("score",), f"{NAME} with loss = {self.loss!r}")
        found = self.outputs(parameters, inputs)
        if output == "label":
            return found.argmax(1)
        return found if output == "score" else softmax(found)

    def load_inputs(self, path: str) -> dict[str, np.ndarray]:
        """Examples to predict, from any file that ``test`` may be, or a ``.npy``; targets are not used and may be missing."""
        x = read_inputs(path, width=self.sizes[0], like=self._names)
        self._check_width(x, path)
        return {"x": x}

    def _check_width(self, x: np.ndarray, path: str) -> None:
        if x.shape[1] != self.sizes[0]:
            raise DataError(
                f"{NAME}: {path}: must have {self.sizes[0]} inputs per example as train has, got {x.shape[1]}"
            )


def _normal(rng: np.random.Generator, shape: tuple[int, int], deviation: float, dtype: np.dtype) -> np.ndarray:
    """Drawn in float64 as a whole matrix would be, but some rows at a time: the draws are twice as large as the result."""
    found = np.empty(shape, dtype)
    rows = max(_DRAWN // shape[1], 1)
    for first in range(0, shape[0], rows):
        part = found[first : first + rows]
        part[...] = rng.standard_normal(part.shape) * deviation
    return found


def _read(
    train: str, test: str | None, fraction: float, seed: int
) -> tuple[list[dict[str, np.ndarray]], np.ndarray | None, tuple[str, ...] | None]:
    """Training and, if any, test examples; which of the file's examples are trained on (None: all); the columns' names."""
    found = read_examples(train, part="train")
    x, y = found.x, found.y
    if fraction:
        chosen, held_out = split(len(x), fraction, seed)
        return [{"x": x[chosen], "y": y[chosen]}, {"x": x[held_out], "y": y[held_out]}], chosen, found.names
    pairs = [{"x": x, "y": y}]
    if test is not None:
        tested = read_examples(test, part="test", like=found.names)
        if tested.x.shape[1] != x.shape[1]:
            raise DataError(
                f"{NAME}: {test}: must have {x.shape[1]} inputs per example as train has, got {tested.x.shape[1]}"
            )
        pairs.append({"x": tested.x, "y": tested.y})
    return pairs, None, found.names


def _class_count(pairs: list[dict[str, np.ndarray]], names: tuple[str, str], classes: int | None) -> int:
    """Make the labels int64 and return the number of classes; ``names`` are the files of training and test examples."""
    train = names[0]
    for pair, name in zip(pairs, names, strict=False):
        y = pair["y"]
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1:
            raise DataError(
                f"{NAME}: {name}: labels must be integers (n,), got shape {y.shape}; or set loss = 'squared'"
            )
        bad = np.flatnonzero((y < 0) | (y != np.floor(y)))
        if bad.size:
            raise DataError(
                f"{NAME}: {name}: labels must be integers >= 0, got {y[bad[0]]} in row {bad[0]} (from 0); "
                "for real targets set loss = 'squared'"
            )
        pair["y"] = y.astype(np.int64)
    seen = int(pairs[0]["y"].max()) + 1
    if classes is not None:
        seen = checks.integer(classes, max(seen, 2), NAME, "classes", "train has that many")
    if seen > 100_000:
        raise DataError(
            f"{NAME}: {train}: labels up to {seen - 1} make as many classes; for real targets set loss = 'squared'"
        )
    out_of_range = [int(y) for pair in pairs[1:] for y in pair["y"] if y >= seen]
    if out_of_range:
        raise DataError(
            f"{NAME}: {names[1]}: test labels must be < {seen}, the number of classes in train, got {out_of_range[0]}; "
            "set classes"
        )
    return max(seen, 2)


def _make_real(pairs: list[dict[str, np.ndarray]], train: str, dtype: np.dtype) -> int:
    """Make the targets (n, k) of ``dtype`` and return k."""
    for pair in pairs:
        pair["y"] = pair["y"].reshape(len(pair["y"]), -1).astype(dtype)
    if len({pair["y"].shape[1] for pair in pairs}) > 1:
        raise DataError(f"{NAME}: {train}: train and test must have equally many targets")
    return pairs[0]["y"].shape[1]


def _read_difficulty(name: str, kept: np.ndarray | None, count: int) -> np.ndarray:
    """Difficulties (count,) of the examples trained on; the file has one for each example of ``train``."""
    path = locate(name, f"{NAME}: difficulty")
    try:
        if first_bytes(path, 6) == NUMPY_MAGIC:
            found = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
        else:
            found = np.loadtxt(io.BytesIO(read_text(path)), ndmin=1)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: must be a .npy file or text with one number a line: {error}") from error
    needed = count if kept is None else int(kept.max()) + 1
    if found.ndim != 1 or len(found) < needed or (kept is None and len(found) != count) or not np.isfinite(found).all():
        raise DataError(
            f"{path}: must hold one finite number for each of the examples of train, got shape {found.shape}"
        )
    return found if kept is None else found[kept]
