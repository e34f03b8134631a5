"""The containers' health check, light enough to run every few seconds: ``python -m deploy.container.health head|node``."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

from deploy.container.keeper import listens
from deploy.container.settings import Settings

_TIMEOUT_S = 4.0
# What Ray answers to anybody. A node's agent asks its raylet, the head's dashboard the cluster's tables.
RAY = {"head": "http://127.0.0.1:8265/api/gcs_healthz", "node": "http://127.0.0.1:52365/api/local_raylet_healthz"}


def ailing(role: str) -> str:
    """What is wrong here, in a line; "" if nothing is."""
    try:
        with urllib.request.urlopen(RAY[role], timeout=_TIMEOUT_S) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # it is there, and asks for the token
            return f"Ray answers {error.code}"
    except OSError as error:
        return f"Ray does not answer: {error}"
    if role == "head" and not listens(Settings.of(os.environ).service):
        return "the job service does not listen"
    return ""


def main(arguments: Sequence[str]) -> int:
    """0 if all is well."""
    said = ailing(arguments[0])
    print(said or "well")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
