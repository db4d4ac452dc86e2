"""Programs that people use instead of fastnl, as contenders: which there are here, and why the others are missing."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
GO = "vishvananda/netlink"


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that is measured beside fastnl.

    command   of a program of its own; without one it is one of worker.KNOWN
    changes   whether it can change what is up
    """

    name: str
    command: Sequence[str] = ()
    changes: bool = True


FORMS = ("born", "moved")


def find() -> tuple[list[Peer], dict[str, str]]:
    """The peers that can be measured, and those that are missing, with the reason.

    To be called where modules for Go can be downloaded, that is before the process leaves the machine's network.
    """
    found, missing = [Peer("library"), Peer("seed's sequence", changes=False)], {}
    for names, there, why in (
        (("ip", "ip -batch"), shutil.which("ip"), "no `ip` here; it comes with iproute2"),
        (("pyroute2", "pyroute2 IPBatch"), importlib.util.find_spec("pyroute2"), "pyroute2 is not installed"),
    ):
        for name in names:
            if there:
                found.append(Peer(name))
            else:
                missing[name] = why
    problem = _build_go()
    if problem:
        missing[GO] = problem
    else:
        found.append(Peer(GO, command=[str(HERE / "netlink" / "netlink")]))
    return found, missing


def _build_go() -> str:
    """Builds the program; what is wrong if it cannot be built, "" if it is there."""
    if shutil.which("go") is None:
        return "no Go toolchain here (Debian: golang-go)"
    command = ["go", "build", "-o", "netlink", "."]
    try:
        done = subprocess.run(command, cwd=HERE / "netlink", capture_output=True, text=True, check=False, timeout=180)
    except subprocess.TimeoutExpired:
        return "go build took more than three minutes"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or ["no reason given"]
    return f"go build failed: {lines[-1]}"
