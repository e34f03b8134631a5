"""A user's task for the tests of the launcher: least squares, with faults on demand."""

import os
import signal
from pathlib import Path

import numpy as np


class LeastSquares:
    """Fits y = x·(0, 1, 2, 3, 4) + noise.

    fault: what goes wrong from the ``after``-th gradient of a process on: "raise", "kill", "stop" (it is stopped,
      as by SIGSTOP), "print", "nan", "shape"; or from the ``after``-th evaluation on: "kill evaluator", "stop evaluator",
      and "evaluate" (it raises).
    text: of the error raised.
    once: a file; the fault happens only while it does not exist, and makes it.
    """

    paths = ("once",)

    def __init__(self, n=512, noise=0.1, fault="", after=4, once="", worker_only=True, text="a bug of my own"):
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((n, 5)).astype(np.float32)
        self.y = (self.x @ np.arange(5.0) + noise * rng.standard_normal(n)).astype(np.float32)
        self.fault, self.after, self.once, self.calls = fault, after, once, 0
        self.text = text
        self.maker = os.getpid() if worker_only else -1
        self.seen = np.zeros(n, np.int64)

    def parameters(self, rng):
        return {"w": np.zeros(5, np.float32)}

    def dataset(self):
        return {"x": self.x, "y": self.y, "number": np.arange(len(self.y))}

    def difficulty(self):
        return np.abs(self.y)

    def loss_and_gradient(self, parameters, batch):
        gap = batch["x"] @ parameters["w"] - batch["y"]
        gradient = batch["x"].T @ gap / len(gap)
        if self.fault and "evaluat" not in self.fault and self.is_due():
            if self.fault == "raise":
                self.own_bug()
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.fault == "print":
                print("a line of my own", flush=True)
            if self.fault == "nan":
                gradient[0] = np.nan
            if self.fault == "shape":
                gradient = gradient[:3]
        return 0.5 * np.mean(gap**2), {"w": gradient}

    def own_bug(self):
        raise RuntimeError(self.text)

    def is_due(self):
        if os.getpid() == self.maker or not self.fault:
            return False
        self.calls += 1
        if self.calls < self.after:
            return False
        if self.once:
            try:
                Path(self.once).touch(exist_ok=False)  # of several workers, one gets here first
            except FileExistsError:
                return False
        return True

    def evaluate(self, parameters):
        if self.fault == "evaluate":
            raise KeyError("nothing here")
        if self.fault.endswith(" evaluator") and self.is_due():
            os.kill(os.getpid(), signal.SIGKILL if self.fault.startswith("kill") else signal.SIGSTOP)
        return {"rmse": float(np.sqrt(np.mean((self.x @ parameters["w"] - self.y) ** 2)))}

    def predict(self, parameters, inputs):
        return inputs @ parameters["w"]
