"""A part that fails is followed by another one, and whoever asks in between has an answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from fastnl_engine.fleet import start
from fastnl_engine.kv.base import Denied
from fastnl_engine.northbound import thread


@pytest.mark.parametrize("error", [Denied("not for you"), RuntimeError("a defect")])
def test_what_is_asked_for_between_two_of_them_is_heard_by_the_next(monkeypatch, error):
    second, heard = asyncio.Event(), asyncio.Event()

    class Service:
        made = 0

        def __init__(self, *_):
            Service.made += 1
            self.number = Service.made
            self.asked = []
            if self.number == 2:
                second.set()

        async def run(self):
            if self.number == 1:
                raise ExceptionGroup("parts", [error])
            assert self.asked == ["job"]
            heard.set()
            await asyncio.sleep(3600)

    monkeypatch.setattr(start, "Service", Service)
    monkeypatch.setattr(start, "Port", lambda *_: None)
    monkeypatch.setattr(thread, "AGAIN", 0.05)
    door, engine = SimpleNamespace(service=None), SimpleNamespace(host=None)
    config = SimpleNamespace(fleet=None)

    async def run():
        running = asyncio.create_task(thread.keep_running(start._life(None, engine, config, "one", "i", door)))
        await second.wait()
        door.service.asked.append("job")
        await heard.wait()
        running.cancel()

    asyncio.run(asyncio.wait_for(run(), 10))
