"""What is computed from rounds: medians, ratios, verdicts, and what became slower."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench import compare
from bench.figures import FIGURES
from bench.peers import find
from bench.report import README, page
from bench.tables import of_targets, sheet
from bench.targets import targets
from fastnl_engine.bench.contenders import Time
from fastnl_engine.bench.results import Results, Series, distribution
from fastnl_engine.bench.rounds import measure
from fastnl_engine.bench.workloads import Workload, updated

ROOT = Path(__file__).parents[2]
MACHINE = {
    "kernel": "6.1", "hz": "250", "cpu": "x", "cpus": 2, "mitigations": "none", "rcu_normal": "0", "rcu_expedited": "0",
    "python": "3.11", "fastnl": "0", "taken by others": 0.0, "stolen": 0.0,
}  # fmt: skip
STAR = {"kind": "veth", "shape": "star"}


def series(who: str, rounds: list[float], *, experiment: str = "levels", step: str = "create", **setting) -> Series:
    return Series(experiment, STAR | setting, who, "born", step, "us", 64, rounds)


def results(*of: Series) -> Results:
    return Results("a test", dict(MACHINE), {}, list(of))


def test_a_ratio_is_the_median_of_the_rounds_own():
    floor, library = series("floor", [100, 1000, 100]), series("library", [110, 1200, 130])
    ratio = library.over(floor)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.2, 1.1, 1.3))
    assert library.median == 130


def test_a_file_reads_as_it_was_written_and_fits_the_schema(tmp_path, fits_schema):
    before = results(series("floor", [1.23456, 2]))
    before.missing["go"] = "no Go toolchain here"
    before.series[0].distribution = distribution([3.0, 1.0, 2.0])
    before.write(tmp_path / "r.json")
    assert fits_schema(before.as_json())
    after = Results.read(tmp_path / "r.json")
    assert after.series[0].rounds == [1.235, 2]
    assert (after.series[0].percentile(50), after.series[0].percentile(99), after.series[0].percentile(0)) == (2, 3, 1)
    assert (after.missing, after.machine) == (before.missing, before.machine)


def test_a_file_of_another_version_is_refused(tmp_path):
    (tmp_path / "r.json").write_text('{"version": 0}')
    with pytest.raises(ValueError, match="version 1"):
        Results.read(tmp_path / "r.json")


class Steady:
    form = "born"
    count = 4

    def __init__(self, name: str, log: list[str], cost: float) -> None:
        self.name, self._log, self._cost = name, log, cost

    def step(self, step: str) -> Time:
        self._log.append(f"{self.name} {step}")
        self._cost += 1e-6
        return Time(self._cost, calls=[self._cost])


def test_contenders_take_turns_and_the_first_round_does_not_count():
    log: list[str] = []
    found = results()
    contenders = [Steady("a", log, 10e-6), Steady("b", log, 20e-6)]
    measure(found, "x", STAR, contenders, ("create", "delete"), rounds=2)
    assert [line.split()[0] for line in log[::2]] == ["a", "b", "b", "a", "a", "b"]
    [a] = found.find("x", who="a", step="create")
    assert a.rounds == pytest.approx([13, 15])


def test_steps_that_are_not_of_interest_are_taken_and_not_noted():
    log: list[str] = []
    found = results()
    measure(found, "x", STAR, [Steady("a", log, 0)], ("create", "delete"), only=["delete"], rounds=1, latencies=True)
    [only] = found.series
    assert (only.step, only.unit, len(log)) == ("delete", "ms", 4)
    assert only.distribution[0] == (0, pytest.approx(4e-3))


# -- compare -----------------------------------------------------------------------------------------


def compared(tmp_path: Path, monkeypatch, before: Results, after: Results) -> int:
    for name, what in (("a", before), ("b", after)):
        what.write(tmp_path / name)
    monkeypatch.setattr("sys.argv", ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    return compare.main()


FLOOR = [100.0, 110.0, 105.0]


@pytest.mark.parametrize(
    ("after", "code", "said"),
    [
        ([150, 166, 158], 1, "slower 1.37 times: levels: library, create (kind veth, shape star): 1.10"),
        ([88, 97, 92], 0, "faster 0.80 times"),
        ([108, 150, 130], 0, "1 ratios compared, 0 slower"),  # within what the rounds span
    ],
)
def test_compare_tells_what_changed_beyond_the_spread(tmp_path, monkeypatch, capsys, after, code, said):
    base = results(series("floor", FLOOR), series("library", [110, 121, 116]))
    new = results(series("floor", FLOOR), series("library", after))
    assert compared(tmp_path, monkeypatch, base, new) == code
    assert said in capsys.readouterr().out


def test_a_slower_machine_is_no_slower_program(tmp_path, monkeypatch, capsys):
    base = results(series("floor", FLOOR), series("library", [110, 121, 116]))
    new = results(series("floor", [300, 330, 315]), series("library", [330, 363, 348]))
    new.machine["kernel"] = "6.2"
    assert compared(tmp_path, monkeypatch, base, new) == 0
    assert "the machines differ: kernel 6.1 and 6.2" in capsys.readouterr().out


def test_others_that_became_slower_are_not_our_affair(tmp_path, monkeypatch, capsys):
    base = results(series("floor", FLOOR), series("ip", [110, 121, 116]))
    new = results(series("floor", FLOOR), series("ip", [1100, 1210, 1160]))
    assert compared(tmp_path, monkeypatch, base, new) == 2
    assert "nothing in common" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_said_to_be(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare", str(tmp_path / "none"), str(tmp_path / "none")])
    assert compare.main() == 2
    assert "none" in capsys.readouterr().err


# -- tables and targets ------------------------------------------------------------------------------


def test_the_verdict_follows_the_figure():
    found = results(
        series("floor", FLOOR), series("library", [x * 1.1 for x in FLOOR]), series("engine", [x * 1.5 for x in FLOOR])
    )
    assert [(t.what, t.met) for t in targets(found)] == [
        ("library against the floor", True), ("engine against the floor", False),
    ]  # fmt: skip


def test_deletes_are_compared_with_one_by_one():
    found = results(
        series("one by one", [20_000], experiment="deletes", step="delete"),
        series("all in one sweep", [400], experiment="deletes", step="delete"),
    )
    assert [(t.found, t.met) for t in targets(found)] == [("0.40 ms", True), ("50 x", True)]


@pytest.mark.parametrize(
    ("peer", "found", "verdict"),
    [(400.0, "4.00 x", "met"), (320.0, "3.20 x", "met"), (280.0, "2.80 x", "missed"), (200.0, "2.00 x", "")],
)
def test_a_figure_that_the_floor_misses_too_is_told_from_one_that_fastnl_misses(peer, found, verdict):
    """The sockets that are kept make the better of the two floors, and what is moved is not the library to compare."""
    moved = series("library", [4e4] * 3, experiment="peers")
    moved.form = "moved"
    measured = results(
        moved,
        *(series(who, [cost] * 3, experiment="peers") for who, cost in (
            ("library", 100.0), ("floor", 95.0), ("floor, sockets kept", 90.0), ("vishvananda/netlink", peer)
        )),
    )  # fmt: skip
    [target] = targets(measured)
    assert target.found == found
    assert target.floors == f"{peer / 90:.2f} x"
    assert target.verdict == (verdict or "missed, by the floor too")
    assert f"| {target.floors} | {target.verdict} |" in of_targets([target]).as_markdown()


def test_deletes_and_growth_stand_beside_what_the_floor_does_of_them():
    grown = [
        series(who, [cost], experiment="growth", standing=standing)
        for who, costs in (("floor", (100, 150)), ("library", (110, 154)))
        for cost, standing in zip(costs, (100, 1000), strict=True)
    ]
    swept = [
        series(who, [cost], experiment="deletes", step="delete")
        for who, cost in (("floor", 600), ("one by one", 15_000), ("all in one sweep", 700))
    ]
    found = {t.what: t for t in targets(results(*grown, *swept))}
    more = found["cost of one more pair"]
    assert (more.found, more.floors, more.verdict) == ("1.40 x", "1.50 x", "missed, by the floor too")
    assert (found["a delete"].floors, found["a delete"].verdict) == ("0.60 ms", "missed, by the floor too")
    many = found["one by one against a sweep"]
    assert (many.found, many.floors) == ("21 x", "25 x")


def test_a_table_has_a_row_for_each_and_the_ratio_to_the_floor():
    found = results(series("floor", FLOOR), series("library", [x * 1.1 for x in FLOOR]))
    table = sheet(found, "levels")
    assert table.columns == ["who", "create, us", "x floor"]
    assert table.rows == [["floor", "105", "1"], ["library", "116", "1.10 (1.10–1.10)"]]
    assert "shape star" in table.title


# -- who and what is measured ------------------------------------------------------------------------


def test_peers_that_are_not_there_are_named(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    found, missing = find()
    assert "no Go toolchain" in missing["vishvananda/netlink"]
    assert "iproute2" in missing["ip"]
    assert "iproute2" in missing["ip -batch"]
    assert {"library", "seed's sequence"} <= {peer.name for peer in found}


@pytest.mark.parametrize("shape", ["spread", "star", "mesh", "dense"])
@pytest.mark.parametrize("kind", ["veth", "vxlan"])
def test_a_workload_has_its_shape_and_nothing_twice(kind, shape):
    made = Workload(shape, kind, 100, addresses=4, routes=4).connections()
    ends = [end for c in made for end in c.ends]
    assert len({(end.netns, end.ifname) for end in ends}) == len(ends)
    for kind_of in ("addresses", "routes"):
        assert all(len(getattr(end, kind_of)) == 4 for end in ends)
        texts = [x.text if kind_of == "addresses" else x.to for end in ends for x in getattr(end, kind_of)]
        assert len(set(texts)) == len(texts)
    first = {c.a.netns for c in made}
    assert len(first) == {"spread": 100, "star": 1, "dense": 1}.get(shape, len(first))
    changed = updated(made[0])
    assert changed.a.addresses != made[0].a.addresses
    assert changed.a.mtu != made[0].a.mtu


def test_workloads_with_other_prefixes_have_other_tunnels():
    vnis = [{c.vni for c in Workload("star", "vxlan", 50, prefix=p).connections()} for p in "svpn"]
    assert len(set.union(*vnis)) == 200


def test_results_that_are_kept_fit_the_schema_and_can_be_drawn(fits_schema):
    kept = sorted((ROOT / "bench" / "results").glob("*.json"))
    assert kept
    for path in kept:
        assert fits_schema(json.loads(path.read_text()))
        found = Results.read(path)
        assert all("<svg" in draw(found) for name, draw in FIGURES.items() if found.find(name))
        assert page(found).count("<svg") == len([name for name in FIGURES if found.find(name)])


def test_results_of_before_a_workload_was_known_can_still_be_shown():
    """Of other shapes, batches and peers there was nothing."""
    old = [
        Series("changes", STAR | {"addresses": 1, "routes": 0}, who, "born", step, "us", 16, [100.0])
        for who in ("floor", "library", "engine") for step in ("update", "move")
    ]  # fmt: skip
    old += [series(who, [100.0], experiment="peers") for who in ("floor", "library")]
    text = page(results(*old))
    assert text.count("<svg") == 2
    assert "update" in text


def test_the_pictures_of_the_readme_are_there():
    shown = re.findall(r"!\[.+\]\((.+)\)", (ROOT / "README.md").read_text())
    assert shown == [f"docs/figures/{name}.svg" for name in README]
    assert all((ROOT / path).is_file() for path in shown)
