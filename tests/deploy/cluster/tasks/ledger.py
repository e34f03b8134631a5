"""A user's task with which it can be counted what was computed, and what was applied how often.

With ``[rule] sgd, lr = 1`` the parameter of an example is minus the number of times that its gradient was applied, and the first
and the last one are minus the number of pushes that the first and the last shard have applied.
"""

import time
from pathlib import Path

import bookkeeping
import numpy as np


class Ledger:
    """folder: each process notes there which examples it has computed, in a file of its own.

    free: gradients that a process computes before it waits for the file ``go`` in ``folder``.
    pause: seconds per gradient.
    patient: the evaluation waits for the file ``look`` in ``folder``.
    """

    def __init__(self, folder, n=512, free=1 << 30, pause=0.002, patient=False, fault_at=1 << 30):
        self.folder, self.n, self.free, self.pause, self.patient = Path(folder), n, free, pause, patient
        self.fault_at = fault_at
        self.replica = None  # set where it trains
        self.book, self.calls = None, 0

    def parameters(self, rng):
        return {"counts": np.zeros(self.n + 2, np.float32)}

    def dataset(self):
        return {"number": np.arange(self.n)}

    def loss_and_gradient(self, parameters, batch):
        if self.replica is not None:
            self.train_on(batch["number"])
        gradient = np.zeros(self.n + 2, np.float32)
        np.add.at(gradient, batch["number"] + 1, 1)
        gradient[[0, -1]] = 1
        return 1.0, {"counts": gradient}

    def train_on(self, numbers):
        self.calls += 1
        if self.calls > self.free:
            self.wait_for("go")
        if self.calls == self.fault_at:
            raise ZeroDivisionError("a bug in the ledger")
        time.sleep(self.pause)
        self.book = self.book or bookkeeping.Book(self.folder, f"computed-{self.replica}")
        self.book.note(numbers)

    def wait_for(self, name):
        while not (self.folder / name).exists():
            time.sleep(0.005)

    def evaluate(self, parameters):
        if self.patient:
            self.wait_for("look")
        return {"applied": float(-parameters["counts"][1:-1].sum())}
