"""Keys of CURVE, by which engine and clients know each other over TCP.

Each side has a pair: a secret key, in a file for its owner's eyes only, and the public key that belongs to it.  The
engine knows the public keys of its clients (`key:…` in `roles`), a client that of its engine.  A key is 32 bytes,
written as 40 characters of Z85.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

SERVER_KEY, KEY = "FASTNL_SERVER_KEY", "FASTNL_KEY"

MOST = 4096  # bytes of a file that may be that of a key


class KeyProblem(Exception):
    """A key, or its file, that cannot be used; says what to do."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What a client needs: the engine's public key, and its own secret one.  Raises KeyProblem."""

    server: str
    secret: str

    def __post_init__(self) -> None:
        if not is_key(self.server):
            raise KeyProblem(f"{self.server!r} is no public key of 40 characters; the engine's .pub file has it")
        if not is_key(self.secret):
            raise KeyProblem("the secret key has not 40 characters of Z85")

    @classmethod
    def find(cls, server: str | None, key: str | None, environ: Mapping[str, str] = os.environ) -> Curve | None:
        """From the engine's public key and the file of the secret one, else from FASTNL_SERVER_KEY and FASTNL_KEY.

        None when there is neither.  Raises KeyProblem when there is one only, or the file is not as it should be.
        """
        server, key = server or environ.get(SERVER_KEY), key or environ.get(KEY)
        if not server and not key:
            return None
        if not server or not key:
            raise KeyProblem(
                f"the {'engine has a public' if server else 'client has a secret'} key and the other side has none: "
                f"{SERVER_KEY} (or --server-key) and {KEY} (or --key, a file) go together"
            )
        return cls(server, read_secret(key))

    def __repr__(self) -> str:
        return f"Curve(server={self.server!r})"  # the secret has no place in a log

    def lock(self, socket: zmq.Socket[Any]) -> None:
        """Makes a client's socket use the keys, before it connects."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public_of(self.secret).encode())


def reach(socket: zmq.Socket[Any], endpoint: str, curve: Curve | None) -> None:
    """Connects a client's socket, over TCP with keys only.  Raises KeyProblem, ZMQError."""
    if endpoint.startswith("tcp://"):
        curve = curve or Curve.find(None, None)
        if curve is None:
            raise KeyProblem(
                f"{endpoint}: over TCP keys are needed, the engine's public one in {SERVER_KEY} and the file of your "
                f"own in {KEY}; `fastnl keys` makes a pair"
            )
        curve.lock(socket)
        socket.setsockopt(zmq.IPV6, 1)
        # one whose key the engine does not know tries for ever, and shall do so slowly
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
    socket.connect(endpoint)


def is_key(text: str) -> bool:
    try:
        return len(text) == 40 and len(z85.decode(text)) == 32
    except (KeyError, ValueError, struct.error):
        return False


def public_of(secret: str) -> str:
    return zmq.curve_public(secret.encode()).decode()


def read_secret(path: str) -> str:
    """The secret key in a file that nobody else can read.  Raises KeyProblem."""
    try:
        # a FIFO must not make the start wait
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            text = file.read(MOST).decode("ascii", "replace").strip() if stat.S_ISREG(status.st_mode) else ""
    except (OSError, ValueError) as e:
        raise KeyProblem(f"{path}: {getattr(e, 'strerror', None) or e}; `fastnl keys` makes a pair") from e
    if not stat.S_ISREG(status.st_mode):
        raise KeyProblem(f"{path} is no plain file")
    if status.st_mode & 0o077:
        raise KeyProblem(f"{path}: others may read it (mode {status.st_mode & 0o7777:04o}): `chmod 600 {path}`")
    if status.st_uid not in (0, os.geteuid()):
        raise KeyProblem(f"{path} belongs to user {status.st_uid}, who could replace the key: `chown` it to yourself")
    if not is_key(text):
        raise KeyProblem(f"{path}: holds no key of 40 characters; `fastnl keys` makes a pair, the .key file is meant")
    return text


def make(name: str, *, force: bool = False) -> tuple[str, Path, Path]:
    """A new pair in the files name.key and name.pub; gives the public key and both paths.

    Raises FileExistsError unless forced, OSError.
    """
    public, secret = (key.decode() for key in zmq.curve_keypair())
    paths = Path(f"{name}.key").absolute(), Path(f"{name}.pub").absolute()
    if not force:
        for path in paths:
            if os.path.lexists(path):
                raise FileExistsError(f"{path} is there already, and nothing would read what belongs to it any more")
    for path, text, mode in zip(paths, (secret, public), (0o600, 0o644), strict=True):
        if force:
            path.unlink(missing_ok=True)
        # O_EXCL: not for a moment open to others, and not through a link that somebody has put there
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "w") as file:
            file.write(text + "\n")
    return public, *paths
