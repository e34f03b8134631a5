"""TLS keeps strangers out on both sides."""

from __future__ import annotations

import datetime
import ipaddress

import pytest

from ps.errors import TransportError, UsageError
from ps.transport.retry import Retry
from ps.transport.tls import Tls

from .serving import zeros

BRIEF = Retry(deadline_s=60.0, patience_s=0.0)


class Authority:
    """Signs certificates. Keys are of elliptic curves: made in a moment."""

    def __init__(self, folder, name: str):
        self._folder, self._key = folder, _new_key()
        self._name, self._certificate = _subject(name), None
        self._certificate = self._sign(self._name, self._key, authority=True)
        self.path = self._write(f"{name}.pem", _pem(self._certificate))

    def certificate(self, name: str, *addresses: str) -> dict:
        """A certificate for a name and addresses: {"cert": path, "key": path}."""
        key = _new_key()
        certificate = self._sign(_subject(name), key, (name, *addresses))
        return {
            "cert": self._write(f"{name}.crt", _pem(certificate)),
            "key": self._write(f"{name}.key", _private_pem(key)),
        }

    def _sign(self, subject, key, names=(), authority=False):
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
            now + datetime.timedelta(days=1)
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        if names:
            others = [_general_name(name) for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, content: bytes):
        path = self._folder / name
        path.write_bytes(content)
        return path


def _new_key():
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _subject(name: str):
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _general_name(name: str):
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _private_pem(key) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def authority(tmp_path):
    pytest.importorskip("cryptography", reason="the package cryptography makes the certificates of these tests")
    return Authority(tmp_path, "ours")


def test_an_encrypted_connection(serving, authority):
    made = serving(zeros(4), server={"tls": Tls(**authority.certificate("node", "127.0.0.1"))})
    assert made.port(tls=Tls(ca=authority.path)).version == 0


def test_a_server_that_nobody_vouches_for_is_not_spoken_to(serving, authority, tmp_path):
    made = serving(zeros(4), server={"tls": Tls(**authority.certificate("node", "127.0.0.1"))})
    stranger = Authority(tmp_path, "strangers")
    for tls in (Tls(ca=stranger.path), Tls(), None):
        with pytest.raises(TransportError, match="shard 0 at 127.0.0.1:.*not reached"):
            made.port(tls=tls, retry=BRIEF).version  # noqa: B018


def test_a_certificate_is_for_an_address_or_a_name_that_is_told(serving, authority):
    made = serving(zeros(4), server={"tls": Tls(**authority.certificate("node.example"))})
    with pytest.raises(TransportError, match="not reached"):
        made.port(tls=Tls(ca=authority.path), retry=BRIEF).version  # noqa: B018
    assert made.port(tls=Tls(ca=authority.path, server_name="node.example")).version == 0


def test_a_client_without_a_certificate_is_not_let_in(serving, authority, tmp_path):
    server = Tls(ca=authority.path, require_client_cert=True, **authority.certificate("node", "127.0.0.1"))
    made = serving(zeros(4), server={"tls": server})
    stranger = Authority(tmp_path, "strangers").certificate("mallory")
    for options in ({}, stranger):
        with pytest.raises(TransportError, match="not reached"):
            made.port(tls=Tls(ca=authority.path, **options), retry=BRIEF).version  # noqa: B018
    mine = Tls(ca=authority.path, **authority.certificate("replica"))
    assert made.port(tls=mine).version == 0
    with pytest.raises(TransportError, match="UNAUTHENTICATED"):
        made.port(tls=mine, token="wrong").version  # noqa: B018


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cert": "a"}, "cert and key must be given together"),
        ({"key": "a"}, "cert and key must be given together"),
        ({"require_client_cert": True}, "require_client_cert needs ca"),
    ],
)
def test_halves_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Tls(**options)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    missing = tmp_path / "none.pem"
    with pytest.raises(UsageError, match=f"Tls: cannot read {missing}: No such file"):
        Tls(ca=missing).channel()
    with pytest.raises(UsageError, match=f"cannot read {missing}"):
        Tls(cert=missing, key=missing).server()
    with pytest.raises(UsageError, match="a server must have cert and key"):
        Tls().server()
