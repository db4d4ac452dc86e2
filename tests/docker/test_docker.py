"""Microservices of a real Docker engine: whatever happens to a container, its process is known soon after."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.fixtures.docker import PATIENCE, Changes, Docker

from fastnl.testing import eventually
from fastnl_engine.watch import docker as watch

Follow = Callable[..., Changes]
ENV = ["PATH=/", "MICROSERVICE_LABEL=blue"]


@pytest.fixture(autouse=True)
def no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found here is found by events and by the list after a lost stream."""
    monkeypatch.setattr(watch, "AUDIT", 3600.0)


def netns(pid: int | str) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


# -- which containers are microservices ----------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        {"env": ENV},
        {"labels": {"fastnl.microservice": "blue"}},
        {"env": ["MICROSERVICE_LABEL=red"], "labels": {"fastnl.microservice": "blue"}},
        {"env": ENV, "labels": {"fastnl.microservice": ""}},
    ],
    ids=["variable", "label", "label-before-variable", "empty-label"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_found(docker: Docker, follow: Follow, what: dict[str, Any], when: str) -> None:
    if when == "before":
        pid = docker.run("c1", **what)
        changes = follow(docker.socket)
        assert changes.told == [("blue", pid)]  # all is told when `listed` is set
    else:
        changes = follow(docker.socket)
        assert changes.told == []
        pid = docker.run("c1", **what)
    changes.wait("blue", pid)
    assert changes.microservices.pid_of("red") is None
    # it is the container's own process, with a namespace of its own
    assert docker.inspect("c1")["Id"] in Path(f"/proc/{pid}/cgroup").read_text()
    assert netns(pid) != netns("self")


def test_other_names(docker: Docker, follow: Follow) -> None:
    changes = follow(docker.socket, docker_label="org.example.label", variable="NAME")
    docker.run("c1", env=ENV, labels={"fastnl.microservice": "blue"})
    by_label = docker.run("c2", labels={"org.example.label": "one"})
    by_variable = docker.run("c3", env=["NAME=two"])
    changes.wait("one", by_label)
    changes.wait("two", by_variable)
    assert changes.of("blue") == []


def test_no_microservices(docker: Docker, follow: Follow) -> None:
    with structlog.testing.capture_logs() as logs:
        changes = follow(docker.socket)
        docker.run("c1")
        docker.run("c2", env=["MICROSERVICE_LABEL="])
        docker.run("c3", env=["NOT_MICROSERVICE_LABEL=blue"])
        docker.run("c4", env=["MICROSERVICE_LABEL=a\tb"])
        changes.wait("blue", docker.run("last", env=ENV))
        assert eventually(lambda: any("cannot be printed" in line["event"] for line in logs))
    assert [label for label, _ in changes.told] == ["blue"]
    assert [line["container"] for line in logs if line["log_level"] == "warning"] == ["c4"]


# -- what happens to a container -------------------------------------------------------------------------


@pytest.fixture
def running(docker: Docker, follow: Follow) -> Iterator[tuple[Docker, Changes, int]]:
    changes = follow(docker.socket)
    pid = docker.run("c1", env=ENV)
    changes.wait("blue", pid)
    yield docker, changes, pid


Running = tuple[Docker, Changes, int]


@pytest.mark.parametrize("how", ["stop", "kill", "kill?signal=TERM", "remove", "process"])
def test_ends_and_comes_back(running: Running, how: str) -> None:
    docker, changes, pid = running
    if how == "remove":
        docker.remove("c1")
    elif how == "process":
        os.kill(pid, signal.SIGKILL)
    else:
        docker.post("c1", how)
    changes.wait("blue", None)
    if how == "remove":
        docker.create("c1", env=ENV)
    docker.post("c1", "start")
    again = docker.pid("c1")
    changes.wait("blue", again)
    assert changes.of("blue") == [pid, None, again]


def test_restart(running: Running) -> None:
    docker, changes, pid = running
    docker.post("c1", "restart")
    again = docker.pid("c1")
    assert again != pid
    changes.wait("blue", again)
    assert changes.of("blue") in ([pid, None, again], [pid, again])


def test_restarts_by_itself(docker: Docker, follow: Follow) -> None:
    changes = follow(docker.socket)
    pid = docker.run("c1", env=ENV, RestartPolicy={"Name": "always"})
    changes.wait("blue", pid)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: changes.of("blue")[-1] not in (pid, None))
    changes.wait("blue", docker.pid("c1"))


