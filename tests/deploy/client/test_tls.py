"""Encrypted or not, with the right certificates or wrong ones: each mistake is named with its remedy."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest

from deploy.client.client import connect
from deploy.client.failures import ServiceAway
from deploy.client.wire import Patience
from ps.errors import UsageError
from ps.transport.tls import Tls
from tests.deploy.client.fake import TOKEN, Fake, Server
from tests.ps.transport.test_tls import Authority


@pytest.fixture
def authority(tmp_path):
    pytest.importorskip("cryptography", reason="the package cryptography makes the certificates of these tests")
    return Authority(tmp_path, "ours")


@pytest.fixture
def served(authority):
    """A service whose certificate is for 127.0.0.1."""
    server = Server(Fake(), credentials=Tls(**authority.certificate("service", "127.0.0.1")).server())
    yield server
    server.stop()


def ask(address: str, **tls):
    with connect(address, TOKEN, patience=Patience(call_s=90, lost_s=0), **tls) as client:
        return client.jobs()


def test_an_encrypted_connection(served, authority):
    assert ask(served.address, tls_ca=authority.path) == []


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ({}, "ends the connection at once; does it want TLS"),
        ({"tls": True}, "is not from an authority that this system knows; give --tls-ca"),
        ({"tls_ca": "strangers.pem"}, "is not from who .*strangers.pem trusts; give --tls-ca"),
        ({"tls_ca": "garbage.pem"}, "hold no certificate and key"),
    ],
)
def test_who_is_not_trusted(served, tmp_path, tls, said):
    Authority(tmp_path, "strangers")
    (tmp_path / "garbage.pem").write_text("garbage")
    if "tls_ca" in tls:
        tls = {"tls_ca": tmp_path / tls["tls_ca"]}
    with pytest.raises(ServiceAway, match=said):
        ask(served.address, **tls)


def test_a_certificate_is_for_an_address_or_a_name_that_is_told(served, authority):
    elsewhere = f"localhost:{served.port}"
    with pytest.raises(ServiceAway, match="not for 'localhost'; give its name with --tls-server-name"):
        ask(elsewhere, tls_ca=authority.path)
    assert ask(elsewhere, tls_ca=authority.path, tls_server_name="service") == []


def test_a_service_without_tls(server, authority):
    with pytest.raises(ServiceAway, match="does not speak TLS; leave out --tls"):
        ask(server.address, tls_ca=authority.path)


def test_a_service_that_wants_a_certificate(authority):
    tls = Tls(ca=authority.path, require_client_cert=True, **authority.certificate("service", "127.0.0.1"))
    server = Server(Fake(), credentials=tls.server())
    try:
        with pytest.raises(ServiceAway, match="does it want a certificate|was lost"):
            ask(server.address, tls_ca=authority.path)
        mine = authority.certificate("client")
        assert ask(server.address, tls_ca=authority.path, tls_cert=mine["cert"], tls_key=mine["key"]) == []
    finally:
        server.stop()


def test_a_certificate_that_is_not_there(server):
    with pytest.raises(UsageError, match="cannot read nowhere.pem"):
        ask(server.address, tls_ca="nowhere.pem")


def test_there_is_no_such_machine():
    with pytest.raises(ServiceAway, match="no machine called 'nowhere.invalid'"):
        ask("nowhere.invalid:50700")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n", "speaks HTTP, as the web page does"),
        (b"", "ends the connection at once|was lost"),
    ],
)
def test_something_else_listens(answer, said):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)

        def respond() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, suppress(ConnectionError):  # one who has tried again, and goes in the middle
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        thread = threading.Thread(target=respond)
        thread.start()
        try:
            with pytest.raises(ServiceAway, match=said):
                ask(f"127.0.0.1:{listening.getsockname()[1]}")
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_something_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with connect(address, TOKEN, patience=Patience(call_s=0.3, lost_s=0)) as client:
            with pytest.raises(Exception, match="did not answer in time"):
                client.jobs()
