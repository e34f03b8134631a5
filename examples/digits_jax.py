"""A perceptron on handwritten digits, written in JAX. Job: digits_jax.toml. Needs JAX: pip install 'hogshead[jax]'."""

import jax
import numpy as np
from jax import numpy as jnp
from sklearn.datasets import load_digits

import hogshead

TEST = 360


def digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """The last 360 of the shuffled digits are for testing."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    chosen = order[:-TEST] if part == "train" else order[-TEST:]
    return (x[chosen] / 16).astype(np.float32), y[chosen].astype(np.int32)


def init(key, hidden: int = 64):
    """Weights of two layers."""
    first, second = jax.random.split(key)
    return {
        "hidden": {"weight": jax.random.normal(first, (64, hidden)) * (2 / 64) ** 0.5, "bias": jnp.zeros(hidden)},
        "output": {"weight": jax.random.normal(second, (hidden, 10)) * (2 / hidden) ** 0.5, "bias": jnp.zeros(10)},
    }


def logits(parameters, x):
    """Logits (n, 10)."""
    hidden, output = parameters["hidden"], parameters["output"]
    return jax.nn.relu(x @ hidden["weight"] + hidden["bias"]) @ output["weight"] + output["bias"]


def loss(parameters, batch):
    """Perceptron with one hidden layer, softmax loss."""
    x, y = batch
    return -jnp.mean(jax.nn.log_softmax(logits(parameters, x))[jnp.arange(len(y)), y])


def accuracy(parameters, batch):
    """Share of the examples that are classified correctly."""
    x, y = batch
    return {"accuracy": jnp.mean(logits(parameters, x).argmax(1) == y)}


Digits = hogshead.jax_task(
    loss,
    init,
    dataset=lambda: digits("train"),
    test=lambda: digits("test"),
    metrics=accuracy,
    predict=lambda parameters, x: logits(parameters, x).argmax(1),
)
