"""What no real Docker does when asked: a thousand containers, an answer that does not come, an event that is lost."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from tests.fixtures.docker import PATIENCE, Changes

from fastnl.testing import eventually
from fastnl_engine.watch import docker

Follow = Callable[..., Changes]


class Daemon:
    """Docker's interface, as far as it is used, in a thread."""

    def __init__(self, path: str) -> None:
        self.socket = path
        self.containers: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []  # containers, in order
        self.at_once = self.most_at_once = 0
        self.hang: set[str] = set()
        self.broken: set[str] = set()
        self.delay = 0.0  # seconds for each container
        self.unheard = 0  # lists that nobody asked for while listening to events
        self._streams: list[asyncio.Queue[str]] = []
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._up.wait(PATIENCE)

    def add(self, id_: str, label: str, *, pid: int = os.getpid(), created: str = "2026-01-01T00:00:00Z") -> None:
        self.containers[id_] = {
            "Id": id_, "Name": f"/{id_}", "Created": created, "State": {"Pid": pid},
            "Config": {"Labels": None, "Env": [f"MICROSERVICE_LABEL={label}"]},
        }  # fmt: skip

    def tell(self, id_: str, action: str = "start") -> None:
        """An event."""
        self.send(json.dumps({"Type": "container", "Action": action, "Actor": {"ID": id_}, "time": 0}) + "\n")

    def send(self, line: str) -> None:
        """Whatever it is, to all who listen to events."""
        for stream in self._streams:
            self._loop.call_soon_threadsafe(stream.put_nowait, line)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        app = web.Application()
        app.router.add_get("/version", self._version)
        app.router.add_get("/v1.41/containers/json", self._list)
        app.router.add_get("/v1.41/containers/{id}/json", self._inspect)
        app.router.add_get("/v1.41/events", self._events)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.UnixSite(runner, self.socket).start())
        self._loop.call_soon(self._up.set)
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            self._loop.run_until_complete(asyncio.wait([task]))
        self._loop.close()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"ApiVersion": "1.41"})

    async def _list(self, _: web.Request) -> web.Response:
        self.unheard += not self._streams
        return web.json_response(list(self.containers.values()))

    async def _inspect(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        self.asked.append(id_)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.delay)
            while id_ in self.hang:  # noqa: ASYNC110, set by another thread
                await asyncio.sleep(0.01)
        finally:
            self.at_once -= 1
        if id_ in self.broken:
            return web.json_response({"message": "a fault of Docker's"}, status=500)
        if id_ not in self.containers:
            return web.json_response({"message": "no such container"}, status=404)
        return web.json_response(self.containers[id_])

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._streams.append(queue)
        try:
            while True:
                await response.write((await queue.get()).encode())
        finally:
            self._streams.remove(queue)


@pytest.fixture
def daemon(nothing_left: None) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder:
        daemon = Daemon(f"{folder}/docker.sock")
        yield daemon
        daemon.close()


def test_a_thousand(daemon: Daemon, follow: Follow) -> None:
    for i in range(1000):
        daemon.add(f"c{i}", f"m{i}")
    daemon.delay = 0.002
    changes = follow(daemon.socket, wait=False)
    assert eventually(lambda: len(daemon.asked) > 50)
    # one that starts meanwhile does not wait for them
    daemon.add("new", "new")
    daemon.tell("new")
    changes.wait("new", os.getpid())
    assert not changes.microservices.listed
    assert changes.microservices.wait_listed(PATIENCE)
    assert len(changes.told) == len(daemon.asked) == 1001
    assert daemon.most_at_once <= 2 * docker.AT_ONCE
    assert daemon.unheard == 0, "what happens between a list and a subscription is missed"


def test_what_was_missed_is_found(daemon: Daemon, follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "AUDIT", 0.05)
    daemon.add("stays", "stays")
    daemon.add("goes", "goes")
    changes = follow(daemon.socket)
    daemon.add("comes", "comes")
    del daemon.containers["goes"]
    changes.wait("comes", os.getpid())
    changes.wait("goes", None)
    assert changes.of("stays") == [os.getpid()]
    assert daemon.asked.count("stays") == 1, "a list alone tells that nothing changed"


