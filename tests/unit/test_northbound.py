"""Threads of northbounds beside one another."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest

from fastnl.testing import eventually
from fastnl_engine.northbound.thread import Northbound


@pytest.fixture
def echo():
    """The address of a server that answers with what it was asked."""
    server = grpc.server(ThreadPoolExecutor(4))
    method = grpc.unary_unary_rpc_method_handler(lambda message, context: message)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", {"say": method}),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address
    server.stop(0).wait()


class Busy(Northbound):
    """One that asks all the time."""

    def __init__(self, address):
        self.asked = 0

        async def life():
            async with grpc.aio.insecure_channel(address) as channel:
                say = channel.unary_unary("/echo/say")
                for n in itertools.count():
                    assert await say(b"%d" % n) == b"%d" % n
                    self.asked += 1

        async def open_(stack):
            return life

        super().__init__("busy", open_)

    def goes_on(self):
        before = self.asked
        return eventually(lambda: self.asked > before + 100)


def test_the_end_of_one_that_speaks_grpc_is_nothing_to_another(echo, caplog):
    """Its loop is woken for both, and told of events of a loop that has ended."""
    for _ in range(10):
        first, second = Busy(echo), Busy(echo)
        assert first.goes_on() and second.goes_on()
        first.stop()
        assert second.goes_on()
        second.stop()
    assert caplog.text == ""


def test_what_nobody_caught_is_told(caplog):
    async def open_(stack):
        async def life():
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            await asyncio.sleep(3600)

        return life

    northbound = Northbound("careless", open_)
    assert eventually(lambda: "division by zero" in caplog.text)
    northbound.stop()
