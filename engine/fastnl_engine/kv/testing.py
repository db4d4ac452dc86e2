"""For tests: a real etcd on loopback, with one member or several, that can be hurt.

    with Etcd(folder) as etcd:
        kv = EtcdKV(etcd.urls)
        etcd.members[0].kill()      # SIGKILL
        etcd.start()                # with the same data
        etcd.ctl("put", "key", "value")

It needs `etcd` and, for `ctl`, `etcdctl`: etcd-server and etcd-client of Debian.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastnl.testing import PATIENCE, spawn
from fastnl_engine.kv.base import KVError


class Member:
    """One etcd process with its own data and ports."""

    def __init__(self, folder: Path, name: str, scheme: str) -> None:
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.name = name
        self.url = f"{scheme}://127.0.0.1:{free_port()}"
        self.peer_url = f"http://127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def launch(self, cluster: str, flags: Sequence[str]) -> None:
        assert not self.running, "it is running already"
        command = [
            "etcd", "--name", self.name, "--data-dir", str(self.folder / "data"), "--initial-cluster", cluster,
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            # elections in a moment instead of a second
            "--heartbeat-interval", "50", "--election-timeout", "500", *flags,
        ]  # fmt: skip
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        with open(self.folder / "log", "ab") as log:
            self.process = spawn(command, stdout=log, stderr=log, env=environ)

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up.  A stopped one goes as well."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)

    def hang(self) -> None:
        """It keeps its connections and does nothing, until `go_on`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        # its threads go on, and answer, until the one that was chosen to take the signal has had a processor
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def lose_data(self) -> None:
        """It has never known anything."""
        assert not self.running
        shutil.rmtree(self.folder / "data")


class Etcd:
    """A cluster.

    flags   come last on each member's command line
    ctl     flags of etcdctl, such as certificates
    """

    def __init__(self, folder: Path, *flags: str, size: int = 1, scheme: str = "http", ctl: Sequence[str] = ()) -> None:
        self.flags = list(flags)
        self.ctl_flags = list(ctl)
        self.members = [Member(folder, f"m{i}", scheme) for i in range(size)]

    def __enter__(self) -> Etcd:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def urls(self) -> list[str]:
        return [member.url for member in self.members]

    def member(self, url: str) -> Member:
        return next(member for member in self.members if member.url == url)

    def start(self) -> Etcd:
        """Starts the members that do not run, and waits until all serve."""
        cluster = ",".join(f"{m.name}={m.peer_url}" for m in self.members)
        for member in self.members:
            if not member.running:
                member.launch(cluster, self.flags)
        self.settle()
        return self

    def settle(self) -> None:
        """Waits until all members that run have a leader and serve."""
        deadline = time.monotonic() + PATIENCE
        for member in [m for m in self.members if m.process is not None and m.process.returncode is None]:
            while not self._serves(member):
                assert member.running, f"etcd ended:\n{member.log}"
                assert time.monotonic() < deadline, f"etcd does not serve:\n{member.log}"
                time.sleep(0.02)

    def _serves(self, member: Member) -> bool:
        with contextlib.suppress(AssertionError):
            self.ctl("endpoint", "health", endpoints=[member.url])
            return True
        return False

    def kill(self) -> None:
        """SIGKILL to all."""
        for member in self.members:
            member.kill()

    def ctl(self, *argv: str, endpoints: Sequence[str] = (), **kwargs: Any) -> str:
        """What etcdctl says: a client that shares no code with ours."""
        command = ["etcdctl", "--endpoints", ",".join(endpoints or self.urls), *self.ctl_flags, *argv]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")} | {"ETCDCTL_API": "3"}
        done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False, **kwargs)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
        out: str = done.stdout
        return out


async def eventually(condition: Callable[[], Any]) -> None:
    """Waits until a condition holds; one that is a coroutine may raise KVError until then."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(KVError):
            done = condition()
            if await done if inspect.isawaitable(done) else done:
                return
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)


def free_port() -> int:
    """One that nobody uses on loopback now, and no connection gets by itself.

    A client that tries again and again to reach a port of the range that the kernel takes its own ports from is once
    connected with itself, and a server cannot have the port any more.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
