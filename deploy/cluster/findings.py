"""What a check has found: what is wrong, where, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that is not as a job needs it.

    Attributes:
      kind: a word for programs, e.g. ``"token-wrong"``.
      where: the address or node concerned.
      what: what is wrong, with what was got.
      remedy: what to do.
      fatal: a job cannot run so; otherwise it can, but something will be worse than expected.
    """

    kind: str
    where: str
    what: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
