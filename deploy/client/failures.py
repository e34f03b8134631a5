"""What a call to the job service can fail with, in words and with the remedy.

::

    UsageError            the service refuses what was asked: wrong job, wrong argument
    HogsheadError
      └── ServiceError    everything else that the service says
            ├── UnknownJob      it has no such job
            ├── WrongToken      it wants another token
            ├── ServiceBusy     it does as much of that as it can at one time
            └── ServiceAway     it cannot be reached, or was lost on the way
"""

from __future__ import annotations

import grpc

from deploy.client.settings import Settings
from deploy.client.status import one_line
from deploy.service.states import BUSY
from ps.errors import HogsheadError, UsageError

_WHERE = "give its address with --address, HOGSHEAD_ADDRESS or .hogshead.toml"
_START = "`docker compose up -d` starts one, and so does `hogshead serve`"


class ServiceError(HogsheadError):
    """The job service refuses, or fails.

    Attributes:
      code: gRPC's name of the status, e.g. ``"FAILED_PRECONDITION"``.
    """

    code = ""


class UnknownJob(ServiceError):
    """The service has no such job."""


class WrongToken(ServiceError):
    """The service wants another token."""


class ServiceBusy(ServiceError):
    """The service does as much of that as it can at one time; later there is a turn."""


class ServiceAway(ServiceError):
    """The service cannot be reached, or the connection was lost."""


def translated(error: grpc.RpcError, settings: Settings) -> UsageError | ServiceError:
    """What to raise instead of gRPC's error."""
    code, details = error.code(), one_line(error.details() or "")
    found = _translated(code, details, settings)
    if isinstance(found, ServiceError):
        found.code = code.name
    return found


def no_job_service(settings: Settings) -> ServiceError:
    """Something else answers."""
    return ServiceError(f"what answers at {settings.address} is no Hogshead job service, or an older one; {_WHERE}")


def _translated(code: grpc.StatusCode, details: str, settings: Settings) -> UsageError | ServiceError:
    status, address = grpc.StatusCode, settings.address
    if code in (status.INVALID_ARGUMENT, status.OUT_OF_RANGE):
        return UsageError(details)
    if code == status.NOT_FOUND:
        return UnknownJob(details)
    if "Concurrent RPC limit" in details:
        return ServiceBusy(f"the service at {address} serves as many calls as it can; try again")
    if code == status.RESOURCE_EXHAUSTED and details.endswith(BUSY):
        return ServiceBusy(details)
    if code == status.UNAUTHENTICATED:
        return WrongToken(_token_words(settings))
    if code == status.UNIMPLEMENTED:
        return ServiceError(
            f"what answers at {address} is no Hogshead job service, or an older one{details and f' ({details})'}; {_WHERE}"
        )
    if code == status.DEADLINE_EXCEEDED:
        return ServiceError(f"the service at {address} did not answer in time; is the machine overloaded? Try again")
    if code == status.UNAVAILABLE:
        return _away(details, settings)
    if code in (status.INTERNAL, status.CANCELLED) and ("RST_STREAM" in details or "Channel closed" in details):
        return _lost(details, settings)
    if code in (status.UNKNOWN, status.INTERNAL) and "http" in details.lower():
        return ServiceError(_speaks_http(address))
    return ServiceError(details or f"the service at {address} failed: {code.name}")


def _token_words(settings: Settings) -> str:
    if settings.token is None:
        return (
            f"the service at {settings.address} wants a token: give it with --token-file, HOGSHEAD_TOKEN, HOGSHEAD_TOKEN_FILE "
            "or .hogshead.toml (`hogshead init` makes one for a new cluster)"
        )
    return (
        f"the service at {settings.address} refuses the token from {settings.token_from}; it must be the one that the service "
        "was started with"
    )


def _away(details: str, settings: Settings) -> ServiceAway:
    lower, address = details.lower(), settings.address
    details = details.rpartition("last error: ")[2]
    if "http/2" in lower or "http1" in lower:
        return ServiceAway(_speaks_http(address))
    if "security handshaker" in lower:
        return ServiceAway("the files of --tls-ca, --tls-cert or --tls-key hold no certificate and key (PEM)")
    if "tls handshake" in lower or "verification" in lower or "certificate" in lower or "ssl" in lower:
        return ServiceAway(_tls_words(details, settings))
    if "resolving" in lower or "name resolution" in lower or "dns" in lower:
        return ServiceAway(f"there is no machine called {address.rpartition(':')[0]!r}; {_WHERE}")
    if "connection refused" in lower:
        return ServiceAway(f"no job service listens at {address}; {_START}; else {_WHERE}")
    if "failed to connect" not in lower:
        return _lost(details, settings)
    if "socket closed" in lower or "reset" in lower or "recvmsg" in lower:
        other = (
            "does it speak TLS at all, and does it want a certificate (--tls-cert)"
            if settings.tls
            else "does it want TLS (--tls-ca)"
        )
        return ServiceAway(
            f"what answers at {address} ends the connection at once; {other}? If it is another program, {_WHERE}"
        )
    return ServiceAway(f"the job service at {address} cannot be reached ({details}); {_WHERE}")


def _lost(details: str, settings: Settings) -> ServiceAway:
    return ServiceAway(f"the connection to the service at {settings.address} was lost ({details})")


def _tls_words(details: str, settings: Settings) -> str:
    address, lower = settings.address, details.lower()
    if "wrong_version" in lower:
        return f"the service at {address} does not speak TLS; leave out --tls and --tls-ca"
    if "hostname" in lower:
        return f"the certificate of the service is not for {address.rpartition(':')[0]!r}; give its name with --tls-server-name"
    if "verify_failed" in lower:
        trusted = f"who {settings.tls_ca} trusts" if settings.tls_ca else "an authority that this system knows"
        return (
            f"the certificate of the service at {address} is not from {trusted}; give --tls-ca with the one it is from"
        )
    return f"no TLS connection to {address}: {details}"


def _speaks_http(address: str) -> str:
    return f"what answers at {address} speaks HTTP, as the web page does; the job service has a port of its own (50700); {_WHERE}"
