"""Keys: made once, kept from others, and refused in words when something is wrong with them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from fastnl_engine.auth import ADMIN, OPERATOR, VIEWER, RoleError, Roles, peer_of
from fastnl_engine.curve import Curve, KeyProblem, is_key, make, public_of, reach, read_secret

FASTNL = [sys.executable, "-c", "from fastnl_engine.cli import main; main()"]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, Path, Path]:
    return make(str(tmp_path / "pair"))


def test_a_pair_is_two_files_and_the_secret_one_is_for_its_owner(pair):
    public, secret_file, public_file = pair
    assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600
    assert public_file.read_text() == public + "\n"
    secret = read_secret(str(secret_file))
    assert is_key(public) and is_key(secret) and public != secret
    assert public_of(secret) == public
    assert secret not in repr(Curve(public, secret))


@pytest.mark.parametrize("ending", ["key", "pub"])
def test_a_file_that_is_there_is_not_overwritten(tmp_path, ending):
    (tmp_path / f"p.{ending}").write_text("mine")
    with pytest.raises(FileExistsError, match=f"p.{ending}"):
        make(str(tmp_path / "p"))
    assert [path.name for path in tmp_path.iterdir()] == [f"p.{ending}"]
    assert (tmp_path / f"p.{ending}").read_text() == "mine"


def test_forced_it_replaces_both_and_follows_no_link(tmp_path):
    other = tmp_path / "other"
    other.write_text("somebody's")
    (tmp_path / "p.key").symlink_to(other)
    public, secret_file, _ = make(str(tmp_path / "p"), force=True)
    assert other.read_text() == "somebody's"
    assert not secret_file.is_symlink() and public_of(read_secret(str(secret_file))) == public
    assert make(str(tmp_path / "p"), force=True)[0] != public


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_secret_that_others_may_touch_is_refused_with_what_to_do(pair, mode):
    path = pair[1]
    path.chmod(mode)
    with pytest.raises(KeyProblem, match="chmod 600"):
        read_secret(str(path))


def test_a_secret_of_another_user_is_refused(pair):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(pair[1], 65534, -1)
    with pytest.raises(KeyProblem, match="belongs to user 65534"):
        read_secret(str(pair[1]))


@pytest.mark.parametrize("text", ["", "short", "x" * 39, "x" * 41, "~" * 40, "%" * 40, "é" * 40, "x" * 5000])
def test_a_file_without_a_key_is_refused(tmp_path, text):
    path = tmp_path / "k"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyProblem, match="40 characters"):
        read_secret(str(path))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    with pytest.raises(KeyProblem, match="No such file"):
        read_secret(str(tmp_path / "none"))
    with pytest.raises(KeyProblem):
        read_secret(str(tmp_path))
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(KeyProblem, match="no plain file"):
        read_secret(str(tmp_path / "fifo"))


def test_both_keys_or_none(pair):
    public, secret_file, _ = pair
    assert Curve.find(None, None, {}) is None
    assert Curve.find(public, str(secret_file), {}) == Curve(public, read_secret(str(secret_file)))
    both = {"FASTNL_SERVER_KEY": public, "FASTNL_KEY": str(secret_file)}
    assert Curve.find(None, None, both) == Curve.find(public, str(secret_file), {})
    for name, value in both.items():
        with pytest.raises(KeyProblem, match=r"FASTNL_SERVER_KEY .* FASTNL_KEY"):
            Curve.find(None, None, {name: value})
    with pytest.raises(KeyProblem, match="no public key"):
        Curve.find("nonsense", str(secret_file), {})


def test_over_tcp_nobody_connects_without_keys(monkeypatch):
    monkeypatch.delenv("FASTNL_SERVER_KEY", raising=False)
    monkeypatch.delenv("FASTNL_KEY", raising=False)
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    try:
        with pytest.raises(KeyProblem, match="FASTNL_KEY"):
            reach(socket, "tcp://127.0.0.1:1", None)
    finally:
        socket.close()
        context.term()


# -- roles -----------------------------------------------------------------------------------------


def test_keys_have_roles_of_their_own(pair):
    other = make(str(pair[1].with_name("other")))[0]
    roles = Roles.parse({"viewer": [f"key:{pair[0]}", "everyone"], "admin": [f"key:{other}"], "operator": ["uid:7"]})
    assert roles.keys == {pair[0]: VIEWER, other: ADMIN}
    assert Roles.parse({"viewer": [f"key:{other}"], "operator": [f"key:{other}"]}).keys == {other: OPERATOR}
    assert roles.of(7, 7) == OPERATOR


@pytest.mark.parametrize("entry", ["key:", "key:short", "key:" + "~" * 40, "key:" + "x" * 41])
def test_what_is_no_key_has_no_role(entry):
    with pytest.raises(RoleError, match="no public key"):
        Roles.parse({"viewer": [entry]})


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("localhost:0:0:42", (0, 0, 42)),
        ("127.0.0.1", None),
        # none of these is root, though the last three words could be
        ("2001:db8:1:2:3:0:0:1", None),
        ("fe80::1:0:0:1", None),
        ("::1:0:0", None),
        ("1::0:0", None),
        ("", None),
        ("localhost:-1:0:1", None),
    ],
)
def test_an_address_of_the_internet_is_nobody_of_this_machine(address, peer):
    assert peer_of(address) == peer


# -- fastnl keys -----------------------------------------------------------------------------------


def keys(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*FASTNL, "keys", *args], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_the_command_tells_what_to_write_where(tmp_path):
    name = str(tmp_path / "engine")
    said = keys(name).stdout
    key = (tmp_path / "engine.pub").read_text().strip()
    for line in (
        f'curve_secret = "{name}.key"',
        f'operator = ["key:{key}"]',
        f"export FASTNL_SERVER_KEY='{key}'",
        f"export FASTNL_KEY={name}.key",
    ):
        assert line in said
    assert (tmp_path / "engine.key").read_text().strip() not in said


def test_the_command_replaces_only_when_forced(tmp_path):
    name = str(tmp_path / "k")
    first = json.loads(keys(name, "--json").stdout)
    assert "--force" in keys(name, code=2).stderr
    assert Path(first["public_file"]).read_text().strip() == first["key"]
    second = json.loads(keys(name, "--force", "--json").stdout)
    assert second["key"] != first["key"] and second["secret_file"] == first["secret_file"]
    assert "No such file" in keys("/no/such/folder/k", code=2).stderr
