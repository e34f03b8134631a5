"""A bare copy of this checkout, with a cluster of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploy.init import prepare, read_env

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_IMAGE = "python:3.11.13-slim-bookworm"
BASE_IMAGE = os.environ.get("BASE_IMAGE", DEFAULT_IMAGE)
HOGSHEAD = str(Path(sys.executable).parent / "hogshead")
_WHAT = ("hogshead.py", "pyproject.toml", "LICENSE", "docker-compose.yml", ".dockerignore")
_FOLDERS = ("ps", "worker", "deploy", "examples")
_PULL_S = 60.0
PATIENCE_S = 300.0


def why_not() -> str:
    """Why no cluster can be made here; "" if one can."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for command in (("docker", "info"), ("docker", "compose", "version")):
        if subprocess.run(command, capture_output=True, timeout=PATIENCE_S).returncode:
            return f"`{' '.join(command)}` fails: no Docker engine with Compose v2 answers"
    return ""


def why_no_image() -> str:
    """Why the base image cannot be had; "" if it is there."""
    if not subprocess.run(("docker", "image", "inspect", BASE_IMAGE), capture_output=True).returncode:
        return ""
    try:
        pulled = subprocess.run(("docker", "pull", "--quiet", BASE_IMAGE), capture_output=True, timeout=_PULL_S)
    except subprocess.TimeoutExpired:
        return f"base image {BASE_IMAGE} was not pulled within {_PULL_S:g} s; set BASE_IMAGE to one that is here"
    return f"base image {BASE_IMAGE} cannot be pulled; set BASE_IMAGE to one that is here" if pulled.returncode else ""


class Clone:
    """Args:
      folder: made.

    Attributes:
      project: Compose's name of the cluster. address: of its job service. token: for it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        for name in _WHAT:
            shutil.copy2(ROOT / name, folder / name)
        for name in _FOLDERS:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        prepare(folder)
        env = read_env(folder / ".env")
        self.project = env["COMPOSE_PROJECT_NAME"]
        self.address = f"127.0.0.1:{env['SERVICE_PORT']}"
        self.web = f"http://127.0.0.1:{env['WEB_PORT']}"
        self.token = (folder / "secrets" / "token").read_text().strip()

    def line(self, line: str, timeout: float = PATIENCE_S) -> str:
        """Run a line of README; the command of the environment stands for that of the clone."""
        words = [HOGSHEAD if word == ".venv/bin/hogshead" else word for word in shlex.split(line)]
        return self.run(*words, timeout=timeout).stdout

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Run the client beside the test; what it prints goes to ``said.txt`` in the clone."""
        with (self.folder / "said.txt").open("w") as said:
            return subprocess.Popen(
                (HOGSHEAD, *words),
                cwd=self.folder,
                env=_environment(),
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def run(self, *command: str, check: bool = True, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Run a command at the top of the clone."""
        done = subprocess.run(
            command, cwd=self.folder, env=_environment(), capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
            )
        return done

    def compose(self, *words: str, check: bool = True, timeout: float = PATIENCE_S) -> str:
        """What ``docker compose`` prints."""
        return self.run("docker", "compose", *words, check=check, timeout=timeout).stdout

    def hogshead(self, *words: str, check: bool = True, timeout: float = PATIENCE_S) -> str:
        """What the client prints, that of the environment which the tests run in."""
        return self.run(HOGSHEAD, *words, check=check, timeout=timeout).stdout

    def containers(self, service: str) -> list[str]:
        """Ids of the service's running containers."""
        return self.compose("ps", "--quiet", service).split()

    def left(self) -> list[str]:
        """Containers, volumes and networks of the project."""
        label = f"label=com.docker.compose.project={self.project}"
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [line for kind in kinds for line in _lines("docker", *kind, "--quiet", "--filter", label)]

    def down(self) -> None:
        """Take all away, also what was kept, and the images."""
        self.compose("--profile", "monitoring", "down", "--volumes", "--remove-orphans", "--timeout", "2", check=False)
        images = _lines("docker", "image", "ls", "--quiet", f"{self.project}*")
        if images:
            subprocess.run(("docker", "image", "rm", "--force", *images), capture_output=True)


def readme_commands() -> list[str]:
    """The commands by which README launches a cluster and runs a job."""
    section = (ROOT / "README.md").read_text().partition("\n## Launch a cluster\n")[2]
    blocks = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if "docker compose up" in block).splitlines()


def until(what: str, condition: Callable[[], Any], timeout_s: float = PATIENCE_S, pause_s: float = 0.5) -> Any:
    """Wait for a condition and return what it gave; what it raises counts as not yet."""
    deadline, last = time.monotonic() + timeout_s, ""
    while time.monotonic() < deadline:
        try:
            found = condition()
            if found:
                return found
        except Exception as error:
            last = f"; last: {type(error).__name__}: {error}"
        time.sleep(pause_s)
    raise AssertionError(f"not within {timeout_s:g} s: {what}{last}")


def _environment() -> dict[str, str]:
    """This process's, without its settings of Compose or Hogshead."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "HOGSHEAD_"))}
    return {**kept, "BASE_IMAGE": BASE_IMAGE}


def _lines(*command: str) -> Sequence[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
