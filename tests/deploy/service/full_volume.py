"""A service on a volume that is full, for ``test_full_disk``: ``unshare --mount python -m tests.deploy.service.full_volume DIR``.

Mounts a small file system at DIR, which ends with this process's mount namespace, and prints what it has seen as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc

from deploy.service.states import State
from deploy.service.supervisor import Supervisor

from .serving import Client, Serving, folder
from .theatre import StageCluster

VOLUME_BYTES, BALLAST_BYTES = 80 << 20, 1 << 20  # a submission is taken where 64 MiB are free


def main(volume: Path) -> dict[str, Any]:
    """Fill the volume, and use the service then; returns what was seen."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={VOLUME_BYTES}", "tmpfs", str(volume)], check=True)
    seen: dict[str, Any] = {}
    with Serving(volume, ballast_bytes=BALLAST_BYTES) as service:
        client = Client(service.channel())
        supervisor = Supervisor(service.store, StageCluster(), service.jobs)
        at_work, waiting, ended = [client.submit().id for _ in range(3)]
        service.store.change(at_work, set(State), state=State.RUNNING)
        folder(service, at_work).order = {"wish": "", "number": 1}
        service.store.change(ended, set(State), state=State.SUCCEEDED)
        fill(folder(service, ended).path / "checkpoint")
        seen["submit to the full disk"] = refusal(client.submit)
        seen["stop"] = refusal(client.stop, id=at_work)
        supervisor.look()
        seen["order"] = folder(service, at_work).order
        seen["stop one that waits"] = refusal(client.stop, id=waiting)
        fill(volume / "other")  # takes what was kept
    with Serving(volume, ballast_bytes=BALLAST_BYTES) as service:  # restarted, with nothing free
        client = Client(service.channel())
        seen["states"] = [State(service.store.get(job).state) for job in (at_work, waiting, ended)]
        seen["delete"] = refusal(client.delete, id=ended)
        seen["left"] = folder(service, ended).path.exists()
        seen["submit then"] = refusal(client.submit)
    return seen


def fill(path: Path) -> None:
    """Write to a file until there is no room for one more byte."""
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def refusal(call: Any, **fields: Any) -> str:
    """Why a call was refused; empty: it was not."""
    try:
        call(**fields)
    except grpc.RpcError as error:
        return error.details() or "refused"
    return ""


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
