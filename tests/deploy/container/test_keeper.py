"""The entry point's programs: started again when they end, ended in order, never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from deploy.container.keeper import listens

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[3]


class Kept:
    """A process that keeps programs; what it says, line by line."""

    def __init__(self, folder: Path, body: str):
        script = "from deploy.container.keeper import Keeper, Program\n" + textwrap.dedent(body)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )

    def until(self, text: str) -> list[str]:
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if text in line:
                return seen
        raise AssertionError(f"{text!r} was never said: {seen}")

    def end(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=60)[0]


@pytest.fixture
def keep(tmp_path):
    made = []

    def start(body: str) -> Kept:
        made.append(Kept(tmp_path, body))
        return made[-1]

    yield start
    for kept in made:
        kept.process.terminate()
        kept.process.communicate(timeout=60)


WAIT = '["sh", "-c", "echo {name} $$; exec sleep 600"]'


def test_what_ends_is_started_again_after_it_was_cleaned_up(keep, tmp_path):
    kept = keep("""
        Keeper([Program("one", ["sh", "-c", "echo one; exit 3"], clean=["touch", "cleaned"])]).run()
    """)
    said = kept.until("one ended with 3; again in 2 s")
    assert [line for line in said if line == "one\n"] == ["one\n"] * 2
    assert "hogshead: one ended with 3; again in 1 s\n" in said and (tmp_path / "cleaned").exists()


def test_one_may_die_and_the_other_goes_on(keep):
    kept = keep(f"""
        one = Program("one", {WAIT.format(name="one")})
        two = Program("two", {WAIT.format(name="two")})
        Keeper([one, two]).run()
    """)
    said = kept.until("two ")
    said += [] if any(line.startswith("one ") for line in said) else kept.until("one ")  # they begin side by side
    first, second = (int(line.split()[1]) for line in sorted(said))
    os.kill(first, signal.SIGKILL)
    kept.until("one ended with -9")
    assert int(kept.until("one ")[-1].split()[1]) != first
    os.kill(second, 0)


def test_the_end_is_a_farewell_and_then_the_last_first(keep):
    kept = keep("""
        trap = "trap 'echo ended {0}; exit' TERM; echo begun {0}; while :; do sleep 0.05; done"
        programs = [Program(name, ["sh", "-c", trap.format(name)], grace_s=60) for name in ("one", "two")]
        Keeper(programs, lambda: print("farewell", flush=True)).run()
    """)
    begun = kept.until("begun two")
    if "begun one\n" not in begun:  # they begin side by side
        kept.until("begun one")
    assert kept.end().splitlines() == [
        "hogshead: ending",
        "farewell",
        "ended two",
        "ended one",
    ]
    assert kept.process.returncode == 0


def test_what_does_not_end_is_killed(keep):
    kept = keep("""
        Keeper([Program("deaf", ["sh", "-c", "trap '' TERM; echo begun $$; while :; do sleep 0.05; done"], grace_s=0.3)]).run()
    """)
    pid = int(kept.until("begun")[-1].split()[1])
    kept.end()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_farewell_that_fails_leaves_nobody_behind(keep):
    kept = keep(f"""
        def farewell(): raise SystemExit(4)
        Keeper([Program("one", {WAIT.format(name="one")})], farewell).run()
    """)
    pid = int(kept.until("one ")[-1].split()[1])
    kept.end()
    assert kept.process.returncode == 4
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_waits_for_what_it_needs(keep):
    with socket.socket() as needed:
        needed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{needed.getsockname()[1]}"
        assert not listens(address)
        kept = keep(f"""
            Keeper([Program("one", ["sh", "-c", "echo begun; exec sleep 600"], after="{address}")]).run()
        """)
        assert kept.until("waits")[-1] == f"hogshead: one waits for {address}\n"
        needed.listen()
        assert kept.until("begun") == ["begun\n"]


def test_nobody_listens_at_a_machine_that_there_is_not():
    assert not listens("no-such-host.invalid:80")
