"""Stores for tests, which may be coroutines here.

open_kv     opens a store, once in etcd and once embedded, as `async with open_kv() as kv`
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.base import KV
from fastnl_engine.kv.embedded import EmbeddedKV


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
