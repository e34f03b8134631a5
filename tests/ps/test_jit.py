"""The folder of compiled kernels: numba's own choice, or a temporary one that is only ours."""

from __future__ import annotations

import os
import sys
import tempfile

import pytest

from ps.jit import ensure_cache


@pytest.fixture
def only_temporary(tmp_path, monkeypatch):
    """Nothing can be written but the temporary folder."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # so that it is as before after the test
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys.modules["numba"].config, "CACHE_DIR", "")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path).startswith(str(tmp_path)))
    return tmp_path


def test_a_writable_folder_is_left_to_numba(monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # so that it is as before after the test
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    ensure_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == "" and capsys.readouterr().err == ""


def test_where_nothing_can_be_written_kernels_are_kept_in_a_temporary_folder(only_temporary, capsys):
    ensure_cache()
    folder = os.environ["NUMBA_CACHE_DIR"]
    assert folder == sys.modules["numba"].config.CACHE_DIR == str(only_temporary / f"hogshead-kernels-{os.getuid()}")
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert f"compiled kernels are kept in {folder}" in capsys.readouterr().err
    ensure_cache()  # as in a child process, which inherits the choice
    assert os.environ["NUMBA_CACHE_DIR"] == folder and capsys.readouterr().err == ""


@pytest.mark.parametrize("planted", ["writable by others", "a link"])
def test_a_folder_that_others_may_have_made_is_not_used(planted, only_temporary):
    folder, other = only_temporary / f"hogshead-kernels-{os.getuid()}", only_temporary / "other"
    other.mkdir()
    if planted == "a link":
        folder.symlink_to(other)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    ensure_cache()
    chosen = os.environ["NUMBA_CACHE_DIR"]
    assert (
        chosen.startswith(str(only_temporary / "hogshead-kernels-"))
        and chosen != str(folder)
        and not list(other.iterdir())
    )
