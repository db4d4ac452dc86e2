"""`fastnl top` and `fastnl stats --watch`: rates of what a real engine and real interfaces do."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastnl.testing import PATIENCE, eventually, nsenter, spawn
from fastnl_engine.cli import rates, sampler
from fastnl_engine.testing import EngineProcess, end, pair

FASTNL = str(Path(sys.executable).with_name("fastnl"))

Run = Callable[..., subprocess.CompletedProcess[str]]


def environ(engine: EngineProcess) -> dict[str, str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith("FASTNL_")}
    return bare | {"FASTNL_ENDPOINT": engine.endpoint, "TERM": "xterm-256color"}


@pytest.fixture
def run(engine: EngineProcess) -> Run:
    def run(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [FASTNL, *map(str, args)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ(engine), timeout=PATIENCE, check=False
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def wired(engine: EngineProcess, blue: str, red: str) -> None:
    ends = end(blue, "e1", "10.0.0.1/24"), end(red, "e1", "10.0.0.2/24")
    idle = pair("idle", end(blue, "e2"), end(red, "e2"))
    assert all(r["ok"] for r in engine.client().connect([pair("busy", *ends), idle]))


@contextmanager
def traffic(netns: str, target: str) -> Iterator[None]:
    """Large packets, all the time."""
    ping = spawn(nsenter(netns, "ping", "-q", "-i", "0.01", "-s", "1000", target), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        ping.kill()
        ping.wait()


# -- one picture -------------------------------------------------------------------------------------


def test_numbers_of_one_look(run: Run, engine: EngineProcess, wired: None, blue: str) -> None:
    engine.client().connect([pair("later", end(blue, "e3"), end("nowhere", "e3"))], wait=True)
    with traffic(blue, "10.0.0.2"):
        found = json.loads(run("top", "--json", "--interval", 0.5).stdout)
    assert found["info"]["connections"] == {"up": 2, "pending": 1}
    assert found["info"]["totals"]["connected"] == 2
    assert found["unwell"] == [{"state": "pending", "code": "", "count": 1}]
    [busy] = found["busiest"]
    assert busy["id"] == "busy"
    assert busy["out_bytes"] > 1000 * busy["out_packets"] > 0
    assert busy["in_bytes"] > 0
    assert found["rates"]["connected"] == 0
    assert found["stages"] == {}


def test_a_picture_where_there_is_no_terminal(run: Run, wired: None) -> None:
    done = run("top", "--interval", 0.1)
    assert "\x1b" not in done.stdout
    for pattern in (r"up +2 █", r"all +2", r"connects +0 2\b", r"queue +0 of 10k", "no traffic"):
        assert re.search(pattern, done.stdout), done.stdout


def test_latency_and_errors_are_those_since_the_look_before(engine: EngineProcess, blue: str, red: str) -> None:
    client = engine.client()
    look = sampler.Sampler(client)
    look.look()
    client.connect([pair("c", end(blue, "e1"), end(red, "e1")), pair("bad", end(blue, "lo"), end(red, "x"))])
    sample = look.look()
    assert set(sample.stages) == {"waiting", "intent", "kernel", "outcome"}
    assert all(0 < half <= most for half, most in sample.stages.values())
    assert sample.errors == {"ifname_in_use": 1}
    assert sample.cycle_items == pytest.approx(2)
    nothing = look.look()
    assert (nothing.errors, nothing.stages, nothing.cycle_items) == ({}, {}, None)


def test_an_engine_that_began_again_has_no_rates(engine: EngineProcess, wired: None) -> None:
    look = sampler.Sampler(engine.client())
    look.look()
    assert look.look().rates["connected"] == 0
    engine.restart()
    sample = look.look()
    assert sample.info["connections"] == {"up": 2}
    assert sample.rates == {}


def test_an_engine_that_is_gone_leaves_the_last_picture(engine: EngineProcess, wired: None) -> None:
    look = sampler.Sampler(engine.client(timeout=0.3))
    look.look()
    engine.stop()
    sample = look.look()
    assert "no answer" in sample.problem
    assert sample.info["connections"] == {"up": 2}
    engine.start()
    assert eventually(lambda: not look.look().problem)


def test_without_an_engine(run: Run, engine: EngineProcess) -> None:
    engine.stop()
    assert "no engine at" in run("top", code=2).stderr


# -- live --------------------------------------------------------------------------------------------


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, engine: EngineProcess, *args: str) -> None:
        self.fd, self._inside = pty.openpty()
        fcntl.ioctl(self._inside, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self._inside)
        self.process = subprocess.Popen(
            [FASTNL, *args], stdin=self._inside, stdout=self._inside, stderr=self._inside, env=environ(engine),
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self.seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self._inside)

    @property
    def text(self) -> str:
        """What was seen, without the escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen)

    def read_until(self, pattern: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text[-3000:]
            self._read(0.1)

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def end(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text[-3000:]
            self._read(0.1)
        self._read(0.1)
        return self.process.returncode

    @property
    def as_before(self) -> bool:
        """Whether keys are read as before, the other screen is left and the cursor shown."""
        ends = [
            self.seen.rfind(on) < self.seen.rfind(off)
            for on, off in (("\x1b[?1049h", "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h"))
        ]
        return termios.tcgetattr(self._inside) == self.before and all(ends)

    def _read(self, seconds: float) -> None:
        while select.select([self.fd], [], [], seconds)[0]:
            self.seen += os.read(self.fd, 65536).decode(errors="replace")
            seconds = 0


def test_live_until_q(engine: EngineProcess, wired: None, blue: str, red: str) -> None:
    with Terminal(engine, "top", "--interval", "0.1") as terminal:
        terminal.read_until(r"all +2 ")
        engine.client().connect([pair("third", end(blue, "e3"), end(red, "e3"))])
        terminal.read_until(r"all +3 ")
        assert termios.tcgetattr(terminal._inside) != terminal.before
        terminal.type("x")
        terminal.read_until(r"(?s)all +3 .*all +3 ")
        assert terminal.process.poll() is None
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.as_before


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGHUP"])
def test_the_terminal_is_as_before_however_it_ends(engine: EngineProcess, wired: None, how: str) -> None:
    with Terminal(engine, "top", "--interval", "30") as terminal:
        terminal.read_until("busiest")
        if how == "Ctrl-C":
            terminal.type("\x03")
        else:
            terminal.process.send_signal(signal.Signals[how])
        assert terminal.end() == 0
        assert terminal.as_before


# -- stats --watch -----------------------------------------------------------------------------------


def test_watched_counters_are_rates(run: Run, wired: None, blue: str) -> None:
    with traffic(blue, "10.0.0.2"):
        lines = run("stats", "--watch", 0.3, "--count", 2, "--json").stdout.splitlines()
    assert len(lines) == 2
    rows = {row["id"]: row for row in json.loads(lines[1])}
    assert rows["idle"]["a"]["tx_bytes"] == 0
    busy = rows["busy"]
    assert 1 < busy["a"]["tx_packets"] < 500
    assert busy["a"]["tx_bytes"] > 1000 * busy["a"]["tx_packets"]
    assert busy["a"]["tx_packets"] == pytest.approx(busy["b"]["rx_packets"], rel=0.5)


def test_watched_counters_as_tables(run: Run, wired: None) -> None:
    done = run("stats", "idle", "--watch", 0.1, "--count", 3)
    assert done.stdout.count("RX BYTES/S") == 3
    assert len(re.findall(r"^idle +a +e2( +0){8}$", done.stdout, re.MULTILINE)) == 3


def test_an_interface_made_anew_has_no_rates_for_once(run: Run, wired: None) -> None:
    old = [{"id": "c", "ok": True, "a": {"ifname": "e", "up": True, "rx_bytes": 500}}]
    new = [{"id": "c", "ok": True, "a": {"ifname": "e", "up": True, "rx_bytes": 100}}]
    assert rates.of_ends(old, new, 2.0)[0]["a"] == {"ifname": "e"}
    assert rates.of_ends(new, old, 2.0)[0]["a"] == {"ifname": "e", "rx_bytes": 200.0}
    assert rates.of_ends([], new, 2.0)[0]["a"] == {"ifname": "e"}


def test_watching_what_is_not_there(run: Run, engine: EngineProcess) -> None:
    done = run("stats", "nobody", "--watch", 0.1, "--count", 1, code=1)
    assert "unknown_id" in done.stderr
    run("stats", "--count", 1, code=2)


# -- small parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (0.5, "0.5"), (62.9, "62.9"), (999, "999"), (999.6, "1k"), (1234, "1.23k"), (10_000, "10k"),
     (123_456_789, "123M"), (5e15, "5000T")],
)  # fmt: skip
def test_short_numbers(number: float, text: str) -> None:
    assert rates.short(number) == text


def test_quantiles_as_prometheus_has_them() -> None:
    inf = float("inf")
    assert sampler.quantile([(1.0, 0.0), (2.0, 10.0), (inf, 10.0)], 0.5) == pytest.approx(1.5)
    assert sampler.quantile([(1.0, 4.0), (2.0, 4.0), (inf, 4.0)], 0.99) == pytest.approx(0.99)
    assert sampler.quantile([(1.0, 0.0), (2.0, 1.0), (inf, 10.0)], 0.99) == 2.0
