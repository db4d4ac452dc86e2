"""The members of an etcd cluster: which of them answers, as whom we talk to them, and what their errors mean."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog

from fastnl_engine.kv.base import Compacted, Denied, KVError, OutcomeUnknown, Refused, Unavailable
from fastnl_engine.kv.pb import etcd_pb2 as pb
from fastnl_engine.kv.pb import etcd_pb2_grpc as stubs

log = structlog.get_logger()

DIAL = 10.0  # seconds until an endpoint that neither takes nor refuses a connection is dialled anew
FIRST_WAIT, LAST_WAIT = 0.05, 5.0  # seconds between attempts

OPTIONS = [
    # a cluster is not reached by the proxy that the environment names for the web
    ("grpc.enable_http_proxy", 0),
    # a member that hangs, or a host that lost power, never closes its connections; etcd cuts off who asks more often
    # than every 5 s (--grpc-keepalive-min-time)
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # a watch may bring many large values at once
    ("grpc.max_receive_message_length", -1),
    # when to dial again is decided here
    ("grpc.use_local_subchannel_pool", 1),
]

# the member or the way to it failed, not the request
BROKEN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
}
# what etcd says when it has not even tried
NOT_DONE = {"etcdserver: no leader", "etcdserver: too many requests"}
# what it says when a token has run out, a member has forgotten it, or users have changed
STALE_TOKEN = {
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",
}
NEW_TOKENS = 3  # that one request asks for: users may just be changing
NO_AUTH = "etcdserver: authentication is not enabled"
TOO_LARGE = "etcdserver: request is too large"
HINTS = {
    "etcdserver: mvcc: database space exceeded": "compact and defragment it, then `etcdctl alarm disarm`",
    "etcdserver: requested lease not found": "it has run out; put the key with a new one",
    TOO_LARGE: "etcd takes 1.5 MiB unless it runs with --max-request-bytes",
    "etcdserver: permission denied": "give the user a role for this prefix (`etcdctl role grant-permission`)",
    "etcdserver: user name is empty": "this etcd wants a user and a password",
    "etcdserver: authentication failed, invalid user ID or password": "check user and password",
}

Metadata = Sequence[tuple[str, str]]
Request = TypeVar("Request")
Response = TypeVar("Response")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM.  ca: who signs the members' certificates, the system's own if not given; cert, key: ours."""

    ca: str = ""
    cert: str = ""
    key: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Read anew for each connection, so that renewed files count.  Raises KVError."""
        ca = self.ca or ssl.get_default_verify_paths().cafile
        if bool(self.cert) != bool(self.key):
            raise KVError("a client certificate needs both `cert` and `key`; one of them is missing")
        try:
            return grpc.ssl_channel_credentials(
                Path(ca).read_bytes() if ca else None,
                Path(self.key).read_bytes() if self.key else None,
                Path(self.cert).read_bytes() if self.cert else None,
            )
        except OSError as e:
            raise KVError(f"{e.filename}: {e.strerror}; is it the path of a PEM file that the engine may read?") from e


class Delay:
    """How long to wait before the next attempt: ever longer, with some chance so that not all come back at once."""

    def __init__(self, first: float = FIRST_WAIT, last: float = LAST_WAIT) -> None:
        self._first, self._last = first, last
        self.reset()

    def reset(self) -> None:
        self._next = self._first

    def next(self) -> float:
        wait = self._next * random.uniform(0.5, 1.0)
        self._next = min(self._last, self._next * 2)
        return wait

    async def pause(self) -> None:
        await asyncio.sleep(self.next())


class Down(Exception):
    """No connection to an endpoint; nothing was sent."""


class Endpoint:
    """One member and its connection.

    heard   when it answered last, by the clock of the loop
    """

    def __init__(self, url: str, tls: Tls | None) -> None:
        scheme, separator, rest = url.partition("://")
        if not separator:
            scheme, rest = "https" if tls else "http", url
        self.target = rest.rstrip("/")
        host, _, port = self.target.rpartition(":")
        if scheme not in ("http", "https") or not host or not port.isascii() or not port.isdigit():
            raise KVError(f"{url!r} is no endpoint of etcd; write http://HOST:PORT or https://HOST:PORT")
        self.url = f"{scheme}://{self.target}"
        self._tls = (tls or Tls()) if scheme == "https" else None
        self._channel: grpc.aio.Channel | None = None
        self._dialling: asyncio.Task[str] | None = None
        self.heard = -math.inf

    def _open(self) -> None:
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(self.target, OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(self.target, self._tls.credentials(), OPTIONS)
        # what is generated has no types
        self.kv: Any = stubs.KVStub(self._channel)  # type: ignore[no-untyped-call]
        self.watch: Any = stubs.WatchStub(self._channel)  # type: ignore[no-untyped-call]
        self.lease: Any = stubs.LeaseStub(self._channel)  # type: ignore[no-untyped-call]
        self.auth: Any = stubs.AuthStub(self._channel)  # type: ignore[no-untyped-call]
        self.maintenance: Any = stubs.MaintenanceStub(self._channel)  # type: ignore[no-untyped-call]

    async def connect(self, seconds: float) -> None:
        """Raises Down, unless there is a connection within `seconds`.  One attempt serves all who wait for it."""
        if self._channel is not None and self._channel.get_state() is grpc.ChannelConnectivity.READY:
            return
        if self._dialling is None:
            self._dialling = asyncio.create_task(self._dial(), name=f"dial {self.url}")
        done, _ = await asyncio.wait({self._dialling}, timeout=max(0.0, seconds))
        if not done:
            raise Down("does not answer")
        reason = next(iter(done)).result()
        if reason:
            raise Down(reason)

    async def _dial(self) -> str:
        """Why there is no connection; "" if there is one."""
        try:
            if self._channel is None:
                self._open()
            assert self._channel is not None
            async with asyncio.timeout(DIAL):
                while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        reason = await self._reason()
                        await self._hang_up()
                        return reason
                    await self._channel.wait_for_state_change(state)
            return ""
        except TimeoutError:
            await self._hang_up()
            return "does not answer"
        finally:
            self._dialling = None

    async def _reason(self) -> str:
        """A channel does not tell why it failed, but a call over it does."""
        try:
            await self.maintenance.Status(pb.StatusRequest(), timeout=1, wait_for_ready=False)
        except grpc.aio.AioRpcError as e:
            # "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:2379: connection refused"
            return str(e.details()).rpartition("last error: ")[2] or e.code().name
        return "the connection broke"

    async def _hang_up(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    async def close(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._dialling
        await self._hang_up()


Invoke = Callable[..., Awaitable[Response]]


class Cluster:
    """Sends requests to the member that answers, and goes on to the next when it does not.

    timeout   seconds that a request may take in all

    trouble   what was wrong the last time; "" if nothing
    """

    def __init__(self, endpoints: Sequence[str], tls: Tls | None, user: str, password: str, timeout: float) -> None:
        if not endpoints:
            raise KVError("no endpoint of etcd is given; write http://HOST:PORT or https://HOST:PORT")
        if user and not password:
            raise KVError(f"etcd's user {user!r} needs a password")
        self.timeout = timeout
        self.trouble = ""
        self.closed = False
        self._endpoints = [Endpoint(url, tls) for url in endpoints]
        # so that the clients of a cluster do not all use its first member
        random.shuffle(self._endpoints)
        self._turn = itertools.cycle(self._endpoints)
        self.endpoint = next(self._turn)
        self._user, self._password = user, password
        self._token: str | None = None  # not known; "": none is needed
        self._login = asyncio.Lock()

    async def close(self) -> None:
        self.closed = True
        for endpoint in self._endpoints:
            await endpoint.close()

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        return self._endpoints

    @property
    def share(self) -> float:
        """Seconds that one member gets, so that each has its turn."""
        return self.timeout / len(self._endpoints)

    def fail(self, endpoint: Endpoint, reason: str) -> KVError:
        """It did not do what was asked of it: the next one has its turn.  Gives an error that says so."""
        if endpoint is self.endpoint:
            self.endpoint = next(self._turn)
        self.note(f"{endpoint.url}: {reason}")
        return Unavailable(f"etcd at {endpoint.url}: {reason}; is it running, and the address right?")

    def note(self, trouble: str) -> None:
        """Something is wrong; the log is told the first time."""
        if not self.trouble:
            log.warning("trouble with etcd", reason=trouble)
        self.trouble = trouble

    def well(self, endpoint: Endpoint) -> None:
        """It answered."""
        endpoint.heard = asyncio.get_running_loop().time()
        if self.trouble:
            log.info("etcd answers again", endpoint=endpoint.url)
            self.trouble = ""

    async def connected(self) -> Endpoint:
        """A member that there is a connection to.  Raises Unavailable when there is none."""
        if self.closed:
            raise KVError("this client of etcd is closed")
        failed: list[str] = []
        for _ in self._endpoints:
            endpoint = self.endpoint
            try:
                await endpoint.connect(self.share)
                return endpoint
            except Down as e:
                self.fail(endpoint, str(e))
                failed.append(f"{endpoint.url} ({e})")
        raise Unavailable(f"no connection to etcd at {', '.join(failed)}; is it running, and the address right?")

    async def call(self, method: Callable[[Endpoint], Invoke[Response]], request: object, *, write: bool) -> Response:
        """One request, tried until the time is up.

        write   whether doing it twice is something else than doing it once: then it is tried again only as long
                as it was certainly not done

        Raises Unavailable, OutcomeUnknown, Denied, Refused, Compacted.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self.timeout
        delay = Delay()
        renewed = 0
        metadata: Metadata = ()
        while True:
            endpoint = await self.connected()
            left = end - loop.time()
            if left <= 0:  # it was the last of many, and the others took all of it
                raise self.fail(endpoint, "does not answer in time")
            sent = False
            try:
                metadata = await self.metadata(endpoint)
                sent = True
                response = await method(endpoint)(request, timeout=min(left, self.share), metadata=metadata)
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as e:
                if isinstance(e, grpc.aio.AioRpcError):
                    code, details = e.code(), str(e.details())
                elif asyncio.current_task().cancelling():  # type: ignore[union-attr]  # only a task can be cancelled
                    raise
                else:  # somebody closed the connection, to dial it anew: gRPC tells by cancelling
                    code, details = grpc.StatusCode.CANCELLED, "the connection was closed"
                if details in STALE_TOKEN and self._user and renewed < NEW_TOKENS:
                    renewed += 1
                    self.forget_token(metadata)
                    continue
                if code not in BROKEN and details not in NOT_DONE:
                    self.well(endpoint)
                    raise explain(endpoint.url, code, details) from e
                reason = "does not answer in time" if code is grpc.StatusCode.DEADLINE_EXCEEDED else details
                error = self.fail(endpoint, reason)
                if write and sent and details not in NOT_DONE:
                    raise OutcomeUnknown(
                        f"etcd at {endpoint.url}: {reason}; whether the change was made is not known: read the key "
                        "before you try again"
                    ) from e
                wait = delay.next()
                if loop.time() + wait >= end:
                    raise error from e
                await asyncio.sleep(wait)
            else:
                self.well(endpoint)
                return response

    # -- who we are ----------------------------------------------------------------------------------

    async def metadata(self, endpoint: Endpoint) -> Metadata:
        """What goes with every request.  Raises Denied, and AioRpcError as a call does."""
        # a member without a leader then says so at once, and ends its watches
        out = [("hasleader", "true")]
        if self._user:
            async with self._login:  # one at a time: the others use what it got
                if self._token is None:
                    self._token = await self._authenticate(endpoint)
            if self._token:
                out.append(("token", self._token))
        return out

    def forget_token(self, metadata: Metadata) -> None:
        """The one that went with a request is not valid any more; another request may have a new one already."""
        if self._token == dict(metadata).get("token", ""):
            self._token = None

    async def _authenticate(self, endpoint: Endpoint) -> str:
        request = pb.AuthenticateRequest(name=self._user, password=self._password)
        try:
            response: pb.AuthenticateResponse = await endpoint.auth.Authenticate(request, timeout=self.share)
        except grpc.aio.AioRpcError as e:
            if e.details() == NO_AUTH:  # a user is given, but this etcd lets everybody in, and no token
                return ""
            raise
        return response.token


def explain(url: str, code: grpc.StatusCode, details: str) -> KVError:
    """What etcd answered, as one of our errors."""
    if "message larger than max" in details:  # what gRPC says before etcd can
        details = TOO_LARGE
    hint = HINTS.get(details, "")
    text = f"etcd at {url}: {details.removeprefix('etcdserver: ')}" + (f"; {hint}" if hint else "")
    if "required revision has been compacted" in details:
        return Compacted(f"{text}; read what is there now")
    if (
        code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        or details in STALE_TOKEN
        or "authentication failed" in details
    ):
        return Denied(text)
    return Refused(text)
