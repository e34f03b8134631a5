"""What tasks made by a call have in common: evaluation in batches, and inputs from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ps.errors import DataError
from worker.data.dataset import Dataset

EVALUATION_BATCH = 512


class MadeTask:
    """What made tasks have in common; a subclass has ``measure``, ``_data`` and ``_test``.

    Class attributes:
      made: it was made by a call.
      given: what was given to that call.
      paths: names of options that are files.
      source: digest of the file that it was made in.
    """

    made: ClassVar[bool] = True
    given: ClassVar[Mapping[str, Any]]
    paths: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    _data: Dataset
    _test: Dataset | None

    def dataset(self) -> Dataset:
        """The training examples."""
        return self._data

    def measure(self, parameters: Mapping[str, np.ndarray], batch: Any) -> dict[str, float]:
        """``loss`` and the metrics, means over the batch in evaluation mode."""
        raise NotImplementedError

    def evaluate(self, parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``test_NAME`` for what ``measure`` gives over the test set; without one nothing."""
        if self._test is None:
            return {}
        totals: dict[str, float] = {}
        count = len(self._test)
        for start in range(0, count, EVALUATION_BATCH):
            examples = np.arange(start, min(start + EVALUATION_BATCH, count))
            for name, value in self.measure(parameters, self._test.take(examples)).items():
                totals[f"test_{name}"] = totals.get(f"test_{name}", 0.0) + value * examples.size
        return {name: total / count for name, total in totals.items()}

    def load_inputs(self, path: str) -> Any:
        """What is to be predicted: by the function given for it, else the array of a .npy file, or x of an .npz file.

        Raises:
          DataError: it is neither.
        """
        if self.given["load_inputs"] is not None:
            return self.given["load_inputs"](path)
        try:
            found = np.load(path, allow_pickle=False)
            return found["x"] if isinstance(found, np.lib.npyio.NpzFile) else found
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path}: must be a .npy file, or a .npz file with an array x: {error}") from None
