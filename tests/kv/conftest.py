"""Stores for tests, which may be coroutines here.

etcd        one real etcd for all tests of a module, emptied after each
make_etcd   makes others, to be hurt
open_kv     opens a store, once in etcd and once embedded, as `async with open_kv() as kv`
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.base import KV
from fastnl_engine.kv.embedded import EmbeddedKV
from fastnl_engine.kv.testing import Etcd

HAVE_ETCD = bool(shutil.which("etcd") and shutil.which("etcdctl"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a coroutine, and fails it for tasks that it leaves behind."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames

    async def run() -> None:
        await pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
        for _ in range(100):
            left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            if not left:
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"tasks left behind: {left}", pytrace=False)

    asyncio.run(run())
    return True


@pytest.fixture(scope="module")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    if not HAVE_ETCD:
        pytest.skip("etcd and etcdctl are not installed (Debian: etcd-server, etcd-client)")
    with Etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@pytest.fixture
def etcd(shared_etcd: Etcd) -> Iterator[Etcd]:
    yield shared_etcd
    shared_etcd.ctl("del", "", "--prefix")


@pytest.fixture
def make_etcd(tmp_path: Path) -> Iterator[Callable[..., Etcd]]:
    if not HAVE_ETCD:
        pytest.skip("etcd and etcdctl are not installed (Debian: etcd-server, etcd-client)")
    made: list[Etcd] = []

    def make(*flags: str, **more: object) -> Etcd:
        made.append(Etcd(tmp_path / str(len(made)), *flags, **more))
        return made[-1].start()

    yield make
    for etcd in made:
        etcd.kill()


@pytest.fixture(params=["etcd", "embedded"])
def open_kv(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], contextlib.AbstractAsyncContextManager[KV]]:
    if request.param == "etcd":
        etcd = request.getfixturevalue("etcd")
        return lambda: open_etcd(etcd.urls)
    files = itertools.count()

    @contextlib.asynccontextmanager
    async def embedded() -> AsyncIterator[KV]:
        async with EmbeddedKV(tmp_path / f"kv{next(files)}.db") as kv:
            yield kv

    return embedded
