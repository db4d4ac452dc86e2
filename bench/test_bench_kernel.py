"""Host.connect and Host.disconnect by size of batch and shape, kernel included.

    python -m pytest bench/test_bench_kernel.py

A measurement is of the whole batch; `extra_info` of --benchmark-json has the number of pairs.
"""

from __future__ import annotations

import pytest

from fastnl import Host
from fastnl_engine.bench import workloads
from fastnl_engine.bench.contenders import settle, wired

pytestmark = pytest.mark.usefixtures("private")


@pytest.fixture(params=["spread", "star"])
def shape(request):
    return request.param


@pytest.fixture(params=[1, 8, 64, 512])
def connections(request, shape, benchmark):
    made = workloads.pairs(shape, request.param)
    workloads.make_namespaces(made)
    benchmark.extra_info["pairs"] = request.param
    return made


ROUNDS = 5


def test_connect_a_batch(benchmark, connections):
    """Benchmark one call that connects a batch."""
    host = Host("bench")
    made: list = []

    def clear() -> None:
        host.disconnect(made)
        made.clear()
        settle()

    def connect() -> None:
        made.extend(wired(host.connect(connections)))

    benchmark.pedantic(connect, setup=clear, rounds=ROUNDS)
    clear()


def test_disconnect_a_batch(benchmark, connections):
    """Benchmark one call that disconnects a batch."""
    host = Host("bench")

    def connect() -> tuple[tuple, dict]:
        made = wired(host.connect(connections))
        settle()
        return (made,), {}

    benchmark.pedantic(lambda made: wired(host.disconnect(made)), setup=connect, rounds=ROUNDS)
