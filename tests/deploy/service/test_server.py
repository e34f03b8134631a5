"""Who is let in to the job service, what it says of itself, and encryption."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from deploy.service.auth import check_exposure, find_token, is_loopback
from deploy.service.server import SERVICE, JobServer
from deploy.wire import jobs_pb2 as pb
from ps.errors import UsageError
from ps.transport.tls import Tls
from tests.ps.transport.test_tls import Authority

from .serving import TOKEN, Client, Serving, refused

HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
METHODS = [(SERVICE.full_name, method.name) for method in SERVICE.methods]


def raw(channel, service, method, *messages, token=TOKEN):
    """The answers of any method to raw messages."""
    call = channel.stream_stream(f"/{service}/{method}")
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    return list(call(iter(messages), metadata=metadata, timeout=60))


OTHERS = [(SERVICE.full_name, "Nonsense"), (HEALTH, "Check"), (HEALTH, "Watch"), (REFLECTION, "ServerReflectionInfo")]


def test_every_call_must_carry_the_token(service):
    channel, code = service.channel(), grpc.StatusCode.UNAUTHENTICATED
    for place in (*METHODS, *OTHERS):
        for token, reason in (
            (None, "no token"),
            ("", "a wrong token"),
            (TOKEN + "x", "a wrong token"),
            (TOKEN[:-1], "wrong"),
        ):
            refused(code, reason, raw, channel, *place, b"", token=token)
        refused(code, "every call must carry the service's token", raw, channel, *place, token=None)
    assert not service.store.changes


def test_without_a_token_everybody_is_let_in(tmp_path):
    with Serving(tmp_path, token=None) as service:
        assert Client(service.channel(), token=None).list() == Client(service.channel()).list()


@pytest.mark.parametrize("token", ["", "a\nb", "ä"])
def test_a_token_that_cannot_be_sent_is_refused(service, token):
    with pytest.raises(UsageError, match="token must be printable ASCII"):
        JobServer(service.servicer, token=token)


def test_health_until_it_ends(tmp_path):
    with Serving(tmp_path) as service:
        channel = service.channel()
        for name in ("", SERVICE.full_name):
            (answer,) = raw(channel, HEALTH, "Check", health_pb2.HealthCheckRequest(service=name).SerializeToString())
            assert health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING
        service.server.stop()
        refused(grpc.StatusCode.UNAVAILABLE, "", raw, channel, HEALTH, "Check", b"")


def test_reflection_gives_the_schema(service):
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE.full_name),
    ]
    answers = raw(service.channel(), REFLECTION, "ServerReflectionInfo", *(each.SerializeToString() for each in asked))
    listed, file = map(reflection_pb2.ServerReflectionResponse.FromString, answers)
    assert {entry.name for entry in listed.list_services_response.service} == {SERVICE.full_name, HEALTH, REFLECTION}
    assert pb.DESCRIPTOR.serialized_pb in file.file_descriptor_response.file_descriptor_proto


def test_a_port_that_is_taken_is_said(service):
    other = JobServer(service.servicer, token=TOKEN, port=service.port)
    with pytest.raises(
        UsageError, match=f"cannot listen at 127.0.0.1:{service.port}; .* Give another --bind or --port"
    ):
        other.start()


# -- encryption -------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ours")


def reachable(service, tls: Tls) -> bool:
    try:
        Client(service.channel(tls.channel())).list()
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        return False
    return True


def test_tls(tmp_path, authority):
    stranger = Authority(tmp_path, "theirs")
    with Serving(tmp_path, tls=Tls(**authority.certificate("localhost"))) as service:
        assert reachable(service, Tls(ca=authority.path))
        assert not reachable(service, Tls(ca=stranger.path))
        refused(grpc.StatusCode.UNAVAILABLE, "", Client(service.channel()).list)  # unencrypted
        refused(
            grpc.StatusCode.UNAUTHENTICATED,
            "",
            Client(service.channel(Tls(ca=authority.path).channel()), token=None).list,
        )


def test_mutual_tls(tmp_path, authority):
    stranger = Authority(tmp_path, "theirs")
    tls = Tls(ca=authority.path, require_client_cert=True, **authority.certificate("localhost"))
    with Serving(tmp_path, tls=tls) as service:
        assert reachable(service, Tls(ca=authority.path, **authority.certificate("me")))
        assert not reachable(service, Tls(ca=authority.path))
        assert not reachable(service, Tls(ca=authority.path, **stranger.certificate("me")))


# -- tokens and addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_token(bind, caplog):
    assert is_loopback(bind)
    check_exposure(bind, None, encrypted=False)
    assert "there is no token" in caplog.text
    caplog.clear()
    check_exposure(bind, TOKEN, encrypted=False)
    assert not caplog.text


@pytest.mark.parametrize(
    "bind", ["0.0.0.0", "::", "[::]", "", "0", "*", "10.0.0.4", "192.0.2.1", "no.such.host.invalid", "a" * 300]
)
def test_anything_else_does(bind, caplog):
    with pytest.raises(UsageError, match="can be reached from other machines, and there is no token"):
        check_exposure(bind, None, encrypted=True)
    check_exposure(bind, TOKEN, encrypted=True)
    assert not caplog.text
    check_exposure(bind, TOKEN, encrypted=False)
    assert "is not encrypted" in caplog.text


def test_where_the_token_comes_from(tmp_path, monkeypatch, caplog):
    for name in ("HOGSHEAD_TOKEN", "HOGSHEAD_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert find_token(None) is None
    (tmp_path / "a").write_text("token-of-file-a-1\n")
    (tmp_path / "b").write_text("token-of-file-b-1\n")
    monkeypatch.setenv("HOGSHEAD_TOKEN_FILE", str(tmp_path / "b"))
    assert find_token(None) == "token-of-file-b-1"
    monkeypatch.setenv("HOGSHEAD_TOKEN", "token-of-variable")
    assert find_token(None) == "token-of-variable"
    assert find_token(str(tmp_path / "a")) == "token-of-file-a-1" and not caplog.text
    (tmp_path / "a").chmod(0o666)
    find_token(str(tmp_path / "a"))
    assert "can be written by others" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"two words are no token",
        "tökentökentöken".encode(),
        b"\xff" * 20,
        b"line one line\nline two line",
    ],
)
def test_what_is_no_token_is_refused(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match="openssl rand|cannot be read"):
        find_token(str(tmp_path / "token"))


def test_a_token_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="absent cannot be read: No such file"):
        find_token(str(tmp_path / "absent"))
