"""What a coordinator must know again after it was killed: written before anything that follows from it is done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = ".coordinator.json"


class Journal:
    """One file of a run directory, always whole.

    Args:
      run: the run directory. uid: of the run; what another has left there is not read.
    """

    def __init__(self, run: Path, uid: str):
        self._path, self._uid = run / NAME, uid

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace what stands there. It survives this process, not the machine, and need not: then the run is resumed."""
        beside = self._path.with_name(f"{NAME}.new")
        beside.write_text(json.dumps({"uid": self._uid, **state}), encoding="utf-8")
        os.replace(beside, self._path)

    def read(self) -> dict[str, Any] | None:
        """What was written last, or None at the first start."""
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return state if state.get("uid") == self._uid else None

    def remove(self) -> None:
        """The run is over."""
        self._path.unlink(missing_ok=True)


def is_whole(known: Mapping[str, Any]) -> bool:
    """There is something to take over; otherwise the one that was killed had not begun, or was at its end."""
    return "coordinator" in known
