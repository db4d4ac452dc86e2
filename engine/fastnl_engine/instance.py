"""One engine for each instance name.

Two engines of one name would take each other's interfaces for leftovers of their own and remove them.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time

from fastnl_engine.gateway import InUse


def claim(instance: str) -> socket.socket:
    """Holds the name of an instance in this network namespace until the socket is closed or the process ends.

    The name is an abstract Unix socket: no file that a killed process could leave behind.  Raises InUse.
    """
    address = f"\0fastnl/instance/{instance}"
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        held.bind(address)
        held.listen()
    except OSError as e:
        if e.errno != errno.EADDRINUSE:
            raise
        pid, uid = _holder(address)
        # whoever could not run an engine shall not keep one from starting by taking its name
        if uid in (0, os.geteuid()):
            held.close()
            raise InUse(
                f"the instance name {instance!r} belongs to another engine in this network namespace, pid {pid}; "
                "give this one a name of its own with --instance"
            ) from None
    return held


def _holder(address: str) -> tuple[int, int]:
    """Process and user that listen at an address; (0, -1): nobody does."""
    for _ in range(50):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(1)
            try:
                caller.connect(address)
            except OSError:
                time.sleep(0.01)  # another engine may just be between bind and listen
                continue
            pid, uid, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return pid, uid
    return 0, -1
