"""A task that draws from the generators that a process shares: its data, its parameters, and at every step."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np


class Drawing:
    """Draws everything.

    Args:
      drawn: a folder; each worker puts what it draws first into a file.
    """

    def __init__(self, *, drawn=None):
        self.drawn, self.replica = drawn, None  # the framework sets the replica in workers
        self.x = np.random.randn(64, 3)

    def parameters(self, rng):
        return {"w": np.random.randn(3)}

    def dataset(self):
        return {"x": self.x}

    def loss_and_gradient(self, parameters, batch):
        drawn = np.random.randn(3) + random.gauss(0, 1)
        if self.drawn and self.replica is not None:
            with suppress(FileExistsError), open(f"{self.drawn}/{self.replica}", "x") as file:
                file.write(str(drawn.tolist()))
        return 1.0, {"w": drawn + batch["x"].mean(axis=0)}

    def evaluate(self, parameters):
        return {"size": float(np.abs(parameters["w"]).sum()), "drawn": float(np.random.rand() + random.random())}
