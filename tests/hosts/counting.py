"""A user's task that counts, in a parameter of its own, how often each example was pushed: nothing may be lost or applied twice.

It travels with the job to hosts that do not have this file.
"""

import math
import time
from pathlib import Path

import numpy as np


class Counting:
    """A linear classifier of Gaussian clusters. With ``[rule] sgd, lr = 1`` the parameter ``seen`` is exact: +1 per example.

    gate: a folder that all hosts see; see ``tests.hosts.training.Gate``.
    """

    def __init__(self, gate, n=2048, width=20, classes=8):
        self.gate, self.allowed = Path(gate), 0.0
        self.replica = None  # set where it trains
        rng = np.random.default_rng(0)
        self.label = rng.integers(0, classes, n)
        centers = 2 * rng.standard_normal((classes, width))
        self.x = (centers[self.label] + rng.standard_normal((n, width))).astype(np.float32)
        self.classes = classes

    def parameters(self, rng):
        width = self.x.shape[1]
        return {"seen": np.zeros(len(self.x), np.float32), "w": np.zeros((width, self.classes), np.float32)}

    def dataset(self):
        return {"x": self.x, "label": self.label, "number": np.arange(len(self.x))}

    def loss_and_gradient(self, parameters, batch):
        if self.replica is not None:
            self.wait(parameters["seen"].mean())
        odds = batch["x"] @ parameters["w"]
        odds = np.exp(odds - odds.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        rows = np.arange(len(odds))
        loss = -np.log(odds[rows, batch["label"]] + 1e-9).mean()
        odds[rows, batch["label"]] -= 1
        seen = np.zeros_like(parameters["seen"])
        np.subtract.at(seen, batch["number"], 1)
        return float(loss), {"seen": seen, "w": 0.02 * batch["x"].T @ odds / len(odds)}

    def wait(self, epochs):
        """Until the gate is open for a gradient at a center that has seen so many epochs."""
        while epochs >= self.allowed:
            files = (self.gate / "all", self.gate / str(self.replica))
            self.allowed = max((float(file.read_text()) for file in files if file.exists()), default=-math.inf)
            if epochs >= self.allowed:
                (self.gate / f"{self.replica} waits at {self.allowed:g}").touch()
            time.sleep(0.005)

    def evaluate(self, parameters):
        right = (self.x @ parameters["w"]).argmax(axis=1) == self.label
        return {"accuracy": float(right.mean())}
