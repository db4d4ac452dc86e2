"""TLS in both directions, with certificates from files that may be replaced while we run."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import grpc
import grpc.aio
import structlog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM.

    cert, key  ours, as a server and as a client
    ca         of those who may ask us, and of the managers
    name       in the managers' certificates; "": that of their address, localhost for a Unix socket
    """

    cert: str
    key: str
    ca: str
    name: str = ""

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Raises OSError; ssl.SSLError, which is one, for what is no certificate or does not belong together."""
        contents = []
        for path in (self.cert, self.key, self.ca):
            with open(path, "rb") as f:
                contents.append(f.read())
        # gRPC would not say what is wrong
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key, password="")  # else a key that has one would be asked for
        context.load_verify_locations(self.ca)
        return contents[0], contents[1], contents[2]

    def stamp(self) -> tuple[int, ...]:
        """Another one when files were replaced.  Raises OSError."""
        return tuple(os.stat(path).st_mtime_ns for path in (self.cert, self.key, self.ca))


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Clients have to show a certificate, too.  Files that have changed count from the next client on.

    Raises OSError.
    """

    def configuration() -> grpc.ServerCertificateConfiguration:
        cert, key, ca = tls.read()
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca)

    seen = tls.stamp()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        try:
            stamp = tls.stamp()
            if stamp == seen:
                return None
            fresh = configuration()
        except OSError as e:
            log.warning("the certificates cannot be read, the ones before are used", reason=str(e))
            return None
        seen = stamp
        return fresh

    # None stands for no change, of which the type stubs of grpc do not know
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", changed)
    return grpc.dynamic_ssl_server_credentials(configuration(), fetch, require_client_authentication=True)


def channel(target: str, tls: Tls | None) -> grpc.aio.Channel:
    """To a manager.  Raises OSError."""
    options = [("grpc.default_authority", "localhost")] if target.startswith("unix:") else []
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    cert, key, ca = tls.read()
    name = tls.name or ("localhost" if target.startswith("unix:") else "")
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert), options=options)


class Complaint:
    """Why a manager cannot be reached, told once until it can or there is another kind of reason."""

    def __init__(self, event: str, **about: str) -> None:
        self._log = log.bind(**about)
        self._event = event
        self._told: type[Exception] | None = None

    def of(self, e: grpc.aio.AioRpcError | OSError) -> None:
        if type(e) is not self._told:
            self._log.warning(self._event, reason=e.details() if isinstance(e, grpc.aio.AioRpcError) else str(e))
        self._told = type(e)

    def over(self) -> None:
        self._told = None
