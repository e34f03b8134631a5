"""Print the dependencies of a pyproject.toml, one a line, so that an image can install them without the source.

python3 requirements.py pyproject.toml [EXTRA,EXTRA…]
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path


def requirements(pyproject: Path, extras: Sequence[str] = ()) -> list[str]:
    """The dependencies of a project, and those of its optional ones that are named.

    Raises:
      SystemExit: there is no such extra; the message names those that there are.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    known = project.get("optional-dependencies", {})
    unknown = [name for name in extras if name not in known]
    if unknown:
        raise SystemExit(f"EXTRAS: there is no extra {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return [*project["dependencies"], *(line for name in extras for line in known[name])]


if __name__ == "__main__":
    names = sys.argv[2] if len(sys.argv) > 2 else ""
    print(*requirements(Path(sys.argv[1]), [name for name in names.split(",") if name]), sep="\n")
