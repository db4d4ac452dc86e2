"""For tests: the engine as its users have it, a process with sockets.

    with EngineProcess(folder) as engine:
        client = engine.client()
        ...
        engine.kill()       # SIGKILL
        engine.start()      # with the same state

Nothing here is needed to run an engine or to be its client.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import zmq

from fastnl.testing import PATIENCE, eventually, spawn
from fastnl_engine.client import Client

# what is said of defects, by the engine, asyncio or Python, and of nothing else
DEFECT = re.compile(r"please report|Traceback|Exception ignored")


class EngineProcess:
    """A `fastnl-engine` with a folder of its own for sockets and state.

    folder   with a short path, as that of a Unix socket may have 107 bytes only
    flags    come last on the command line, so they count
    prefix   a command that starts the engine's, such as setpriv
    env      on top of this process's environment, which loses its FASTNL_* settings

    broken   whether a defect is brought about on purpose; of any other `close` tells
    Raises AssertionError, with what the engine said, where it does not do what was asked of it.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        instance: str = "test",
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/engine.sock"
        self.events = f"ipc://{folder}/events.sock"
        self.state = folder / "state"
        self.instance = instance
        self.flags = list(flags)
        self.prefix = list(prefix)
        self.env = dict(env or {})
        self.broken = False
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[Client | RawSocket | Subscriber] = []

    def __enter__(self) -> EngineProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def command(self) -> list[str]:
        return [
            *self.prefix, sys.executable, "-m", "fastnl_engine.main", "--endpoint", self.endpoint,
            "--events", self.events, "--state-dir", str(self.state), "--instance", self.instance, *self.flags,
        ]  # fmt: skip

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything that engines in this folder have said."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # -- life and death ------------------------------------------------------------------------------

    def launch(self) -> None:
        """Starts it without waiting until it serves."""
        assert not self.running, "it is running already"
        environ = {k: v for k, v in os.environ.items() if not k.startswith("FASTNL_")} | self.env
        with open(self.folder / "log", "ab") as log:
            self.process = spawn(self.command, stdout=log, stderr=log, env=environ)

    def start(self) -> EngineProcess:
        """Starts it and waits for its first answer."""
        self.launch()
        probe = RawSocket(self.endpoint)
        try:
            probe.ask(id=0, op="info")
            deadline = time.monotonic() + PATIENCE
            while not probe.socket.poll(50):
                assert self.running, f"the engine ended:\n{self.log}"
                assert time.monotonic() < deadline, f"the engine does not serve:\n{self.log}"
        finally:
            probe.close()
        return self

    def resumed(self) -> EngineProcess:
        """Waits until the latest start has looked at everything that the last run left."""
        assert eventually(lambda: "event=resumed" in self.log.rpartition("event=serving")[2]), self.log
        return self

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self.process is not None
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the engine does not end:\n{self.log}") from None

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        assert self.process is not None
        self.process.kill()
        self.wait()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP until the `with` block ends: then it has all that happened meanwhile before it at once."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            assert eventually(lambda: " T " in Path(f"/proc/{self.pid}/stat").read_text())
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> EngineProcess:
        """Starts it again with the same state, after `stop` if it is running."""
        if self.running:
            code = self.stop()
            assert code == 0, f"exit code {code}:\n{self.log}"
        return self.start()

    def hang_up(self) -> None:
        """Closes every client."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def close(self) -> None:
        """Closes every client and kills it, if it is running.  Raises AssertionError when it told of a defect.

        Most defects that an engine outlives would be seen by nobody: the next attempt makes good what failed.
        """
        self.hang_up()
        if self.running:
            self.kill()
        defects = [line for line in self.log.splitlines() if DEFECT.search(line)]
        assert self.broken or not defects, "\n".join(["the engine told of a defect:", *defects, "", self.log[-4000:]])

    # -- ways in -------------------------------------------------------------------------------------

    def client(self, timeout: float = PATIENCE) -> Client:
        """A client that `close` closes."""
        client = Client(self.endpoint, timeout=timeout)
        self._clients.append(client)
        return client

    def raw(self, kind: int = zmq.DEALER) -> RawSocket:
        """A bare ZeroMQ socket that `close` closes."""
        raw = RawSocket(self.endpoint, kind)
        self._clients.append(raw)
        return raw

    def subscribe(self, prefix: str = "connection.") -> Subscriber:
        """Events from now on, until `close`."""
        subscriber = Subscriber(self, prefix)
        self._clients.append(subscriber)
        return subscriber


class RawSocket:
    """What a client in any language has: frames."""

    def __init__(self, endpoint: str, kind: int = zmq.DEALER, options: Mapping[int, int | bytes] | None = None) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(kind)
        for option, value in {zmq.LINGER: 0, zmq.RECONNECT_IVL: 5, **(options or {})}.items():
            self.socket.setsockopt(option, value)
        self.socket.connect(endpoint)

    def close(self) -> None:
        self.socket.close()
        self._context.term()

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def ask(self, **request: Any) -> None:
        """Sends a request of version 1."""
        self.send(msgpack.packb({"v": 1, **request}))

    def frames(self) -> list[bytes]:
        """The next message, as it comes."""
        assert self.socket.poll(PATIENCE * 1000), "no answer"
        return self.socket.recv_multipart()

    def reply(self) -> dict[str, Any]:
        """The next message, which has to be a reply."""
        frames = self.frames()
        assert len(frames) == 1, f"a reply is one frame, not {len(frames)}"
        reply: dict[str, Any] = msgpack.unpackb(frames[0], strict_map_key=False)
        assert isinstance(reply, dict)
        return reply

    def request(self, *frames: bytes, **request: Any) -> dict[str, Any]:
        """Sends one request, as frames or as fields, and gives its reply."""
        if frames:
            self.send(*frames)
        else:
            self.ask(**request)
        return self.reply()


class Subscriber:
    """Events of an engine, from the moment that the constructor returns."""

    PROBE = "subscribed?"

    def __init__(self, engine: EngineProcess, prefix: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.subscribe(prefix)
        self._socket.subscribe(f"connection.pending.{self.PROBE}")
        self._socket.connect(engine.events)
        # ZeroMQ does not tell when a subscription has arrived; an event that comes through does
        ends = {end: {"netns": "no-such-namespace", "ifname": end} for end in "ab"}
        client = Client(engine.endpoint, timeout=PATIENCE)
        try:
            deadline = time.monotonic() + PATIENCE
            while not self._socket.poll(20):
                assert time.monotonic() < deadline, "no events"
                client.connect([{"id": self.PROBE, "kind": "veth", **ends}], wait=True)
                client.disconnect([self.PROBE])
        finally:
            client.close()

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def next(self) -> tuple[str, dict[str, Any]]:
        """Topic and body of the next event."""
        while True:
            assert self._socket.poll(PATIENCE * 1000), "no event"
            topic, body = self._socket.recv_multipart()
            if not topic.endswith(self.PROBE.encode()):
                return topic.decode(), msgpack.unpackb(body)


# -- jobs ------------------------------------------------------------------------------------------


def end(netns: str, ifname: str, *addresses: str, **more: Any) -> dict[str, Any]:
    """An End of the protocol."""
    out: dict[str, Any] = {"netns": netns, "ifname": ifname, **more}
    return out | {"addresses": list(addresses)} if addresses else out


def pair(id: str, a: Mapping[str, Any], b: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A Connection of kind veth."""
    return {"id": id, "kind": "veth", "a": dict(a), "b": dict(b), **more}


def tunnel(id: str, a: Mapping[str, Any], *, mtu: int | None = None, **vxlan: Any) -> dict[str, Any]:
    """A Connection of kind vxlan; `vxlan` are the tunnel's fields."""
    out: dict[str, Any] = {"id": id, "kind": "vxlan", "a": dict(a), "vxlan": vxlan}
    return out | {"mtu": mtu} if mtu is not None else out
