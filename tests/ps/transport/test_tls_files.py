"""Files that hold no certificate are named before anybody listens."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization

from ps.errors import UsageError
from ps.transport.tls import Tls

from .test_tls import Authority


@pytest.fixture
def pair(tmp_path):
    return Authority(tmp_path, "authority").certificate("node", "127.0.0.1")


def test_good_ones_are_taken(pair):
    Tls(**pair, ca=pair["cert"]).server()


@pytest.mark.parametrize("wrong", ["cert", "key", "ca"])
def test_a_file_of_something_else_is_named(pair, tmp_path, wrong):
    other = tmp_path / "other.pem"
    other.write_text("hello\n")
    with pytest.raises(UsageError, match=r"other\.pem"):
        Tls(**{**pair, wrong: other}).server()


def test_a_key_of_another_certificate_is_refused(pair, tmp_path):
    stranger = Authority(tmp_path, "stranger").certificate("stranger")
    with pytest.raises(UsageError, match="must be a certificate and its private key"):
        Tls(cert=pair["cert"], key=stranger["key"]).server()


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(pair):
    key = serialization.load_pem_private_key(pair["key"].read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"word")
    pair["key"].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    with pytest.raises(UsageError, match="without a password"):
        Tls(**pair).server()