def test_signal_that_does_not_end_it(running: Running) -> None:
    docker, changes, pid = running
    docker.post("c1", "kill?signal=WINCH")
    docker.post("c1", "pause")
    docker.post("c1", "unpause")
    changes.wait("last", docker.run("c2", labels={"fastnl.microservice": "last"}))
    assert changes.of("blue") == [pid]


def test_rename(running: Running) -> None:
    docker, changes, pid = running
    docker.post("c1", "rename?name=c9")
    with structlog.testing.capture_logs() as logs:
        changes.wait("blue", docker.run("c2", env=ENV))
        assert eventually(lambda: logs)
    assert logs[0]["others"] == ["c9"]
    docker.remove("c2")
    changes.wait("blue", pid)
    docker.post("c9", "stop")
    changes.wait("blue", None)


def test_one_label_twice(running: Running) -> None:
    docker, changes, old = running
    with structlog.testing.capture_logs() as logs:
        new = docker.run("c2", env=ENV)
        changes.wait("blue", new)
    [line] = logs
    assert (line["label"], line["counts"], line["others"]) == ("blue", "c2", ["c1"])
    # the older one comes back, but the newer one still counts
    docker.post("c1", "restart")
    old = docker.pid("c1")
    changes.wait("last", docker.run("c3", labels={"fastnl.microservice": "last"}))
    assert changes.of("blue")[1:] == [new]
    # until it ends
    docker.post("c2", "kill")
    changes.wait("blue", old)
    docker.post("c1", "kill")
    changes.wait("blue", None)
    assert changes.of("blue")[1:] == [new, old, None]


def test_many_at_once(docker: Docker, follow: Follow, record_property: Callable[[str, object], None]) -> None:
    changes = follow(docker.socket)
    labels = [f"m{i}" for i in range(20)]
    for label in labels:
        docker.create(label, env=[f"MICROSERVICE_LABEL={label}"])
    with ThreadPoolExecutor(len(labels)) as pool:
        list(pool.map(lambda label: docker.post(label, "start"), labels))
    for label in labels:
        changes.wait(label, docker.pid(label))
    assert len(changes.told) == len(labels)
    started = {label: datetime.fromisoformat(docker.inspect(label)["State"]["StartedAt"]) for label in labels}
    took = sorted(
        (when - started[label].timestamp()) * 1000 for (label, _), when in zip(changes.told, changes.when, strict=True)
    )
    report = f"found after p50 {took[len(took) // 2]:.1f} ms, max {took[-1]:.1f} ms"
    print(report)
    record_property("latency", report)
    with ThreadPoolExecutor(len(labels)) as pool:
        list(pool.map(lambda label: docker.post(label, "kill"), labels))
    for label in labels:
        changes.wait(label, None)


def test_on_change_that_fails(docker: Docker, follow: Follow) -> None:
    changes = follow(docker.socket)
    changes.when = None  # type: ignore[assignment]  # so that it raises
    with structlog.testing.capture_logs() as logs:
        docker.run("c1", env=ENV)
        assert eventually(lambda: logs)
    assert (logs[0]["log_level"], logs[0]["label"]) == ("error", "blue")
    changes.when = []
    docker.post("c1", "kill")
    changes.wait("blue", None)


# -- what happens to Docker ------------------------------------------------------------------------------


class Proxy:
    """A Unix socket in front of Docker's that can be cut."""

    def __init__(self, path: str, behind: str) -> None:
        self.path = path
        self._behind = behind
        self._open = True
        self._ends: dict[socket.socket, socket.socket] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(100)
        self._thread = threading.Thread(target=self._run)
        self._lock = threading.Lock()
        self._ending = False
        self._thread.start()

    @property
    def connections(self) -> int:
        return len(self._ends)

    def cut(self) -> None:
        """Ends what is open, and whatever comes until `mend`."""
        with self._lock:
            self._open = False
            self._hang_up()

    def mend(self) -> None:
        self._open = True

    def close(self) -> None:
        self._ending = True
        self._thread.join()
        self._hang_up()
        self._listener.close()
        os.unlink(self.path)

    def _hang_up(self) -> None:
        for end in self._ends:
            end.close()
        self._ends.clear()

    def _run(self) -> None:
        while not self._ending:
            with self._lock:
                for ready in select.select([self._listener, *self._ends], [], [], 0.005)[0]:
                    if ready is self._listener:
                        self._accept()
                    elif ready in self._ends:
                        self._pass_on(ready)
            threading.Event().wait(0.0005)  # lets `cut` have the lock

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not self._open:
            client.close()
            return
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._behind)
        self._ends |= {client: server, server: client}

    def _pass_on(self, ready: socket.socket) -> None:
        other = self._ends[ready]
        try:
            data = ready.recv(65536)
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for end in (ready, other):
                del self._ends[end]
                end.close()


