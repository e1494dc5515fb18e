"""Where a service is, and who asks: what the synchronous and the asyncio client share."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import grpc

from beamwright import v1
from beamwright.errors import VersionMismatch

DEFAULT_TARGET = os.environ.get("BEAMWRIGHT_SERVER", "127.0.0.1:7410")
"""Where a service is that is not named: what `BEAMWRIGHT_SERVER` says, else this machine."""
API_PACKAGE = "beamwright.v1"
API_REVISION = 1
"""The revision of the API that this client needs."""

RESUME_TRIES = 20
RESUME_PAUSE_S = 0.25
CALL_TIMEOUT_S = 30.0
BLANK_PATIENCE_S = 5.0
"""Between two holders of control lies a blank, which takes a controller a moment to confirm: so long it is waited for."""
BLANK_PAUSE_S = 0.1

_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    # A service that was restarted is found again at once, not after minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


@dataclass(frozen=True)
class Tls:
    """Files of a mutual TLS connection, PEM."""

    ca: str | Path
    """Who signed the service's certificate."""
    certificate: str | Path
    """This client's certificate."""
    key: str | Path
    """Its private key."""
    server_name: str = ""
    """Name in the service's certificate where it is not the host of the address."""

    def credentials(self) -> grpc.ChannelCredentials:
        """As grpc takes them."""
        ca, key, certificate = (Path(path).read_bytes() for path in (self.ca, self.key, self.certificate))
        return grpc.ssl_channel_credentials(ca, key, certificate)


@dataclass(frozen=True)
class Target:
    """A service: `HOST:PORT` or `unix:PATH`, with what proves who calls."""

    address: str = DEFAULT_TARGET
    tls: Tls | None = None
    token: str = ""
    """Bearer token; empty: the transport says who calls."""

    @property
    def plain(self) -> str:
        """The address as grpc takes it; `http://` in front is allowed, as the service prints it."""
        address = self.address.removeprefix("http://").removeprefix("https://").rstrip("/")
        if not address or ("unix:" not in address and ":" not in address):
            raise ValueError(f"address: {self.address!r} is not allowed (allowed: HOST:PORT or unix:PATH)")
        return address

    @property
    def options(self) -> list[tuple[str, object]]:
        """Options of the channel."""
        options: list[tuple[str, object]] = list(_OPTIONS)
        if self.plain.startswith("unix:"):
            # Else grpc names the path as the authority, which is not one by RFC 3986, and the service refuses it.
            options.append(("grpc.default_authority", "localhost"))
        if self.tls and self.tls.server_name:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What every call carries."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []


def holder_of(name: str | None) -> str:
    """What a holder calls itself: `name`, or user, host and process."""
    if name is not None:
        return name
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()} (Python, process {os.getpid()})"


def check_version(info: v1.GetServerInfoResponse, address: str) -> None:
    """Refuses a service that does not fit, in one sentence."""
    if info.api_package != API_PACKAGE:
        raise VersionMismatch(
            f"{address} serves the API {info.api_package!r} and this client speaks {API_PACKAGE!r}: update the older of the two"
        )
    if info.api_revision < API_REVISION:
        raise VersionMismatch(
            f"{address} is Beamwright {info.version} with revision {info.api_revision} of the API and this client needs"
            f" revision {API_REVISION}: update the service"
        )
