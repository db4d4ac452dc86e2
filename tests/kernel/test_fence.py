"""`file:` references lead where they may and nowhere else, whatever a link says and whenever it is put there."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastnl
from fastnl.fence import fence_files
from fastnl.netns import Handles, check_reach, identity, open_reference
from fastnl.testing import Namespaces


@pytest.fixture
def folders(netns: Namespaces, tmp_path: Path) -> Iterator[Path]:
    """in/ is allowed, out/ is not; blue is mounted in both of them, as x."""
    netns.make("blue")
    mounted = []
    for name in ("in", "in/sub", "out", "inside"):
        (tmp_path / name).mkdir()
    for name in ("in/x", "in/sub/x", "out/x", "inside/x"):
        (tmp_path / name).touch()
        subprocess.run(["mount", "--bind", "/run/netns/blue", tmp_path / name], check=True)
        mounted.append(tmp_path / name)
    fence_files([f"{tmp_path}/in/"])
    yield tmp_path
    fence_files([])
    for path in mounted:
        subprocess.run(["umount", path], check=True)


def opens(path: object) -> bool:
    fd = open_reference(f"file:{path}")
    os.close(fd)
    return True


@pytest.mark.parametrize("path", ["in/x", "in/sub/x", "in/sub/../x", "in//x", "in/./x", "out/../in/x"])
def test_what_is_inside_opens(folders, path):
    assert opens(folders / path if ".." not in path else f"{folders}/{path}")


@pytest.mark.parametrize("path", ["out/x", "inside/x", "in/../out/x", "in/sub/../../out/x", "in", "in/", ""])
def test_what_reads_as_outside_is_refused_with_the_folders_that_there_are(folders, path):
    for refused in (open_reference, check_reach):
        with pytest.raises(fastnl.InvalidValue, match="file_prefixes") as caught:
            refused(f"file:{folders}/{path}")
        assert f"{folders}/in" in str(caught.value)
    with pytest.raises(fastnl.InvalidValue):
        open_reference("file:/proc/self/ns/net")


def test_a_link_that_leads_out_is_refused_and_one_that_does_not_is_followed(folders):
    for name, target in {
        "relative": "../out/x", "absolute": folders / "out/x", "folder": "../out", "magic": "/proc/self/ns/net",
        "twice": "relative",
    }.items():  # fmt: skip
        (folders / "in" / name).symlink_to(target)
        with pytest.raises(fastnl.InvalidValue, match="leads out"):
            opens(folders / "in" / (f"{name}/x" if name == "folder" else name))
        check_reach(f"file:{folders}/in/{name}")  # which looks at the text alone
    (folders / "in" / "fine").symlink_to("sub/x")
    assert opens(folders / "in" / "fine")


def test_the_folder_itself_may_be_a_link_and_may_come_later(folders):
    fence_files([str(folders / "later")])
    with pytest.raises(fastnl.NetnsNotFound):
        opens(folders / "later" / "x")
    (folders / "later").symlink_to("in")
    assert opens(folders / "later" / "x")


def test_what_is_inside_and_no_namespace_is_no_namespace(folders):
    (folders / "in" / "plain").touch()
    os.mkfifo(folders / "in" / "fifo")
    for name in ("plain", "fifo", "sub", "none"):
        with pytest.raises(fastnl.NetnsNotFound):
            opens(folders / "in" / name)


def test_other_references_are_not_about_files(folders):
    for reference in ("", "blue", f"pid:{os.getpid()}"):
        check_reach(reference)
        os.close(open_reference(reference))


def test_a_batch_is_refused_by_item_with_its_field(folders, host):
    job = fastnl.Veth(fastnl.End(f"file:{folders}/in/x", "e0"), fastnl.End(f"file:{folders}/out/x", "e1"), id="c")
    [result] = host.connect([job])
    assert isinstance(result.error, fastnl.InvalidValue) and result.error.field == "b.netns"
    assert "b.netns: " in result.error.message and "file_prefixes" in result.error.message


def test_cleaning_up_may_look_behind_the_fence(folders):
    with Handles(fenced=False) as handles:
        assert handles.open(f"file:{folders}/out/x")


def test_a_link_that_is_swapped_all_the_time_never_leads_out(folders, netns):
    netns.make("secret")
    subprocess.run(["umount", folders / "out" / "x"], check=True)
    subprocess.run(["mount", "--bind", "/run/netns/secret", folders / "out" / "x"], check=True)
    secret = os.open("/run/netns/secret", os.O_RDONLY)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            new = folders / "in" / "new"
            # by chance: in turns, it may go in step with whoever opens
            new.symlink_to(random.choice(["sub/x", folders / "out" / "x"]))
            new.rename(folders / "in" / "door")

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = {"inside": 0, "refused": 0}
    try:
        for _ in range(5000):
            try:
                fd = open_reference(f"file:{folders}/in/door")
            except fastnl.InvalidValue:
                seen["refused"] += 1
            except fastnl.NetnsNotFound:
                continue
            else:
                assert identity(fd) != identity(secret)
                seen["inside"] += 1
                os.close(fd)
    finally:
        stop.set()
        swapper.join()
        os.close(secret)
    assert all(seen.values()), seen


@pytest.mark.parametrize("folder", ["", "relative", "a/b", "/x\0y"])
def test_a_fence_is_of_absolute_folders(folder):
    with pytest.raises(fastnl.InvalidValue, match="absolute"):
        fence_files([folder])
