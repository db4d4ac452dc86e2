"""Counters of an interface, by Ligato's names."""

from __future__ import annotations

from types import SimpleNamespace

from fastnl_engine.northbound.ligato.facts import counters

KERNEL = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped")


def test_counters_by_their_own_names() -> None:
    """Each number is another one, so that none can stand in another's place."""
    row = SimpleNamespace(stats={name: 10**n for n, name in enumerate(KERNEL)})
    assert counters(row) == {  # type: ignore[arg-type]
        "in_packets": 1, "out_packets": 10, "in_bytes": 100, "out_bytes": 1000, "in_error_packets": 10**4,
        "out_error_packets": 10**5, "drop_packets": 10**6 + 10**7,
    }  # fmt: skip


def test_none_where_the_kernel_sent_none() -> None:
    assert counters(SimpleNamespace(stats=None)) == {}  # type: ignore[arg-type]
