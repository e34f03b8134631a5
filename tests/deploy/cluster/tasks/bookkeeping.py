"""Imported by ledger.py, with which it has to travel."""

import os

import numpy as np


class Book:
    """A file of numbers that only this process writes; each entry is there once ``note`` has returned, also after SIGKILL."""

    def __init__(self, folder, name):
        path = os.path.join(folder, f"{name}-{os.getpid()}")
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, numbers):
        os.write(self._file, np.asarray(numbers, np.int32).tobytes())
