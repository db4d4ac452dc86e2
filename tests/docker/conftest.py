"""A real Docker engine, away from the machine's own.

docker          running, one for the tests of a module; a test's containers are gone after it
make_docker     makes engines that are not started yet, for tests that kill them
follow          follows one: `changes = follow(docker.socket)`

The daemons live in a mount namespace of their own, with empty /run and /var/lib, and keep everything else in a
folder and a cgroup of their own.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fastnl.testing import eventually, spawn
from fastnl_engine.watch.docker import Microservices

HERE = Path(__file__).parent
PATIENCE = 60  # seconds; a slow machine is no failure
TOOLS = ("dockerd", "containerd", "runc", "gcc", "unshare", "nsenter")

# what runs in every container: waits to be ended, for ten minutes at most, should nobody be left to end it
PROGRAM = """
#include <signal.h>
#include <unistd.h>
int main(void) { signal(SIGTERM, _exit); alarm(600); for (;;) pause(); }
"""

# no plugins that write into the machine's folders or wait for a network
CONTAINERD = 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'

OUT_OF_SIGHT = """
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
if [ -d /etc/docker ]; then mount -t tmpfs tmpfs /etc/docker; fi
exec "$@"
"""


class CannotRun(Exception):
    """Docker cannot run here; the message says why."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts Docker here is a kernel test: checked for leftovers, and for root only."""
    for item in items:
        if item.path.is_relative_to(HERE) and {"docker", "make_docker", "follow"} & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.kernel)
            if {"docker", "make_docker"} & set(item.fixturenames) and os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="Docker needs root"))


