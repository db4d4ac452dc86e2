"""`make bench`: everything that is measured, with all contenders in turns, in one run.

    python -m bench.run [--form short] [--only peers,levels] [--out bench/out/results.json]

Prints tables and writes every round to a file, from which bench.report makes figures and bench.compare a comparison.
Nothing here fails because of a figure: a target that was missed is printed as missed.  An experiment that fails leaves
the others alone, and makes the exit code 1.

It needs root, and works in network and mount namespaces of its own.
"""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from bench import peers, replay, tables
from bench.experiments import EXPERIMENTS, FORMS, Run
from bench.targets import targets
from fastnl.testing import allow_many_files, isolate
from fastnl_engine.bench import machine
from fastnl_engine.bench.results import Results

OUT = Path(__file__).parent / "out"


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without tidying up
    begin = time.monotonic()
    lock = _alone() if options.form != "smoke" else None  # noqa: F841  held until the end
    replay.build()
    found, missing = peers.find()  # a program in Go needs the machine's network to be built
    console = _console()
    facts = machine.facts()
    console.print(", ".join(f"{k} {v}" for k, v in facts.items()), highlight=False)
    others = machine.Others()
    what = "" if options.only == list(EXPERIMENTS) else f" --only {','.join(options.only)}"
    results = Results(f"python -m bench.run --form {options.form}{what}", facts, missing)
    failed = []
    # on a disk and not in /tmp, which may be memory: the engine's store is to be waited for
    with tempfile.TemporaryDirectory(prefix="fastnl-", dir="/var/tmp") as folder:
        for name in options.only:
            place = Path(folder) / name
            place.mkdir()
            # in a process of its own: what one leaves behind, thousands of namespaces say, another one would pay for
            context = multiprocessing.get_context("fork")
            process = context.Process(target=_one, args=(name, options.form, place, found), daemon=True)
            process.start()
            process.join()
            if process.exitcode:
                failed.append(name)
                continue
            part = Results.read(place / "results.json")
            results.series += part.series
            results.missing |= part.missing
            # what is there is kept, should somebody lose patience
            results.machine = facts | others.read() | {"seconds": round(time.monotonic() - begin)}
            results.write(options.out)
    for who, why in results.missing.items():
        console.print(f"missing: {who}: {why}", highlight=False)
    if reached := targets(results):
        console.print(tables.of_targets(reached).for_terminal())
    if results.series:
        console.print(
            f"others took {results.machine['taken by others']} processors on average, the hypervisor "
            f"{results.machine['stolen']}; over 0.3 the figures are worth little",
            highlight=False,
        )
        console.print(f"every round: {os.path.relpath(options.out)}; {time.monotonic() - begin:.0f} s")
    for name in failed:
        console.print(f"failed, see above: {name}", highlight=False)
    return 1 if failed else 0


def _one(name: str, form: str, folder: Path, found: list[peers.Peer]) -> None:
    """One experiment; its results are left in the folder."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    isolate()
    allow_many_files()
    console = _console()
    results = Results(name, machine.facts())
    columns = TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name)
        run = Run(FORMS[form], results, folder, found, lambda text: bar.update(task, description=text))
        EXPERIMENTS[name](run)
    console.print(tables.sheet(results, name).for_terminal())
    results.write(folder / "results.json")


def _console() -> Console:
    return Console(width=max(132, Console().width))


def _alone() -> TextIO:
    """Two measurements at once would disturb each other; exits when there is one already."""
    OUT.mkdir(exist_ok=True)
    file = (OUT / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("another `make bench` of this checkout is at work")
    return file


def _options() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        unknown = set(text.split(",")) - set(EXPERIMENTS)
        if unknown:
            raise argparse.ArgumentTypeError(f"no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
        return text.split(",")

    parser = argparse.ArgumentParser(prog="python -m bench.run", description="What a connection costs, and whom.")
    parser.add_argument("--form", choices=FORMS, default="short", help="how much of it; default: short")
    parser.add_argument("--only", type=names, default=list(EXPERIMENTS), help=", ".join(EXPERIMENTS))
    parser.add_argument("--out", type=Path, default=OUT / "results.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
