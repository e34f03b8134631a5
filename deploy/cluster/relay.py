"""What the coordinator shows to whoever follows a run: the records, and how it began and ended."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from typing import Any

from deploy.progress import Observer, Record
from deploy.run_directory import plain

_KEPT = 20_000  # records; who follows is never so far behind


class Relay(Observer):
    """Keeps the records for ``since``."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: list[dict[str, Any]] = []
        self._dropped = 0
        self.info: dict[str, Any] | None = None
        self.summary: dict[str, Any] | None = None
        self.error: dict[str, str] | None = None
        self.over = False
        self._life = secrets.token_hex(8)  # another one after a restart

    def started(self, info: Record) -> None:
        with self._changed:
            self.info = plain(info)
            self._changed.notify_all()

    def progress(self, record: Record) -> None:
        with self._changed:
            self._records.append(plain(record))
            if len(self._records) > _KEPT:
                self._dropped += len(self._records) // 2
                del self._records[: len(self._records) // 2]
            self._changed.notify_all()

    evaluation = event = progress

    def finished(self, summary: Record) -> None:
        with self._changed:
            self.summary = plain(summary)
            self._changed.notify_all()

    def failed(self, error: Exception) -> None:
        """The run ended without a summary."""
        with self._changed:
            self.error = {"type": type(error).__name__, "message": str(error)}
            self._changed.notify_all()

    def ended(self) -> None:
        """Everything has been given back; nothing more comes."""
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def since(self, life: str, position: int, timeout_s: float) -> Mapping[str, Any]:
        """What came after ``position`` records; waits a moment for something to come.

        Args:
          life: whose records were counted; those of another relay than this one do not count.
        """
        position = position if life == self._life else 0
        with self._changed:
            self._changed.wait_for(lambda: self._dropped + len(self._records) > position or self.over, timeout_s)
            first = max(position - self._dropped, 0)
            return {
                "life": self._life,
                "position": self._dropped + len(self._records),
                "records": self._records[first:],
                "info": self.info,
                "summary": self.summary,
                "error": self.error,
                "over": self.over,
            }