@pytest.fixture
def proxy(docker: Docker) -> Iterator[Proxy]:
    proxy = Proxy(f"{docker.folder}/proxy.sock", docker.socket)
    yield proxy
    proxy.close()


def test_stream_lost(docker: Docker, proxy: Proxy, follow: Follow) -> None:
    changes = follow(proxy.path)
    stays, ends = (docker.run(name, env=[f"MICROSERVICE_LABEL={name}"]) for name in ("stays", "ends"))
    again = docker.run("again", env=["MICROSERVICE_LABEL=again"])
    for name, pid in {"stays": stays, "ends": ends, "again": again}.items():
        changes.wait(name, pid)
    with structlog.testing.capture_logs() as logs:
        proxy.cut()
        comes = docker.run("comes", env=["MICROSERVICE_LABEL=comes"])
        docker.post("ends", "kill")
        docker.post("again", "restart")
        changes.wait("ends", None)  # without Docker
        assert changes.of("comes") == []
        proxy.mend()
        changes.wait("comes", comes)
        changes.wait("again", docker.pid("again"))
        assert eventually(lambda: len(logs) == 2)
    assert changes.of("stays") == [stays]
    assert [line["event"] for line in logs] == ["docker is away", "docker is followed"]
    # and events come again
    docker.post("comes", "kill")
    changes.wait("comes", None)


def test_stream_lost_again_and_again(docker: Docker, proxy: Proxy, follow: Follow) -> None:
    changes = follow(proxy.path)
    stays = docker.run("stays", env=ENV)
    changes.wait("blue", stays)
    for i in range(10):
        docker.create(f"c{i}", env=[f"MICROSERVICE_LABEL=m{i}"])
        docker.post(f"c{i}", "start")
        proxy.cut()
        proxy.mend()
    for i in range(10):
        changes.wait(f"m{i}", docker.pid(f"c{i}"))
    assert changes.of("blue") == [stays]


def test_away_at_the_start(make_docker: Callable[..., Docker], follow: Follow) -> None:
    docker = make_docker()
    with structlog.testing.capture_logs() as logs:
        changes = follow(docker.socket, wait=False)
        assert not changes.microservices.wait_listed(1)
        assert not changes.microservices.listed
        assert changes.microservices.pid_of("blue") is None
        docker.start()
        pid = docker.run("c1", env=ENV)
        changes.wait("blue", pid)
        assert changes.microservices.wait_listed(PATIENCE)
        assert eventually(lambda: len(logs) >= 2)
    assert [line["event"] for line in logs] == ["docker is away", "docker is followed"]
    assert docker.socket in logs[0]["reason"]


@pytest.mark.parametrize("live_restore", [False, True], ids=["plain", "live-restore"])
def test_docker_killed(make_docker: Callable[..., Docker], follow: Follow, live_restore: bool) -> None:
    docker = make_docker(*["--live-restore"] * live_restore).start()
    changes = follow(docker.socket)
    stays, ends = (docker.run(name, env=[f"MICROSERVICE_LABEL={name}"]) for name in ("stays", "ends"))
    changes.wait("stays", stays)
    changes.wait("ends", ends)
    docker.kill()
    os.kill(ends, signal.SIGKILL)
    changes.wait("ends", None)
    assert changes.of("stays") == [stays]
    docker.start()
    comes = docker.run("comes", env=["MICROSERVICE_LABEL=comes"])
    changes.wait("comes", comes)
    if live_restore:
        assert docker.pid("stays") == stays
        assert changes.of("stays") == [stays]
    else:
        # Docker ends, as it starts, what it finds running
        changes.wait("stays", None)
        assert docker.pid("stays") == 0
    docker.post("comes", "kill")
    changes.wait("comes", None)


# -- the end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["at once", "listed", "away"])
def test_close(docker: Docker, follow: Follow, moment: str) -> None:
    """That no thread and no descriptor is left, the fixture nothing_left sees."""
    docker.run("c1", env=ENV)
    path = docker.socket if moment != "away" else "/nowhere/docker.sock"
    changes = follow(path, wait=moment == "listed")
    if moment == "away":
        assert not changes.microservices.wait_listed(0.3)
    changes.microservices.close()
    told = len(changes.told)
    docker.post("c1", "kill")
    changes.microservices.close()
    assert len(changes.told) == told
    assert not [thread.name for thread in threading.enumerate() if thread.name == "docker"]
