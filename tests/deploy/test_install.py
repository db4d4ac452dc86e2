"""What users install works: `pip install` from the source distribution, in a clean environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_INDEX = 77  # what the script ends with where no package index can be reached


def network() -> list[str]:
    """In front of a command that needs the network: tests have one of their own, where no package index is."""
    return ["nsenter", f"--net=/proc/{os.getppid()}/ns/net"] if os.geteuid() == 0 else []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the script takes what git has; this is no checkout")
@pytest.mark.timeout(900)
def test_the_source_distribution_installs_in_a_clean_environment():
    done = subprocess.run(
        [*network(), ROOT / "deploy" / "test-sdist.sh"],
        # not the environment that runs the tests: what is installed there must not help
        env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == NO_INDEX:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "installs from fastnl-" in done.stdout
