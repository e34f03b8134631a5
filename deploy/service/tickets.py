"""Tickets: addresses of single files that a browser may open without the token, for a while.

A link cannot send a header, and a token in an address would end up in histories and logs. So the page gets addresses that are
good for one file and some minutes, signed with a key that only this process knows.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

GOOD_SECONDS = 600


class Tickets:
    """Args:
    clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time):
        self._key, self._clock = secrets.token_bytes(32), clock

    def issue(self, job: str, path: str) -> str:
        """A ticket for a file of a job. The same one for minutes, so that what is shown does not change all the time."""
        until = (int(self._clock()) // GOOD_SECONDS + 2) * GOOD_SECONDS
        return f"{until}.{self._sign(job, path, until)}"

    def good(self, ticket: str, job: str, path: str) -> bool:
        """Whether this is a ticket for that file, and still good."""
        until, _, signature = ticket.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 16):
            return False
        signed = hmac.compare_digest(signature.encode(), self._sign(job, path, int(until)).encode())
        return signed and self._clock() < int(until)

    def _sign(self, job: str, path: str, until: int) -> str:
        content = "\0".join((job, path, str(until))).encode()
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()