def test_events_that_come_too_fast(daemon: Daemon, follow: Follow) -> None:
    changes = follow(daemon.socket)
    parent = subprocess.Popen(["sleep", "600"])
    try:
        daemon.add("c1", "blue", pid=parent.pid)
        daemon.hang.add("c1")
        daemon.tell("c1")
        assert eventually(lambda: daemon.asked == ["c1"])
        for _ in range(100):
            daemon.tell("c1")
        daemon.tell("c2")  # has come when all before it have
        assert eventually(lambda: "c2" in daemon.asked)
        # the answer that is under way may be of the time before them, so one more is due, not a hundred
        daemon.hang.clear()
        changes.wait("blue", parent.pid)
        assert daemon.asked.count("c1") == 2
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.parametrize("fault", ["hang", "broken"])
def test_one_container_that_docker_does_not_tell_of(
    daemon: Daemon, follow: Follow, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(docker, "PATIENCE", 0.3)
    monkeypatch.setattr(docker, "AUDIT", 0.1)
    getattr(daemon, fault).add("c1")
    daemon.add("c1", "one")
    daemon.add("c2", "two")
    with structlog.testing.capture_logs() as logs:
        changes = follow(daemon.socket)
        changes.wait("two", os.getpid())
        assert eventually(lambda: logs)
    assert logs[0]["container"] == "c1"
    assert changes.microservices.pid_of("one") is None
    getattr(daemon, fault).clear()
    changes.wait("one", os.getpid())


def test_process_out_of_sight(daemon: Daemon, follow: Follow) -> None:
    daemon.add("c1", "blue", pid=2**22 + 1)  # more than any kernel gives
    with structlog.testing.capture_logs() as logs:
        changes = follow(daemon.socket)
    assert changes.told == []
    assert "PID namespace" in logs[0]["event"]


def test_another_process_with_the_same_pid(daemon: Daemon, follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = [1]
    monkeypatch.setattr(docker, "_started", lambda pid: ticks[0])
    daemon.add("c1", "blue", pid=7)
    changes = follow(daemon.socket)
    ticks[0] = 2
    daemon.tell("c1")
    assert eventually(lambda: changes.told == [("blue", 7), ("blue", 7)]), changes.told


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5Z"),
        ("2026-01-01T00:00:00.123456789Z", "2026-01-01T00:00:00.2Z"),
        ("2026-01-01T01:00:00+01:00", "2026-01-01T00:00:01Z"),
    ],
)
def test_newest(daemon: Daemon, follow: Follow, older: str, newer: str) -> None:
    daemon.add("c1", "blue", pid=os.getpid(), created=newer)
    daemon.add("c2", "blue", pid=os.getppid(), created=older)
    assert follow(daemon.socket).microservices.pid_of("blue") == os.getpid()


@pytest.mark.parametrize("container", [{}, {"Name": None, "State": {"Pid": 1}}, {"State": {"Pid": 1}, "Config": None}])
def test_container_that_makes_no_sense(daemon: Daemon, follow: Follow, container: dict[str, Any]) -> None:
    daemon.containers["c1"] = {"Id": "c1", **container}
    daemon.add("c2", "blue")
    with structlog.testing.capture_logs() as logs:
        changes = follow(daemon.socket)
    changes.wait("blue", os.getpid())
    assert [line["container"] for line in logs if line["log_level"] == "warning"] == ["c1"]


def test_event_that_makes_no_sense(daemon: Daemon, follow: Follow) -> None:
    """Docker is asked for everything again."""
    with structlog.testing.capture_logs() as logs:
        changes = follow(daemon.socket)
        daemon.add("c1", "blue")
        daemon.send("[]\n")
        changes.wait("blue", os.getpid())
        assert eventually(lambda: len(logs) == 3)
    assert [line["event"] for line in logs] == ["docker is followed", "docker is away", "docker is followed"]


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiodocker", None)
    with pytest.raises(ImportError, match=r"pip install 'fastnl\[docker\]'"):
        docker.Microservices(lambda label, pid: None)


def test_the_library_is_imported_when_used() -> None:
    code = "import sys, fastnl_engine.watch.docker; sys.exit('aiodocker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0
