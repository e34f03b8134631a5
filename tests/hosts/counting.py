"""A user's task that counts, in a parameter of its own, how often each example was pushed: nothing may be lost or applied twice.

It travels with the job to hosts that do not have this file.
"""

import time

import numpy as np


class Counting:
    """A linear classifier of Gaussian clusters. With ``[rule] sgd, lr = 1`` the parameter ``seen`` is exact: +1 per example.

    pause_s: each gradient takes at least as long, so that a run lasts long enough to be disturbed.
    """

    def __init__(self, n=2048, width=20, classes=8, pause_s=0.004):
        rng = np.random.default_rng(0)
        self.label = rng.integers(0, classes, n)
        centers = 2 * rng.standard_normal((classes, width))
        self.x = (centers[self.label] + rng.standard_normal((n, width))).astype(np.float32)
        self.classes, self.pause_s = classes, pause_s

    def parameters(self, rng):
        width = self.x.shape[1]
        return {"seen": np.zeros(len(self.x), np.float32), "w": np.zeros((width, self.classes), np.float32)}

    def dataset(self):
        return {"x": self.x, "label": self.label, "number": np.arange(len(self.x))}

    def loss_and_gradient(self, parameters, batch):
        time.sleep(self.pause_s)
        odds = batch["x"] @ parameters["w"]
        odds = np.exp(odds - odds.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        rows = np.arange(len(odds))
        loss = -np.log(odds[rows, batch["label"]] + 1e-9).mean()
        odds[rows, batch["label"]] -= 1
        seen = np.zeros_like(parameters["seen"])
        np.subtract.at(seen, batch["number"], 1)
        return float(loss), {"seen": seen, "w": 0.02 * batch["x"].T @ odds / len(odds)}

    def evaluate(self, parameters):
        right = (self.x @ parameters["w"]).argmax(axis=1) == self.label
        return {"accuracy": float(right.mean())}
