"""What survives: kill -9, a restart, a stop; and what an engine must not do at its start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from fastnl._nl import route_socket
from fastnl.testing import eventually, ip_json, ping
from fastnl_engine.testing import EngineProcess, end, pair, tunnel


def ip(netns: str, *args: str) -> None:
    subprocess.run(["ip", "-n", netns, *args], check=True, capture_output=True)


def seen(*namespaces: str) -> list[Any]:
    """Everything about every interface, counters aside: unchanged means untouched."""
    return [ip_json(n, *what) for n in namespaces for what in (("addr", "show"), ("route", "show"))]


def names(netns: str) -> set[str]:
    return {row["ifname"] for row in interfaces(netns)}


# groups of include/uapi/linux/rtnetlink.h: links, addresses and routes of both families
NOTICES = 0x1 | 0x10 | 0x40 | 0x100 | 0x400


@contextlib.contextmanager
def untouched(*namespaces: str) -> Iterator[None]:
    """Fails if the kernel tells of a change to an interface, address or route in the `with` block."""
    with contextlib.ExitStack() as stack:
        ears = []
        for n in namespaces:
            fd = os.open(f"/run/netns/{n}", os.O_RDONLY)
            ear = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, fileno=route_socket(fd)))
            os.close(fd)
            ear.setblocking(False)
            ear.bind((0, NOTICES))
            ears.append(ear)
        yield
        for n, ear in zip(namespaces, ears, strict=True):
            with pytest.raises(BlockingIOError):
                pytest.fail(f"a change in {n}: {ear.recv(65536)!r}")


def interfaces(netns: str) -> list[dict[str, Any]]:
    return [row for row in ip_json(netns, "link", "show") if row["ifname"] != "lo"]


def job(n: int, a: str = "blue", b: str = "red") -> dict[str, Any]:
    return pair(f"c{n}", end(a, f"e{n}", f"10.0.{n}.1/24"), end(b, f"e{n}", f"10.0.{n}.2/24"))


@pytest.fixture
def jobs(client, blue, red) -> list[dict[str, Any]]:
    """Ten connections that are up, and a tunnel."""
    jobs = [job(n) for n in range(10)]
    jobs[0]["a"]["routes"] = [{"to": "10.77.0.0/16", "via": "10.0.0.2"}]
    jobs[1]["mtu"] = 1400
    jobs.append(tunnel("t1", end(blue, "vx0", "10.9.0.1/24"), vni=3, remote="192.0.2.1"))
    assert all(r["ok"] for r in client.connect(jobs))
    # what the kernel does on its own after an interface came up has to be over before anything is compared
    assert eventually(lambda: {row["operstate"] for n in (blue, red) for row in interfaces(n)} == {"UP", "UNKNOWN"})
    return jobs


# -- restarts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end_it", ["kill", "stop"])
def test_after_a_restart_everything_is_adopted_and_nothing_was_touched(engine, client, jobs, blue, red, end_it):
    rows = list(client.list())
    before = seen(blue, red)
    with untouched(blue, red):
        getattr(engine, end_it)()
        assert ping(blue, "10.0.1.2")  # interfaces stay up without an engine
        engine.start()
        assert list(engine.client().list()) == rows
        again = engine.client().connect(jobs)
        assert [r["changed"] for r in again] == [False] * 11
    assert seen(blue, red) == before
    assert "adopted=11 mended=0 made_again=0 orphans_removed=0" in engine.resumed().log


def test_what_is_in_the_kernel_at_a_stop_is_finished_answered_and_remembered(engine, netns):
    """Real moves cost milliseconds each, so the stop comes while a cycle of them is under way."""
    for name in ("here", "there", "far"):
        netns.make(name)
    raw = engine.raw()
    count = 40
    raw.ask(
        id=1, op="connect", connections=[pair(f"s{n}", end("here", f"e{n}"), end("far", f"e{n}")) for n in range(count)]
    )
    assert raw.reply()["ok"]
    before = {row["ifname"]: row["ifindex"] for row in ip_json("here", "link") if row["ifname"] != "lo"}
    raw.ask(id=2, op="move", moves=[{"id": f"s{n}", "end": "a", "netns": "there"} for n in range(count)])
    assert eventually(lambda: len(ip_json("there", "link")) > 2)
    assert engine.stop() == 0
    reply = raw.reply()
    assert reply["id"] == 2
    engine.start()
    moved = {r["id"] for r in reply["results"] if r["ok"]}
    after = {row["ifname"]: row["ifindex"] for row in ip_json("there", "link") if row["ifname"] != "lo"}
    assert {f"s{name[1:]}" for name in after} == moved
    assert after.items() <= before.items()
    assert "mended=0 made_again=0 orphans_removed=0" in engine.resumed().log


def test_a_namespace_named_in_two_ways_is_adopted_through_both(engine, netns):
    netns.make("blue2")
    netns.make("red2")
    jobs = [
        pair(f"two{n}", end(reference, f"e{n}"), end("red2", f"e{n}"))
        for n, reference in enumerate(("blue2", "file:/run/netns/blue2"))
    ]
    assert all(r["ok"] for r in engine.client().connect(jobs))
    before = seen("blue2", "red2")
    engine.kill()
    engine.start()
    assert seen("blue2", "red2") == before
    assert all(v["ok"] for v in engine.client().verify())


def test_with_resync_recreate_everything_is_made_anew_at_a_start(engine, client, jobs, blue, red):
    before = {row["id"]: row["a"]["ifindex"] for row in client.list()}
    engine.stop()
    engine.env["FASTNL_RESYNC"] = "recreate"
    engine.start()
    again = engine.client()
    assert eventually(lambda: all(row["state"] == "up" for row in again.list()))
    after = {row["id"]: row["a"]["ifindex"] for row in again.list()}
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert all(v["ok"] for v in again.verify())


def test_what_was_acknowledged_is_never_lost_by_kill_9(engine, netns):
    """Killed at a random moment under load: what was answered is so, and nothing is there without a record."""
    rooms = netns.many(8)
    truth: dict[str, bool] = {}  # of what was acknowledged: whether it is connected
    for attempt in range(4):
        raw = engine.raw()
        sent = {}
        for n in range(60):
            which = f"k{n}"
            if truth.get(which):
                sent[n] = (which, False)
                raw.ask(id=n, op="disconnect", ids=[which])
            else:
                sent[n] = (which, True)
                a, b = rooms[n % 8], rooms[(n + 1 + attempt) % 8]
                a, b = (a, b) if a != b else (a, rooms[(n + 3) % 8])
                raw.ask(id=n, op="connect", connections=[pair(which, end(a, which), end(b, f"{which}b"))])
        for _ in range(10 + attempt * 10):
            reply = raw.reply()
            assert reply["ok"], reply
            which, connected = sent.pop(reply["id"])
            truth[which] = connected
        engine.kill()
        while raw.socket.poll(0):  # what had been answered before it died
            which, connected = sent.pop(raw.reply()["id"])
            truth[which] = connected
        raw.socket.close()
        engine.start()
        client = engine.client()
        assert eventually(lambda: client.info()["load"] == 0)  # noqa: B023
        rows = {row["id"]: row["state"] for row in client.list()}
        unknown = {which for which, _ in sent.values()}
        for which, connected in truth.items():
            if which not in unknown:
                assert rows.get(which) == ("up" if connected else None), which
        assert set(rows.values()) <= {"up"}
        assert all(v["ok"] for v in client.verify())
        marks = {row["ifalias"] for room in rooms for row in ip_json(room, "link", "show") if "ifalias" in row}
        assert marks == {f"fastnl/test/{id_}/{e}" for id_ in rows for e in "ab"}
        groups = [row for room in rooms for row in ip_json(room, "link", "show") if row["ifname"] != "lo"]
        assert len(groups) == 2 * len(rows)  # nothing half-made without a mark either
        truth = dict.fromkeys(rows, True)


def test_nothing_is_made_before_it_was_written_down_and_nothing_answered_before_its_outcome_was(engine, netns):
    """While the state file is locked it says all that is in the kernel and all that was answered."""
    hub = netns.make("hub")
    raw = engine.raw()
    ids = [f"c{n}" for n in range(400)]
    for id_ in ids:
        raw.ask(id=id_, op="connect", connections=[pair(id_, end(hub, id_), end("", id_))])
    answered: set[str] = set()
    db = sqlite3.connect(engine.state / "state.db", isolation_level=None, timeout=60)
    moments = 0
    while len(answered) < len(ids):
        db.execute("BEGIN IMMEDIATE")
        known = {id_ for (id_,) in db.execute("SELECT id FROM connection")}
        begun = {id_ for (id_,) in db.execute("SELECT id FROM intent")}
        made = names(hub)
        while raw.socket.poll(30):
            answered.add(raw.reply()["id"])
        db.execute("ROLLBACK")
        assert made <= known | begun
        assert answered <= known
        moments += 0 < len(known) < len(ids)
        if len(answered) < len(ids):
            answered.add(raw.reply()["id"])  # and so it goes on
    db.close()
    assert moments > 0  # or it was over before anybody looked
    engine.client().disconnect(ids)


@pytest.mark.parametrize(
    "damage",
    [
        ("link", "del", "e1"),
        ("link", "set", "e1", "down"),
        ("link", "set", "e1", "mtu", "1300"),
        ("link", "set", "e1", "name", "other"),
        ("addr", "flush", "dev", "e1"),
    ],
    ids=" ".join,
)
def test_what_was_changed_while_no_engine_ran_is_made_again_and_the_rest_is_left_alone(
    engine, client, jobs, blue, red, damage
):
    untouched = {row["id"]: row for row in client.list() if row["id"] != "c1"}
    engine.stop()
    ip(blue, *damage)
    engine.start()
    client = engine.client()
    assert eventually(lambda: all(v["ok"] for v in client.verify()))
    assert {row["id"]: row for row in client.list() if row["id"] != "c1"} == untouched
    assert ping(blue, "10.0.1.2")
    assert "other" not in names(blue)


def test_a_connection_whose_namespace_went_while_no_engine_ran_waits_for_it(engine, client, netns, jobs, blue, red):
    engine.stop()
    netns.let_go(red)
    engine.start()
    client = engine.client()
    assert eventually(lambda: {r["state"] for r in client.list(netns="red")} == {"pending"})
    assert next(client.list(ids=["t1"]))["state"] == "up"
    assert eventually(lambda: names(blue) == {"vx0"})
    netns.make(red)
    assert eventually(lambda: {r["state"] for r in client.list()} == {"up"})
    assert ping(blue, "10.0.3.2")


def test_what_waits_still_waits_after_a_restart(engine, client, netns, blue):
    client.connect([pair("w1", end(blue, "e0"), end("later", "e0"))], wait=True)
    engine.kill()
    engine.start()
    client = engine.client()
    [row] = client.list()
    assert (row["state"], "later" in row["reason"]) == ("pending", True)
    netns.make("later")
    assert eventually(lambda: next(client.list())["state"] == "up")


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_a_move_is_remembered_as_if_it_had_been_connected_so(engine, client, netns, blue, red, mode):
    client.connect([pair("c1", end(blue, "e0", "10.0.0.1/24"), end(red, "e0", "10.0.0.2/24"))])
    green = netns.make("green")
    client.move([{"id": "c1", "end": "b", "netns": green, "mode": mode}])
    wanted = pair("c1", end(blue, "e0", "10.0.0.1/24"), end(green, "e0", "10.0.0.2/24"))
    [again] = client.connect([wanted])
    assert (again["ok"], again["changed"]) == (True, False)
    engine.kill()
    engine.start()
    [row] = engine.client().list()
    assert (row["b"]["netns"], row["b"]["ifindex"]) == (green, again["b"]["ifindex"])


# -- what is nobody's and what is somebody else's --------------------------------------------------


def test_what_carries_our_mark_without_a_record_is_removed_at_the_start(make_engine, engine, client, jobs, blue, red):
    ip(blue, "link", "add", "orphan0", "type", "veth", "peer", "name", "orphan1", "netns", red)
    ip(blue, "link", "set", "orphan0", "alias", "fastnl/test/nobody/a")
    ip(red, "link", "set", "orphan1", "alias", "fastnl/test/nobody/b")
    ip(blue, "link", "add", "orphan2", "type", "bridge")
    ip(blue, "link", "set", "orphan2", "alias", "fastnl/test/c99/a")
    engine.restart().resumed()
    assert names(blue) == {f"e{n}" for n in range(10)} | {"vx0"}
    assert names(red) == {f"e{n}" for n in range(10)}
    assert "adopted=11" in engine.log


def test_what_is_somebody_elses_is_never_touched(engine, client, jobs, foreign, blue, red):
    """However much it looks like ours: another mark, another instance, our group, the name of a record."""
    group = ip_json(blue, "link", "show", "e1")[0]["group"]
    foreign(blue, "plain0")
    foreign(blue, "ours0", group=int(group))
    foreign(blue, "marked0")
    ip(blue, "link", "set", "marked0", "alias", "fastnl/other/c1/a")
    foreign(blue, "marked1")
    ip(blue, "link", "set", "marked1", "alias", "fastnl/test-2/c1/a")
    engine.stop()
    ip(blue, "link", "del", "e2")
    foreign(blue, "e2")
    before = seen(blue)[0]
    strangers = [row for row in before if row.get("linkinfo", {}).get("info_kind") == "bridge"]
    engine.start().resumed()
    client = engine.client()
    assert eventually(lambda: client.info()["load"] == 0)
    after = [row for row in seen(blue)[0] if row.get("linkinfo", {}).get("info_kind") == "bridge"]
    assert after == strangers and len(after) == 5
    [row] = client.list(ids=["c2"])
    assert (row["state"], row["error"]["code"], row["error"]["field"]) == ("failed", "ifname_in_use", "a.ifname")
    assert all(v["ok"] for v in client.verify([j["id"] for j in jobs if j["id"] != "c2"]))
    # when the stranger has gone, it can be had
    ip(blue, "link", "del", "e2")
    [result] = client.connect([jobs[2]])
    assert result["ok"], result


def test_a_connect_that_was_cut_off_by_kill_9_leaves_no_intent_for_ever(engine, blue, red):
    engine.kill()
    spec = msgpack.packb(job(1))
    with sqlite3.connect(engine.state / "state.db") as db:
        db.execute("INSERT INTO intent VALUES ('c1', 'create', ?, ?)", (spec, msgpack.packb([(1 << 20) + 5, 7])))
    db.close()
    engine.start()
    assert eventually(lambda: engine.client().info()["load"] == 0)
    engine.stop()
    db = sqlite3.connect(engine.state / "state.db")
    assert db.execute("SELECT count(*) FROM intent").fetchone() == (0,)
    db.close()


def test_half_made_interfaces_of_an_intent_are_removed_by_their_index(engine, client, blue, red):
    # kill -9 came between the creation and the mark: there are our group and the index that was written down
    client.connect([job(0)])
    group = ip_json(blue, "link", "show", "e0")[0]["group"]
    engine.kill()
    index = 1_500_000
    ip(blue, "link", "add", "half0", "index", str(index), "group", group, "type", "bridge")
    db = sqlite3.connect(engine.state / "state.db")
    db.execute(
        "INSERT INTO intent VALUES ('c1', 'create', ?, ?)", (msgpack.packb(job(1)), msgpack.packb([index, index + 1]))
    )
    db.commit()
    db.close()
    engine.start()
    assert names(blue) == {"e0"}


# -- stopping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_interfaces_up_and_takes_the_sockets_away(engine, client, jobs, blue, red, signum):
    before = seen(blue, red)
    engine.process.send_signal(signum)
    assert engine.wait() == 0
    assert seen(blue, red) == before
    assert not Path(engine.endpoint.removeprefix("ipc://")).exists()
    assert not Path(engine.events.removeprefix("ipc://")).exists()


def test_at_a_stop_every_request_that_has_arrived_is_answered(engine, netns):
    hub = netns.make("hub")
    raw = engine.raw()
    requests = 400
    for n in range(requests):
        raw.ask(
            id=n,
            op="connect",
            connections=[pair(f"c{n}-{i}", end(hub, f"{n}-{i}"), end("", f"{n}-{i}x")) for i in range(5)],
        )
    first = raw.reply()  # so it has begun
    assert first["ok"]
    # the last request is answered from memory as soon as it is taken, so all those before it have arrived
    raw.ask(id="query", op="verify", ids=[])
    raw.ask(id="info", op="info")
    replies = {first["id"]: first}
    while "info" not in replies:
        reply = raw.reply()
        replies[reply["id"]] = reply
    engine.process.send_signal(signal.SIGTERM)
    while len(replies) < requests + 2:
        reply = raw.reply()
        assert reply["id"] not in replies
        replies[reply["id"]] = reply
    assert engine.wait() == 0
    done, refused = set(), set()
    for n in range(requests):
        for i, result in enumerate(replies[n]["results"]):
            if result["ok"]:
                done.add(f"c{n}-{i}")
            else:
                refused.add(result["error"]["code"])
    assert refused == {"shutting_down"}
    engine.start()
    client = engine.client()
    assert {row["id"] for row in client.list()} == done
    assert all(v["ok"] for v in client.verify())
    client.disconnect(sorted(done))


def test_requests_that_arrive_during_a_stop_are_answered_or_the_engine_is_gone(engine, netns):
    hub = netns.make("hub")
    raw = engine.raw()
    raw.ask(
        id="big", op="connect", connections=[pair(f"c{n}", end(hub, f"e{n}"), end("", f"x{n}")) for n in range(1000)]
    )
    raw.ask(id="info", op="info")
    assert raw.reply()["id"] == "info"
    engine.process.send_signal(signal.SIGTERM)
    for n in range(600):
        raw.ask(id=n, op="disconnect", ids=["nobody"])
    got = []
    while "big" not in got:
        got.append(raw.reply()["id"])
    assert engine.wait() == 0
    while raw.socket.poll(0):
        got.append(raw.reply()["id"])
    numbers = [n for n in got if n != "big"]
    assert numbers == sorted(set(numbers))  # each at most once, none left out before one that was answered
    assert numbers == list(range(len(numbers)))


# -- refusing to start -----------------------------------------------------------------------------


def refused(engine: EngineProcess) -> str:
    """Starts an engine that must not start; gives its last words."""
    before = len(engine.log)
    engine.launch()
    assert engine.wait() == 1, engine.log
    said = engine.log[before:]
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1
    return said


def beside(engine: EngineProcess, make_engine, **same: bool) -> EngineProcess:
    """Another engine that shares something with a running one."""
    other = make_engine()
    if same.get("endpoint"):
        other.endpoint = engine.endpoint
    if same.get("events"):
        other.events = engine.events
    if same.get("state"):
        other.state = engine.state
    other.instance = engine.instance if same.get("instance") else "other"
    return other


@pytest.mark.parametrize("shared", ["endpoint", "events", "state", "instance"])
def test_a_second_engine_on_the_same_thing_is_refused_and_the_first_one_goes_on(
    engine, client, make_engine, jobs, blue, red, shared
):
    before = seen(blue, red)
    other = beside(engine, make_engine, **{shared: True})
    said = refused(other)
    what = {"endpoint": engine.endpoint, "events": engine.events, "state": str(engine.state), "instance": "test"}
    assert what[shared] in said and "another engine" in said
    assert shared == "instance" or str(engine.pid) in said
    # nothing that the first one made was taken for somebody's leftovers
    assert seen(blue, red) == before
    assert all(v["ok"] for v in client.verify())
    assert engine.client().info()["connections"] == {"up": 11}


def test_two_engines_with_nothing_in_common_live_side_by_side(engine, client, make_engine, jobs, blue, red):
    other = beside(engine, make_engine).start()
    [result] = other.client().connect([pair("c1", end(blue, "o0"), end(red, "o0"))])
    assert result["ok"]
    engine.restart()
    other.restart()
    assert all(v["ok"] for v in engine.client().verify()) and all(v["ok"] for v in other.client().verify())
    assert names(red) == {f"e{n}" for n in range(10)} | {"o0"}
    other.client().disconnect(["c1"])


def test_what_a_killed_engine_left_of_its_sockets_is_no_hindrance(engine):
    engine.kill()
    assert Path(engine.endpoint.removeprefix("ipc://")).exists()
    engine.start()


def test_a_damaged_state_file_is_refused_and_left_as_it_is(engine, client, jobs, blue, red):
    before = seen(blue, red)
    engine.stop()
    file = engine.state / "state.db"
    file.write_bytes(b"\x00" * 100 + os.urandom(20_000))
    content = file.read_bytes()
    said = refused(engine)
    assert str(file) in said and "damaged" in said
    assert file.read_bytes() == content
    assert seen(blue, red) == before  # without knowing whose they are nothing was removed


def test_a_state_file_of_a_newer_version_is_refused_and_left_as_it_is(engine, client, jobs, blue, red):
    before = seen(blue, red)
    engine.stop()
    file = engine.state / "state.db"
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version=99")
    db.close()
    content = file.read_bytes()
    said = refused(engine)
    assert str(file) in said and "newer" in said and "99" in said
    assert file.read_bytes() == content
    assert seen(blue, red) == before


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--state-dir", "/proc/nothing"], "/proc/nothing"),
        (["--state-dir", "/etc/hostname"], "/etc/hostname"),
        (["--endpoint", "ipc:///proc/x.sock"], "/proc/x.sock"),
        (["--endpoint", "ipc://HERE/" + "x" * 200], "longer than"),
        (["--endpoint", "nonsense"], "nonsense"),
    ],
)
def test_a_place_that_cannot_be_used_is_named(make_engine, tmp_path, flags, word):
    assert word in refused(make_engine(*(flag.replace("HERE", str(tmp_path)) for flag in flags)))


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--instance", "a/b"], "instance"),
        (["--log-level", "loud"], "log-level"),
        (["--frobnicate"], "frobnicate"),
    ],
)
def test_a_setting_that_cannot_be_is_a_usage_error(make_engine, flags, word):
    engine = make_engine(*flags)
    engine.launch()
    assert engine.wait() == 2
    assert word in engine.log


def test_state_and_sockets_are_for_their_owner(engine, client):
    assert stat.S_IMODE(engine.state.stat().st_mode) == 0o700
    assert stat.S_IMODE((engine.state / "state.db").stat().st_mode) == 0o600


def test_the_environment_and_a_file_set_what_flags_do_not(make_engine, tmp_path):
    (tmp_path / "engine.toml").write_text('queue = 123\nlog_level = "error"\n')
    engine = make_engine("--config", str(tmp_path / "engine.toml"), env={"FASTNL_LOG_LEVEL": "warning"}).start()
    assert engine.client().info()["limits"]["queue"] == 123
    assert "serving" not in engine.log


# -- capabilities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["net_admin", "sys_admin"])
def test_without_a_capability_the_start_says_which_one_is_missing(make_engine, missing):
    engine = make_engine(prefix=["setpriv", f"--bounding-set=-{missing}", f"--inh-caps=-{missing}"])
    said = refused(engine)
    assert f"CAP_{missing.upper()}" in said


def test_an_ordinary_user_is_told_what_is_needed(make_engine, tmp_path):
    engine = make_engine(prefix=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
    engine.folder.chmod(0o777)
    engine.folder.parent.chmod(0o755)
    assert "CAP_SYS_ADMIN" in refused(engine)
