"""Engines as processes, made for one test and gone with it.

engine          running; engine.client(), engine.stop(), engine.kill(), engine.restart(), ...
make_engine     makes engines that are not started yet, each with a folder of its own
make_keys_engine   the same, and they have a store of keys
shared_engine   the same, but one process for all tests of a module, which saves its start; everything that is
                connected after a test is disconnected.  ENGINE_ENV of the module goes into its environment
client, raw     of `engine`
blue, red       namespaces
wanderer        a process with a namespace of its own
in_process      an engine that is no process but in this one
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from fastnl import Host
from fastnl.testing import PATIENCE, Namespaces, eventually, spawn
from fastnl_engine.client import Client
from fastnl_engine.engine import Engine
from fastnl_engine.model import decode_connection, encode, values_of
from fastnl_engine.planner import Job
from fastnl_engine.store.sqlite import SqliteStore
from fastnl_engine.testing import EngineProcess, RawSocket

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts an engine here is a kernel test: checked for leftovers, and for root only."""
    for item in items:
        if item.path.is_relative_to(HERE) and {"make_engine", "shared_engine", "netns"} & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.kernel)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="makes real interfaces, which needs root"))


@pytest.fixture
def make_engine(nothing_left: None) -> Iterator[Callable[..., EngineProcess]]:
    # not tmp_path: the path of a Unix socket may have 107 bytes only
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder, contextlib.ExitStack() as made:
        places = (Path(folder, str(n)) for n in itertools.count())

        def make(*flags: str, kind: type[EngineProcess] = EngineProcess, **more: object) -> EngineProcess:
            place = next(places)
            place.mkdir()
            return made.enter_context(contextlib.closing(kind(place, *flags, **more)))

        yield make


class KeysEngine(EngineProcess):
    @property
    def command(self) -> list[str]:
        command = super().command
        at = command.index("-m")
        return [*command[:at], str(HERE / "with_keys.py"), *command[at + 2 :]]


@pytest.fixture
def make_keys_engine(make_engine: Callable[..., EngineProcess]) -> Callable[..., EngineProcess]:
    return functools.partial(make_engine, kind=KeysEngine)


@pytest.fixture
def engine(make_engine: Callable[..., EngineProcess]) -> EngineProcess:
    return make_engine().start()


@pytest.fixture(scope="module")
def one_for_all(request: pytest.FixtureRequest) -> Iterator[EngineProcess]:
    folder = Path(tempfile.mkdtemp(prefix="fastnl-"))
    with EngineProcess(folder, env=getattr(request.module, "ENGINE_ENV", {})) as engine:
        yield engine
    shutil.rmtree(folder)


@pytest.fixture
def shared_engine(one_for_all: EngineProcess, nothing_left: None) -> Iterator[EngineProcess]:
    assert one_for_all.running, f"the engine ended in an earlier test:\n{one_for_all.log}"
    yield one_for_all
    one_for_all.hang_up()
    assert one_for_all.running, f"the engine ended:\n{one_for_all.log}"
    with Client(one_for_all.endpoint, timeout=PATIENCE) as client:
        client.disconnect([row["id"] for row in client.list()])
        assert client.info()["connections"] == {}


@pytest.fixture
def client(engine: EngineProcess) -> Client:
    return engine.client()


@pytest.fixture
def raw(engine: EngineProcess) -> RawSocket:
    return engine.raw()


@pytest.fixture
def blue(netns: Namespaces) -> str:
    return netns.make("blue")


@pytest.fixture
def red(netns: Namespaces) -> str:
    return netns.make("red")


class Wanderer:
    """A process that goes into another new namespace at each `wander`: as two processes of one number."""

    CODE = """
import ctypes, sys
libc = ctypes.CDLL(None)
while True:
    assert libc.unshare(0x40000000) == 0
    print(flush=True)
    sys.stdin.readline()
"""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self._arrive()

    def wander(self) -> None:
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        self._arrive()

    def _arrive(self) -> None:
        self._process.stdout.readline()


@pytest.fixture
def wanderer() -> Iterator[Wanderer]:
    with spawn([sys.executable, "-c", Wanderer.CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Wanderer(process)
        process.kill()


class InProcess:
    """An engine without sockets, which can be interrupted at will: in the kernel, and when it answers.

    told   the events, as "connection up"
    """

    def __init__(self, folder: Path) -> None:
        self.host = Host("test")
        self.store = SqliteStore(folder / "state.db")
        self.results: dict[int, dict[str, Any]] = {}
        self.told: list[str] = []
        self.engine = Engine(
            self.host, self.store, lambda _, place, result: self.results.update({place: result}),
            lambda event, fields, of: self.told.append(f"{of} {event}"),
        )  # fmt: skip

    def connect(self, jobs: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
        self.results.clear()
        for place, job in enumerate(jobs):
            c = decode_connection(msgpack.packb(job))
            self.engine.submit(Job("connect", c.id, c, values_of(c), encode(c), ticket="t", place=place, **more))
        assert self.is_done()
        return [self.results[n] for n in range(len(jobs))]

    def is_done(self) -> bool:
        """Waits until nothing is left to do."""

        def idle() -> bool:
            self.engine.turn()
            return self.engine.idle

        return eventually(idle)

    def close(self) -> None:
        assert self.is_done()
        self.engine.stop()
        self.store.close()


@pytest.fixture
def in_process(netns: Namespaces, tmp_path: Path) -> Iterator[InProcess]:
    with contextlib.closing(InProcess(tmp_path)) as engine:
        yield engine
