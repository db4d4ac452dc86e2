"""Who computes checksums: the interface or the kernel."""

from __future__ import annotations

import os

from fastnl._nl import set_checksums
from fastnl.errors import FastnlError, KernelError
from fastnl.links import End


def offload(fd: int, end: End, where: str, before: End | None = None) -> FastnlError | None:
    """Sets what an end says of it, in its open namespace; the error if the interface cannot.

    before   what it said until now: what it does not say any more is on again, as a veth is made
    """
    rx, tx = end.rx_checksum, end.tx_checksum
    if before is not None:
        rx = True if rx is None and before.rx_checksum is not None else rx
        tx = True if tx is None and before.tx_checksum is not None else tx
    if rx is None and tx is None:
        return None
    err = set_checksums(fd, end.ifname, rx, tx)
    if not err:
        return None
    field = f"{where}.{'rx' if rx is not None else 'tx'}_checksum"
    return KernelError(
        f"{field}: {end.ifname} cannot have its checksums so: {os.strerror(err)}", errno=err, field=field
    )
