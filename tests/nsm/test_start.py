"""The forwarder's thread, with an engine that does nothing: beginning, and beginning anew after a defect."""

from __future__ import annotations

import asyncio
import socket

import pytest
from google.protobuf.empty_pb2 import Empty
from sortedcontainers import SortedDict

from fastnl.testing import PATIENCE, eventually
from fastnl_engine.adapters.nsm import legacy, plane, start
from fastnl_engine.adapters.nsm.probes import bind_probes, serve_probes
from fastnl_engine.adapters.nsm.settings import Settings
from fastnl_engine.adapters.nsm.testing import Events, Forwarder
from fastnl_engine.metrics import Metrics
from fastnl_engine.northbound import thread


class Idle:
    """An engine as far as a northbound meets it."""

    def __init__(self):
        self.records = SortedDict()
        self.listeners = []
        self.host = None
        self.metrics = Metrics()

    def soon(self, work):
        work()

    def tell(self, event, **fields):
        for listener in list(self.listeners):
            listener(event, fields, "connection")


@pytest.fixture
def engine():
    return Idle()


@pytest.fixture
def running(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(thread, "AGAIN", 0.05)
    northbound = start.start(Settings(f"unix:{tmp_path}/nsm.sock", counting=0.0), engine, tmp_path / "private")
    yield f"unix:{tmp_path}/nsm.sock"
    northbound.stop(PATIENCE)
    assert not (tmp_path / "nsm.sock").exists()


def serves(target):
    with Forwarder(target) as nsm:
        call = nsm.mechanisms.MonitorMechanisms(Empty(), timeout=PATIENCE, wait_for_ready=True)
        [mechanism] = next(iter(call)).local_mechanisms
        call.cancel()
        return mechanism.type == "KERNEL_INTERFACE"


def test_after_a_defect_it_serves_again(running, engine, monkeypatch):
    assert serves(running)
    compare, defects = plane.Plane._compare, []

    def once(self, id_):
        if not defects:
            defects.append(id_)
            raise RuntimeError("a defect")
        compare(self, id_)

    monkeypatch.setattr(plane.Plane, "_compare", once)
    with Forwarder(running) as nsm, Events(nsm.cross_monitor.MonitorCrossConnects(Empty())) as events:
        events.next()
        before = len(engine.listeners)
        engine.tell("up", id="nsm/x/1")
        assert events.next().code().name == "UNAVAILABLE"  # subscribers begin anew, too
    assert serves(running) and defects == ["1"]
    assert eventually(lambda: len(engine.listeners) == before)  # and not those of both lives


def test_after_a_defect_of_what_registers(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(thread, "AGAIN", 0.05)
    tried = []

    async def register(settings):
        tried.append(settings.registrar)
        raise RuntimeError("a defect")

    monkeypatch.setattr(legacy, "keep_registered", register)
    settings = Settings(f"unix:{tmp_path}/nsm.sock", registrar="unix:/nowhere", counting=0.0)
    northbound = start.start(settings, engine, tmp_path / "private")
    assert eventually(lambda: len(tried) > 2)
    northbound.stop(PATIENCE)


def test_over_tcp_the_port_is_had_again(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(thread, "AGAIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    northbound = start.start(Settings(address, counting=0.0), engine, tmp_path / "private")
    assert serves(address)
    monkeypatch.setattr(plane.Plane, "_compare", lambda *_: 1 / 0)
    engine.tell("up", id="nsm/x/1")
    monkeypatch.undo()
    assert serves(address)
    northbound.stop(PATIENCE)


def test_readiness_is_that_of_the_service():
    async def run():
        ready = []
        bound = bind_probes("127.0.0.1:0")
        address = bound.getsockname()
        end = await serve_probes(bound, lambda: bool(ready))

        async def ask(path):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            status = (await reader.read()).split()[1]
            writer.close()
            return int(status)

        assert [await ask(p) for p in ("/liveness", "/readiness", "/x")] == [200, 503, 404]
        ready.append(True)
        assert await ask("/readiness?x=1") == 200
        await end()

    asyncio.run(run())


def test_an_address_that_cannot_be_had(engine, tmp_path):
    with pytest.raises(OSError, match="cannot listen"):
        start.start(Settings("192.0.2.77:1"), engine, tmp_path / "private")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is no socket"):
        start.start(Settings(f"unix:{tmp_path}/file"), engine, tmp_path / "private")
