"""What a call is answered with when it cannot be done: a status and one line, never a traceback."""

from __future__ import annotations

import logging
from typing import Any

import grpc

from deploy.service.ballast import is_disk_full
from deploy.service.store import UnknownJob, WrongState
from deploy.service.submission import DiskFull
from ps.errors import UsageError

log = logging.getLogger("hogshead.service")

LONGEST = 1000  # characters of a reason
_FAULT = "a fault of the service; see its log"


class Refused(Exception):
    """A call that is refused.

    Args:
      code: name of a gRPC status. reason: one line.
    """

    def __init__(self, code: str, reason: str):
        super().__init__(reason)
        self.code, self.reason = code, reason


def status_of(error: Exception) -> tuple[str, str]:
    """Status and reason for an error; what is nobody's mistake but ours is logged, and not told."""
    if isinstance(error, Refused):
        return error.code, error.reason
    if isinstance(error, UsageError):
        return "INVALID_ARGUMENT", str(error)
    if isinstance(error, UnknownJob):
        return "NOT_FOUND", str(error)
    if isinstance(error, WrongState):
        return "FAILED_PRECONDITION", str(error)
    if isinstance(error, DiskFull):
        return "RESOURCE_EXHAUSTED", str(error)
    if is_disk_full(error):
        log.error("%s", error)
        return "RESOURCE_EXHAUSTED", "the service's disk is full; delete jobs that have ended"
    log.error("a call failed", exc_info=error)
    return "INTERNAL", _FAULT


def refuse(error: Exception, context: grpc.ServicerContext) -> Any:
    """End a call with what an error comes to."""
    if isinstance(error, grpc.RpcError):  # the caller has gone in the middle of its own stream
        raise error
    code, reason = status_of(error)
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())
    context.abort(grpc.StatusCode[code], line[:LONGEST])
