"""On a full disk jobs can be stopped and deleted: that is how it gets room again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.service.ballast import Ballast

ROOT = Path(__file__).parents[3]


def in_own_mounts(*command: str) -> list[str]:
    """A command that may mount file systems, which nothing else sees; skips the test where that is not permitted."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    tried = subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"a file system cannot be mounted here: {tried.stderr.strip()}")
    return [*unshare, *command]


def test_jobs_are_stopped_and_deleted_on_a_full_disk(tmp_path):
    program = in_own_mounts(sys.executable, "-m", "tests.deploy.service.full_volume", str(tmp_path))
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert "delete jobs that have ended" in seen.pop("submit to the full disk")
    assert seen == {
        "stop": "",
        "order": {"wish": "stop", "number": 1},
        "stop one that waits": "",
        "states": ["stopping", "stopped", "succeeded"],
        "delete": "",
        "left": False,
        "submit then": "",
    }
    assert list(tmp_path.iterdir()) == []  # it was mounted for that process alone


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_fails_for_lack_of_room_is_tried_again_with_the_room_that_was_kept(tmp_path):
    ballast, held = Ballast([tmp_path, tmp_path], 1 << 16), tmp_path / ".ballast"
    ballast.hold()
    assert held.stat().st_blocks * 512 >= 1 << 16
    assert ballast.working(lambda: "done") == "done" and held.exists()
    assert ballast.working(lambda: full() if held.exists() else "done") == "done"
    with pytest.raises(OSError, match="No space left"):  # there is no more of it
        ballast.working(full)
    ballast.hold()
    with pytest.raises(PermissionError):
        ballast.working(lambda: (_ for _ in ()).throw(PermissionError()))
    assert held.exists()


def test_no_room_is_kept_where_little_is_free(tmp_path):
    ballast = Ballast([tmp_path], shutil.disk_usage(tmp_path).total)
    ballast.hold()
    assert not (tmp_path / ".ballast").exists()