class Docker:
    """containerd and dockerd with an image that holds one small program.

    Containers outlive `kill` and `stop`, which end dockerd alone.  Raises CannotRun from `start`.
    """

    made: ClassVar[int] = 0

    def __init__(self, *flags: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fastnl-docker-"))  # short: a Unix socket's path has 107 bytes
        self.socket = str(self.folder / "docker.sock")
        self.flags = flags
        Docker.made += 1
        self.cgroup = f"fastnl-test-{os.getpid()}-{Docker.made}"
        self._containerd: subprocess.Popen[bytes] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None

    def start(self) -> Docker:
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            raise CannotRun(f"{', '.join(missing)} missing (Debian: docker.io, gcc, util-linux)")
        if self._containerd is None:
            address = self.folder / "containerd.sock"
            (self.folder / "containerd.toml").write_text(CONTAINERD)
            self._containerd = self._spawn(
                "unshare", "--mount", "--propagation", "private", "sh", "-ec", OUT_OF_SIGHT, "sh",
                "containerd", "--config", str(self.folder / "containerd.toml"), "--address", str(address),
                "--root", str(self.folder / "containerd"), "--state", str(self.folder / "containerd-state"),
            )  # fmt: skip
            self._wait(self._containerd, "containerd", address.exists)
        (self.folder / "docker.json").write_text("{}")  # not the machine's
        self._dockerd = self._spawn(
            "nsenter", "--mount", "--target", str(self._containerd.pid),
            "dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs",
            "--config-file", str(self.folder / "docker.json"), "--containerd", str(self.folder / "containerd.sock"),
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self.cgroup}",
            "--host", f"unix://{self.socket}", "--data-root", str(self.folder / "data"),
            "--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "docker.pid"), *self.flags,
        )  # fmt: skip
        self._wait(self._dockerd, "dockerd", self._answers)
        if not self.request("GET", "/images/json"):
            self.request("POST", "/images/create?fromSrc=-&repo=tiny", _image())
        return self

    def kill(self) -> None:
        """SIGKILL to dockerd."""
        assert self._dockerd is not None
        self._dockerd.kill()
        self._dockerd.wait(PATIENCE)
        # the next one would take this for a sign that the pid's next owner is a running Docker
        (self.folder / "docker.pid").unlink(missing_ok=True)

    def close(self) -> None:
        """Ends containers and daemons, and removes every trace."""
        if self._dockerd is not None:
            with contextlib.suppress(CannotRun):
                if self._dockerd.poll() is not None:
                    self.start()
                self.clear()
        for process in (self._dockerd, self._containerd):
            if process is not None:
                process.terminate()
                process.wait(PATIENCE)
        assert eventually(self._no_cgroup, PATIENCE), "the cgroups do not go"
        shutil.rmtree(self.folder)

    # -- containers ----------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """One call of Docker's interface: a client that shares no code with the one that is tested."""
        connection = _UnixHTTP(self.socket)
        try:
            if isinstance(body, bytes):
                connection.request(method, path, body, {"Content-Type": "application/x-tar"})
            else:
                connection.request(method, path, json.dumps(body or {}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.strip()}")
        # an import answers in lines of their own, the rest in one document or nothing
        return json.loads(text) if text and not isinstance(body, bytes) else None

    def create(
        self, name: str, *, env: list[str] | None = None, labels: dict[str, str] | None = None, **host: Any
    ) -> str:
        """A container that does not run yet."""
        config = {
            "Image": "tiny", "Cmd": ["/wait"], "Env": env or [], "Labels": labels or {},
            "HostConfig": {"NetworkMode": "none", **host},
        }  # fmt: skip
        return str(self.request("POST", f"/containers/create?name={name}", config)["Id"])

    def run(self, name: str, **more: Any) -> int:
        """A container that runs; gives its process."""
        self.create(name, **more)
        self.post(name, "start")
        return self.pid(name)

    def post(self, name: str, what: str) -> None:
        self.request("POST", f"/containers/{name}/{what}")

    def remove(self, name: str) -> None:
        self.request("DELETE", f"/containers/{name}?force=true")

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.request("GET", f"/containers/{name}/json")
        return found

    def pid(self, name: str) -> int:
        return int(self.inspect(name)["State"]["Pid"])

    def clear(self) -> None:
        for container in self.request("GET", "/containers/json?all=true"):
            self.remove(container["Id"])

    # ------------------------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            return spawn(command, stdout=log, stderr=log)

    def _wait(self, process: subprocess.Popen[bytes], name: str, ready: Callable[[], bool]) -> None:
        eventually(lambda: ready() or process.poll() is not None, PATIENCE)
        if process.poll() is not None or not ready():
            last = self.log.strip().splitlines()[-1:] or ["it says nothing"]
            raise CannotRun(f"{name} does not run here: {last[0]}")

    def _answers(self) -> bool:
        try:
            return bool(self.request("GET", "/version"))
        except (OSError, http.client.HTTPException):
            return False

    def _no_cgroup(self) -> bool:
        """Docker removes the cgroups of containers, not the one above them; cgroup v1 has one of each kind."""
        top = Path("/sys/fs/cgroup")
        left = [path for path in (top / self.cgroup, *top.glob(f"*/{self.cgroup}")) if path.is_dir()]
        for path in left:
            with contextlib.suppress(OSError):
                path.rmdir()
        return not any(path.exists() for path in left)


class _UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def _image() -> bytes:
    """The program, alone in a tar archive."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "wait"
        command = ["gcc", "-static", "-Os", "-s", "-x", "c", "-o", str(binary), "-"]
        done = subprocess.run(command, input=PROGRAM, text=True, capture_output=True, check=False)
        if done.returncode != 0:
            raise CannotRun(f"no static program can be built here: {done.stderr.strip().splitlines()[-1]}")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(binary, "wait")
        return archive.getvalue()


class Changes:
    """What a Microservices has told so far."""

    def __init__(self, socket: str, **more: Any) -> None:
        self.told: list[tuple[str, int | None]] = []
        self.when: list[float] = []  # seconds since the epoch, as Docker's own times
        self.microservices = Microservices(self._on_change, socket=socket, **more)

    def _on_change(self, label: str, pid: int | None) -> None:
        self.when.append(time.time())
        self.told.append((label, pid))

    def of(self, label: str) -> list[int | None]:
        return [pid for other, pid in self.told if other == label]

    def wait(self, label: str, pid: int | None) -> None:
        """Until a microservice has that process, and that was told."""
        assert eventually(lambda: self.of(label)[-1:] == [pid] and self.microservices.pid_of(label) == pid, PATIENCE), (
            f"{label} did not come to {pid}; told was {self.told}"
        )


# -- fixtures ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def docker_of_module() -> Iterator[Docker]:
    docker = Docker()
    try:
        try:
            docker.start().run("probe")
        except (CannotRun, RuntimeError) as e:
            pytest.skip(f"no Docker: {e}")
        docker.clear()
        yield docker
    finally:
        docker.close()


@pytest.fixture
def docker(docker_of_module: Docker, nothing_left: None) -> Iterator[Docker]:
    yield docker_of_module
    docker_of_module.clear()


@pytest.fixture
def make_docker(docker_of_module: Docker, nothing_left: None) -> Iterator[Callable[..., Docker]]:
    # the other one is asked for because it skips where none can run
    made: list[Docker] = []

    def make(*flags: str) -> Docker:
        made.append(Docker(*flags))
        return made[-1]

    yield make
    for docker in made:
        docker.close()


@pytest.fixture
def follow(nothing_left: None) -> Iterator[Callable[..., Changes]]:
    """Follows a Docker, and waits until all its containers are known unless told otherwise."""
    made: list[Changes] = []

    def begin(socket: str, *, wait: bool = True, **more: Any) -> Changes:
        made.append(Changes(socket, **more))
        made[-1].microservices.start()
        assert not wait or made[-1].microservices.wait_listed(PATIENCE), "Docker's containers were not listed"
        return made[-1]

    yield begin
    for changes in made:
        changes.microservices.close()
