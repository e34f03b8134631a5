"""TLS and mutual TLS for the wire."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from ps.errors import UsageError


@dataclass(frozen=True)
class Tls:
    """Certificates of one side, as PEM files.

    Attributes:
      ca: certificates that the other side's must be signed by; None: at a client the system's, at a server nobody's.
      cert: this side's certificate (chain). A server needs one; a client only if the server asks for it.
      key: private key of ``cert``.
      require_client_cert: a server takes nobody without a certificate signed by ``ca`` (mutual TLS).
      server_name: the name that the server's certificate is for, where that is not the address.

    Raises:
      UsageError: ``cert`` without ``key`` or the other way round, or nobody to ask client certificates of.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    require_client_cert: bool = False
    server_name: str | None = None

    def __post_init__(self):
        if (self.cert is None) != (self.key is None):
            raise UsageError(
                "Tls: cert and key must be given together; a certificate without its private key proves nothing"
            )
        if self.require_client_cert and self.ca is None:
            raise UsageError("Tls: require_client_cert needs ca, the certificates that the clients' are signed by")

    def server(self) -> grpc.ServerCredentials:
        """For a server.

        Raises:
          UsageError: no certificate, or a file cannot be read or used.
        """
        if self.cert is None or self.key is None:
            raise UsageError("Tls: a server must have cert and key, got none")
        pair, authority = (_read(self.key), _read(self.cert)), None if self.ca is None else _read(self.ca)
        self._check()
        return grpc.ssl_server_credentials(
            [pair],
            root_certificates=authority,
            require_client_auth=self.require_client_cert,
        )

    def _check(self) -> None:
        """What is wrong with the files; gRPC itself says only that nobody can listen."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key, password="")  # it would ask for one
        except OSError as error:
            raise UsageError(
                f"Tls: {self.cert} and {self.key} must be a certificate and its private key (PEM, without a password): {error}"
            ) from error
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except OSError as error:
                raise UsageError(f"Tls: {self.ca} holds no certificate (PEM): {error}") from error

    def channel(self) -> grpc.ChannelCredentials:
        """For a client.

        Raises:
          UsageError: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            *(None if path is None else _read(path) for path in (self.ca, self.key, self.cert))
        )


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"Tls: cannot read {path}: {error.strerror}") from error
