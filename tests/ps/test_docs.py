"""Docstrings as users see them: the same from an interpreter that drops docstrings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ps.docs import docstring
from worker.strategies.downpour import Downpour

ROOT = Path(__file__).resolve().parents[2]
SHOW = """
from ps.rules.documentation import meanings
from worker.strategies.downpour import Downpour
print(Downpour.__doc__.splitlines()[0] if __debug__ else "", meanings(Downpour))
"""


def test_an_interpreter_that_drops_docstrings_shows_the_same():
    def shown(*options: str) -> str:
        return subprocess.run(
            [sys.executable, *options, "-c", SHOW], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    kept, dropped = shown(), shown("-OO")
    assert "local steps between two pushes" in dropped
    assert kept.split(" {", 1)[1] == dropped.split(" {", 1)[1]


def test_what_has_no_docstring_has_an_empty_one():
    def bare(): ...

    assert docstring(bare) == "" and docstring(Downpour).startswith("Downpour SGD")
