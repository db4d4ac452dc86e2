"""References to namespaces: what they may look like and how one is spelled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnl import CallerError, InvalidValue
from fastnl.netns import canonical, split


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("", ("", "")),
        ("blue", ("name", "blue")),
        ("name:blue", ("name", "blue")),
        ("name:a:b", ("name", "a:b")),
        ("a.b", ("name", "a.b")),
        ("file:/proc/1/ns/net", ("file", "/proc/1/ns/net")),
        ("pid:1", ("pid", "1")),
        ("inode:4026531840", ("inode", "4026531840")),
        ("inode:4026531840.17", ("inode", "4026531840.17")),
        ("microservice:web 1/2", ("microservice", "web 1/2")),
    ],
)
def test_a_reference_splits_into_kind_and_value(reference, parts):
    assert split(reference) == parts


@pytest.mark.parametrize(
    "reference",
    [
        None, 5, b"blue", ".", "..", "a/b", "name:", "name:../etc", "name:/etc", "x" * 256, "a\0b", "a\nb", "\ud800",
        "file:", "file:relative", "file:/a\0b", "pid:", "pid:-1", "pid:0", "pid:1.5", "pid:²", "pid:１",
        "pid:" + "9" * 5000, "pid: 1", "inode:", "inode:x", "inode:0", "inode:" + "9" * 30, "inode:1.", "inode:.1",
        "inode:1.0", "inode:1.x", "inode:1.2.3", f"inode:{1 << 32}.1", "inode:1." + "9" * 20, "what:ever", ":", ":blue",
        "microservice:", "microservice:a\nb", "microservice:" + "x" * 256,
    ],
)  # fmt: skip
def test_what_can_be_no_reference_is_invalid(reference):
    with pytest.raises(InvalidValue) as caught:
        split(reference)
    assert caught.value.field == "netns"
    assert caught.value.problem


def test_one_spelling_for_each_way_to_say_the_same():
    assert canonical("name:blue") == canonical("blue") == "blue"
    assert canonical("") == ""
    assert canonical("pid:7") == "pid:7"
    assert canonical("file:/a") == "file:/a"


@given(st.text() | st.from_regex(r"(name|file|pid|inode|microservice):.*", fullmatch=True))
def test_any_text_splits_or_is_invalid_and_the_canonical_spelling_is_stable(text):
    try:
        once = canonical(text)
    except CallerError as e:
        assert e.code == "invalid"
    else:
        assert canonical(once) == once
        assert split(once) == split(text)
