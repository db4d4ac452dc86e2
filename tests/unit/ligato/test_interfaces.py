"""Interfaces and their counters as a status tells of them, with a kernel that says what the test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

import fastnl
from fastnl.netns import Identity
from fastnl.wired import Place
from fastnl_engine.model import Connection, EndSpec, Record, encode
from fastnl_engine.northbound.ligato import interfaces
from fastnl_engine.northbound.ligato.interfaces import TOGETHER, Interfaces

COUNT = 2 * TOGETHER + 1
HERE = Identity(1, 1)


class Kernel:
    """Each look finds one packet more on every interface; `while_reading` is called on the thread that looks."""

    def __init__(self) -> None:
        self.looks = 0
        self.while_reading: Callable[[], None] = lambda: None

    def read(self, host: fastnl.Host, asked: Mapping[Any, Any], *, stats: bool = False) -> dict[Any, Any]:
        self.looks += stats
        self.while_reading()
        return {key: self.row(one.place.ifindex, stats=stats) for key, one in asked.items()}

    def row(self, index: int, *, stats: bool) -> Any:
        counted = {f"{way}_{what}": self.looks for way in ("rx", "tx") for what in ("packets", "bytes", "errors")}
        counted |= {"rx_dropped": 0, "tx_dropped": 0}
        return SimpleNamespace(
            ifindex=index, ifname=f"i{index}", up=True, operstate=6, mac="", mtu=1500, stats=counted if stats else None
        )


class Port:
    """Remembers what it was asked to tell, one list for each time."""

    def __init__(self) -> None:
        self.told: list[list[dict[str, Any]]] = []

    def tell(self, event: str, connections: Iterable[dict[str, Any]]) -> None:
        assert event == "statistics"
        self.told.append(list(connections))

    def listen_to_links(self, heard: Any) -> Any:
        return lambda: None


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    monkeypatch.setattr(interfaces, "read", kernel.read)
    yield kernel


def record(n: int, index: int = 0) -> Record:
    labels = {"ligato.a": f"a{n}", "ligato.b": f"b{n}"}
    spec = encode(Connection(f"c{n}", "veth", EndSpec("", f"a{n}"), EndSpec("", f"b{n}"), labels=labels))
    first = index or 2 * n + 1
    return Record(f"c{n}", spec, "up", (Place(first, HERE), Place(first + 1, HERE)))


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def looking(port: Port, play: Any) -> None:
    async def main() -> None:
        changed: list[str] = []
        looked = Interfaces(fastnl.Host("test"), port, 0.1, changed.append, lambda: False)  # type: ignore[arg-type]
        task = asyncio.create_task(looked.run())
        await play(looked, changed)
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_counters_of_many_are_told_of_bit_by_bit_and_of_both_ends_together(kernel: Kernel) -> None:
    port = Port()

    async def play(looked: Interfaces, changed: list[str]) -> None:
        for n in range(COUNT):
            looked.note(f"c{n}", record(n))
        most = 0
        async with asyncio.timeout(30):
            while sum(map(len, port.told)) < COUNT:
                before = len(port.told)
                await asyncio.sleep(0)
                most = max(most, len(port.told) - before)
        assert most == 1, "nothing else had its turn in between"
        assert [len(told) for told in port.told[:3]] == [TOGETHER, TOGETHER, 1]
        first = [one for told in port.told[:3] for one in told]
        assert {one["id"] for one in first} == {f"c{n}" for n in range(COUNT)}
        assert all(one[end]["in_packets"] == 1 for one in first for end in "ab")
        assert set(changed) == {f"c{n}" for n in range(COUNT)}
        facts = looked.facts("c7", "b")
        assert facts is not None
        assert (facts.name, facts.if_index) == ("b7", 16)

    looking(port, play)


def test_what_was_read_of_a_connection_that_was_made_anew_meanwhile_is_left(kernel: Kernel) -> None:
    port = Port()

    async def play(looked: Interfaces, changed: list[str]) -> None:
        loop = asyncio.get_running_loop()
        looked.note("c1", record(1))
        anew = record(1, index=50)

        def replace() -> None:
            """As if the engine made it anew between the look and the taking in of what was seen."""
            kernel.while_reading = lambda: None
            asyncio.run_coroutine_threadsafe(note(), loop).result()

        async def note() -> None:
            looked.note("c1", anew)

        kernel.while_reading = replace
        await until(lambda: looked.facts("c1", "a"))
        facts = looked.facts("c1", "a")
        assert facts is not None
        assert facts.if_index == 50

    looking(port, play)
