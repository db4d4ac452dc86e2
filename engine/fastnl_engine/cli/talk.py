"""To the engine and back: reaching it, and sending many items in requests that it takes."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from fastnl_engine.cli.options import Settings
from fastnl_engine.config import client_endpoint

if TYPE_CHECKING:
    from fastnl_engine.client import Client

Result = dict[str, Any]

REQUEST = 1000  # items of one request: an answer every second or so, even of slow jobs
REQUEST_BYTES = 4 << 20
WINDOW = 4  # requests in flight, so that the engine has the next one before it is done with the last
BUSY_PAUSE = 0.1  # seconds before an engine that was busy is asked again


class NoAnswer(click.ClickException):
    """No engine, or one that is silent; says what to do."""

    exit_code = 2

    def __init__(self, endpoint: str, why: str) -> None:
        super().__init__(
            f"no engine at {endpoint}: {why}\n"
            "Start one with `fastnl-engine` as root, or say where it is with --endpoint or FASTNL_ENDPOINT; "
            "`fastnl doctor` shows what is in its way."
        )


class Refused(click.ClickException):
    """The engine answered with an error for the whole request."""

    exit_code = 1


@contextlib.contextmanager
def engine(settings: Settings) -> Iterator[Client]:
    """A client whose troubles are messages and exit codes."""
    import zmq

    from fastnl_engine.client import Client, EngineError, NoEngine
    from fastnl_engine.curve import KeyProblem

    endpoint = client_endpoint(settings.endpoint)
    try:
        knock(endpoint)
    except OSError as e:
        raise NoAnswer(endpoint, reason(e)) from None
    try:
        client = Client(endpoint, timeout=settings.timeout)
    except zmq.ZMQError as e:
        raise click.UsageError(f"{endpoint} is no endpoint: {e}") from None
    except KeyProblem as e:
        raise click.UsageError(str(e)) from None
    with client:
        try:
            yield client
        except NoEngine:
            keys = "; does it know your key, and is it the one whose key you gave?" if endpoint[:4] == "tcp:" else ""
            raise NoAnswer(endpoint, f"no answer within {settings.timeout:g} s{keys}") from None
        except EngineError as e:
            raise Refused(str(e)) from None


def knock(endpoint: str) -> int:
    """Pid of the process that listens on an ipc endpoint; 0 for another transport or a process out of sight.

    ZeroMQ itself would try again and again without a word.  Raises OSError.
    """
    if not endpoint.startswith("ipc://"):
        return 0
    path = endpoint.removeprefix("ipc://")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(5)
        s.connect("\0" + path[1:] if path.startswith("@") else path)
        pid: int = struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid


def reason(e: OSError) -> str:
    """Why nobody could be reached, in words."""
    if isinstance(e, FileNotFoundError):
        return "there is no such socket"
    if isinstance(e, ConnectionRefusedError):
        return "nobody listens on it any more"
    if isinstance(e, PermissionError):
        return "you may not use it; be root, or in the group that its folder belongs to"
    return e.strerror or str(e)


class Batch:
    """Items of one command, and what becomes of each.

    results   in the order of the items; None while there is no answer
    sent      how many have gone to the engine
    """

    def __init__(self, op: str, field: str, items: Sequence[Any], *, size: int = REQUEST, **more: Any) -> None:
        self.op = op
        self.field = field
        self.items = items
        self.size = size
        self.more = more
        self.results: list[Result | None] = [None] * len(items)
        self.sent = 0

    @property
    def answered(self) -> list[Result]:
        return [r for r in self.results if r is not None]

    def run(self, client: Client, on_progress: Callable[[int], object] = lambda answered: None) -> None:
        """Sends everything and waits for all answers.  Raises NoEngine; `results` holds what came before."""
        todo = deque(self._requests())
        on_progress(len(self.answered))
        flying: dict[Any, list[int]] = {}
        patience = time.monotonic() + client.timeout
        while todo or flying:
            while todo and len(flying) < WINDOW:
                places = todo.popleft()
                items = [self.items[i] for i in places]
                self.sent += len(places)
                flying[client.send(self.op, **{self.field: items}, **self.more)] = places
            reply = client.receive()
            places = flying.pop(reply.get("id"), [])
            error = reply.get("error")
            code = error.get("code") if error else None
            if (code == "too_large" and len(places) > 1) or (code == "busy" and time.monotonic() < patience):
                # its queue is full, or shorter than the request
                half = len(places) // 2
                todo.extend(part for part in (places[:half], places[half:]) if part)
                if code == "busy":
                    time.sleep(BUSY_PAUSE)
                continue
            patience = time.monotonic() + client.timeout
            for n, place in enumerate(places):
                self.results[place] = failed(self.items[place], error) if error else reply["results"][n]
            on_progress(len(places))

    def _requests(self) -> Iterator[list[int]]:
        """Places of the items of each request.  What cannot be sent at all fails here."""
        import msgpack

        from fastnl_engine.wire import MAX_FRAME

        places: list[int] = []
        weight = 0
        seen: set[str] = set()
        for place, item in enumerate(self.items):
            try:
                size = len(msgpack.packb(item))
            except (ValueError, TypeError, OverflowError, RecursionError) as e:
                self.results[place] = failed(item, {"code": "invalid", "message": f"cannot be sent: {e}"})
                continue
            id_ = id_of(item)
            if id_ in seen:
                # the engine sees this within one request only
                error = {"code": "conflict", "message": f"id: {id_!r} is there twice", "field": "id"}
                self.results[place] = failed(item, error)
                continue
            if id_ is not None:
                seen.add(id_)
            if size > MAX_FRAME - 4096:
                error = {"code": "too_large", "message": f"{size} bytes; a request may have {MAX_FRAME}"}
                self.results[place] = failed(item, error)
                continue
            if places and (len(places) >= self.size or weight + size > REQUEST_BYTES):
                yield places
                places, weight = [], 0
            places.append(place)
            weight += size
        if places:
            yield places


def id_of(item: Any) -> str | None:
    found = item.get("id") if isinstance(item, dict) else item
    return found if isinstance(found, str) else None


def failed(item: Any, error: dict[str, Any]) -> Result:
    """An item's result as the engine would have said it."""
    return {"id": id_of(item), "ok": False, "error": error}
