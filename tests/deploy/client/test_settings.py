"""Where the service is: what wins over what, and what cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.client import settings
from deploy.client.settings import DEFAULT_ADDRESS, find_settings
from ps.errors import UsageError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_anything_it_is_this_machine():
    found = find_settings()
    assert (found.address, found.token, found.tls) == (DEFAULT_ADDRESS, None, False)


def test_flags_over_environment_over_file(monkeypatch):
    write(Path(".hogshead.toml"), '[service]\naddress = "file:1"\ntls_ca = "a.pem"\ntls_server_name = "file"\n')
    assert find_settings().address == "file:1"
    monkeypatch.setenv("HOGSHEAD_ADDRESS", "environment:2")
    monkeypatch.setenv("HOGSHEAD_TLS_SERVER_NAME", "environment")
    found = find_settings({"address": None})
    assert (found.address, found.tls_server_name) == ("environment:2", "environment")
    assert found.tls_ca == str(Path.cwd() / "a.pem")  # relative to the file, not to where one stands
    found = find_settings({"address": "flag:3", "tls_ca": "b.pem"})
    assert (found.address, found.tls_ca, found.tls_server_name, found.tls) == ("flag:3", "b.pem", "environment", True)


def test_the_nearest_file_counts(tmp_path, monkeypatch):
    write(tmp_path / "here" / ".hogshead.toml", '[service]\naddress = "outer:1"\ntoken_file = "secrets/token"\n')
    write(tmp_path / "here" / "secrets" / "token", "from the clone\n")
    inner = tmp_path / "here" / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    found = find_settings()
    assert (found.address, found.token) == ("outer:1", "from the clone")
    assert found.token_from.endswith("here/secrets/token")
    write(tmp_path / "here" / "a" / ".hogshead.toml", '[service]\naddress = "nearer:1"\n')
    assert (find_settings().address, find_settings().token) == ("nearer:1", None)


def test_at_last_the_users_own_file(tmp_path, monkeypatch):
    write(tmp_path / "config" / "hogshead" / "config.toml", '[service]\naddress = "home:1"\ntls = true\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert (find_settings().address, find_settings().tls) == ("home:1", True)


def test_which_token_wins(monkeypatch):
    for name in ("one", "two", "three"):
        write(Path(name), f" {name}\n")
    write(Path(".hogshead.toml"), '[service]\ntoken_file = "one"\n')
    assert find_settings().token == "one"
    monkeypatch.setenv("HOGSHEAD_TOKEN_FILE", "two")
    assert find_settings().token == "two"
    monkeypatch.setenv("HOGSHEAD_TOKEN", "itself")
    assert (find_settings().token, find_settings().token_from) == ("itself", "HOGSHEAD_TOKEN")
    assert find_settings({"token_file": "three"}).token == "three"
    assert find_settings({"token_file": "three"}, token="given").token == "given"
    assert "given" not in repr(find_settings(token="given"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[service\n", "cannot be read as TOML"),
        ("[service]\nadress = 'a:1'\n", "did you mean 'address'"),
        ("[service]\naddress = 1\n", "must be a string"),
        ("service = 3\n", "must be a table"),
    ],
)
def test_a_wrong_file_is_named(text, said):
    write(Path(".hogshead.toml"), text)
    with pytest.raises(UsageError, match=said) as error:
        find_settings()
    assert str(Path.cwd() / ".hogshead.toml") in str(error.value)


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":1", "host:0", "host:70000", "host:1x", "http://host:1", "::1:50700"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(UsageError, match="address"):
        find_settings({"address": address})


def test_addresses_that_are_one():
    for address in ("localhost:50700", "[::1]:50700", "10.0.0.4:1", "head.example.com:65535"):
        assert find_settings({"address": address}).address == address


@pytest.mark.parametrize("text", ["", "two\nlines", "schlüssel"])
def test_tokens_that_cannot_be_one(text):
    write(Path("token"), text)
    with pytest.raises(UsageError, match="token"):
        find_settings({"token_file": "token"})


def test_other_mistakes(monkeypatch):
    with pytest.raises(UsageError, match="token file nowhere cannot be read: No such file"):
        find_settings({"token_file": "nowhere"})
    with pytest.raises(UsageError, match="go together"):
        find_settings({"tls_cert": "c.pem"})
    monkeypatch.setenv("HOGSHEAD_TLS", "perhaps")
    with pytest.raises(UsageError, match="HOGSHEAD_TLS must be 1 or 0, got 'perhaps'"):
        find_settings()
    monkeypatch.setenv("HOGSHEAD_TLS", "yes")
    assert find_settings().tls


EVIL = '[service]\naddress = "evil:1"\n'


@pytest.mark.parametrize("place", [".hogshead.toml", "../.hogshead.toml"])
def test_a_file_or_a_folder_that_others_may_write_is_not_read(place, monkeypatch, tmp_path):
    """Whoever writes it is sent the token."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    path = write(Path(place), EVIL).resolve()
    assert find_settings().address == "evil:1"
    path.chmod(0o666)
    with pytest.raises(UsageError, match="can be written by other users and is not read; `chmod go-w"):
        find_settings()
    path.chmod(0o644)
    path.parent.chmod(0o777)
    with pytest.raises(UsageError, match=f"other users can write to {path.parent}; `chmod go-w"):
        find_settings()
    path.parent.chmod(0o1777)  # as /tmp: there nobody replaces another user's file
    assert find_settings().address == "evil:1"
    # It is not even looked at where nothing is missing.
    path.chmod(0o666)
    monkeypatch.setenv("HOGSHEAD_TOKEN", "mine")
    assert find_settings({"address": "good:1"}).address == "good:1"


def test_a_group_that_is_not_the_callers_own_counts_as_others(monkeypatch):
    path = write(Path(".hogshead.toml"), EVIL)
    path.chmod(0o664)
    assert find_settings().address == "evil:1"
    monkeypatch.setattr(settings.os, "getgid", lambda: path.stat().st_gid + 1)
    with pytest.raises(UsageError, match="can be written by other users"):
        find_settings()


@pytest.mark.parametrize("caller", [0, 54321])
def test_a_file_of_another_user_is_not_read_also_not_by_root(caller, monkeypatch):
    path, owner = write(Path(".hogshead.toml"), EVIL), os.getuid()
    if owner == 0:
        owner = 12345
        os.chown(path, owner, -1)
    monkeypatch.setattr(settings.os, "getuid", lambda: caller)
    with pytest.raises(UsageError, match="belongs to the user .*, as it says where your token is sent; give --address"):
        find_settings()
    monkeypatch.setattr(settings.os, "getuid", lambda: owner)
    assert find_settings().address == "evil:1"


def test_a_link_of_another_user_is_not_followed(monkeypatch, tmp_path):
    real = write(tmp_path / "mine" / "config", EVIL)
    link = Path(".hogshead.toml")
    link.symlink_to(real)
    assert find_settings().address == "evil:1"
    real.parent.chmod(0o777)
    with pytest.raises(UsageError, match=f"other users can write to {real.parent}"):
        find_settings()
    real.parent.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(link, 12345, -1, follow_symlinks=False)
        with pytest.raises(UsageError, match="belongs to the user with id 12345"):
            find_settings()
