"""A task of one's own, in numpy: linear regression on generated data. Job: linear_regression.toml."""

import numpy as np


class LinearRegression:
    """Least squares on examples drawn from a linear model.

    Args:
      noise: standard deviation of the targets around the model, >= 0.
      features: number of features.
      examples: number of training examples; a tenth as many are for testing.
    """

    def __init__(self, noise: float = 0.1, features: int = 20, examples: int = 20_000):
        rng = np.random.default_rng(0)  # a seed of its own: every process makes the same data
        self.weights = rng.standard_normal(features)
        self.train = self._draw(rng, examples, noise)
        self.test = self._draw(rng, examples // 10, noise)

    def _draw(self, rng: np.random.Generator, examples: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((examples, self.weights.size))
        y = x @ self.weights + noise * rng.standard_normal(examples)
        return x.astype(np.float32), y.astype(np.float32)

    def parameters(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Initial values by name; their shapes define the model."""
        return {"weights": np.zeros(self.weights.size, np.float32), "bias": np.zeros(1, np.float32)}

    def dataset(self) -> tuple[np.ndarray, np.ndarray]:
        """The training examples; arrays go to shared memory, and a batch is a tuple of the same arrays' rows."""
        return self.train

    def loss_and_gradient(self, parameters, batch) -> tuple[float, dict[str, np.ndarray]]:
        """Mean loss over the batch, and its gradient for every parameter."""
        x, y = batch
        gap = self.predict(parameters, x) - y
        return 0.5 * float(np.mean(gap**2)), {"weights": x.T @ gap / len(y), "bias": np.array([gap.mean()])}

    def evaluate(self, parameters) -> dict[str, float]:
        """How good the parameters are, by any names."""
        x, y = self.test
        return {"test_rmse": float(np.sqrt(np.mean((self.predict(parameters, x) - y) ** 2)))}

    def predict(self, parameters, inputs: np.ndarray) -> np.ndarray:
        """Predictions for an array (n, features)."""
        return inputs @ parameters["weights"] + parameters["bias"]

    def load_inputs(self, path: str) -> np.ndarray:
        """What `hogshead predict RUN FILE` reads: numbers separated by commas, one example a line."""
        return np.loadtxt(path, delimiter=",", ndmin=2, dtype=np.float32)
