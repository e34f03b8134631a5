"""``hogshead serve`` as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grpc

from .serving import TOKEN, Client

ROOT = Path(__file__).parents[3]
NOBODY = "http://127.0.0.1:9"  # where no Ray answers


class Process:
    """A running service."""

    def __init__(self, jobs: Path, *arguments: str, token: str | None = TOKEN):
        environment = {"PATH": "/usr/bin:/bin", **({"HOGSHEAD_TOKEN": token} if token else {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "serve", "--jobs", str(jobs), "--ray", NOBODY, "--port", "0", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        line = self.process.stdout.readline()
        found = re.fullmatch(r"job service at (127\.0\.0\.1:\d+)\n", line)
        if not found:
            self.process.kill()
            raise AssertionError(line + self.process.communicate()[1])
        self.channel = grpc.insecure_channel(found[1], options=[("grpc.use_local_subchannel_pool", 1)])
        self.client = Client(self.channel, token)

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; exit code and what it said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=90)
        return self.process.returncode, said

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()
