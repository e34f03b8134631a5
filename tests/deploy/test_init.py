"""``hogshead init``: what it writes, that it keeps what is there, and that two clones do not meet."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploy import init
from deploy.cli import main
from ps.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    folder = tmp_path / "My Clone"
    folder.mkdir()
    (folder / "docker-compose.yml").touch()
    monkeypatch.chdir(folder)
    return folder


def test_it_writes_what_a_cluster_needs(clone, capsys):
    assert main(["init"]) == 0
    env = init.read_env(clone / ".env")
    assert env["COMPOSE_PROJECT_NAME"].startswith("my-clone-")
    service = tomllib.loads((clone / ".hogshead.toml").read_text())["service"]
    assert service == {"address": f"127.0.0.1:{env['SERVICE_PORT']}", "token_file": "secrets/token"}
    tokens = {(clone / "secrets" / name).read_text().strip() for name in init.SECRETS}
    assert len(tokens) == 3 and all(len(token) == 64 for token in tokens)
    assert "docker compose up" in capsys.readouterr().out


def test_only_the_owner_reaches_the_secrets(clone):
    """The files can be read, as the containers' user must; the folder cannot be entered."""
    init.prepare(clone)
    assert stat.S_IMODE((clone / "secrets").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (clone / "secrets").iterdir()} == {0o644}


def test_the_umask_does_not_matter(clone):
    command = [sys.executable, "-c", "import os; os.umask(0o077); from deploy.init import main; main([])"]
    subprocess.run(command, cwd=clone, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (clone / "secrets").iterdir()} == {0o644}


def test_again_it_keeps_everything(clone, capsys):
    init.prepare(clone)
    before = contents(clone)
    assert main(["init"]) == 0
    assert contents(clone) == before
    assert "all is there already" in capsys.readouterr().out


def test_what_is_missing_is_added_and_fits(clone):
    init.prepare(clone)
    (clone / ".env").write_text("SERVICE_PORT=40001\n")
    (clone / ".hogshead.toml").unlink()
    assert init.prepare(clone) == [".hogshead.toml"]
    assert "127.0.0.1:40001" in (clone / ".hogshead.toml").read_text()


def test_the_client_follows_a_port_that_was_changed(clone):
    init.prepare(clone)
    client = clone / ".hogshead.toml"
    (clone / ".env").write_text("SERVICE_PORT=40001\n")
    assert init.prepare(clone) == [".hogshead.toml"]
    assert "127.0.0.1:40001" in client.read_text()
    client.write_text(client.read_text().replace("127.0.0.1", "10.0.0.4"))  # is the user's own now
    (clone / ".env").write_text("SERVICE_PORT=40002\n")
    assert init.prepare(clone) == []


def test_force_makes_all_anew(clone):
    init.prepare(clone)
    before = contents(clone)
    assert len(init.prepare(clone, force=True)) == 5
    assert contents(clone)["secrets/token"] != before["secrets/token"]


def test_force_keeps_what_was_set(clone):
    init.prepare(clone)
    with (clone / ".env").open("a") as env:
        env.write("EXTRAS=torch\nSERVE_OPTIONS='--most-cpus 8  # all'\nSERVICE_PORT=1\n")
    for _ in range(2):
        init.prepare(clone, force=True)
        lines = (clone / ".env").read_text().splitlines()
        assert lines[-2:] == ["EXTRAS=torch", "SERVE_OPTIONS='--most-cpus 8  # all'"]
        assert init.read_env(clone / ".env")["SERVICE_PORT"] != "1"


def test_elsewhere_it_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 2
    assert "run it at the top of a clone" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_two_clones_have_names_of_their_own(tmp_path):
    names = {init.project_name(tmp_path / folder / "hogshead") for folder in ("one", "two")}
    assert len(names) == 2 and all(name.startswith("hogshead-") for name in names)
    assert init.project_name(tmp_path / "___").startswith("hogshead-")


def test_ports_that_are_taken_are_left(monkeypatch):
    monkeypatch.setattr(init, "_is_free", lambda port: port not in (50700, 50880))
    assert init.free_ports() == {"SERVICE_PORT": 50900, "WEB_PORT": 50980, "GRAFANA_PORT": 50930}
    monkeypatch.setattr(init, "_is_free", lambda port: False)
    with pytest.raises(UsageError, match="no free ports"):
        init.free_ports()


def test_it_needs_nothing_but_python(clone):
    """Where only Docker is installed: no package of ours or others has been installed."""
    command = [sys.executable, "-S", "-m", "deploy.init"]
    done = subprocess.run(command, cwd=clone, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (clone / "secrets" / "token").exists()


def test_every_variable_of_the_compose_file_is_named_in_env():
    """What can be set is found in one place."""
    files = (ROOT / "docker-compose.yml", ROOT / "deploy" / "compose.hosts.yml")
    used = {name for file in files for name in re.findall(r"\$\{(\w+)", file.read_text())}
    named = set(re.findall(r"\b[A-Z][A-Z_]+\b", init._ENV))
    assert used - named == set()


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
