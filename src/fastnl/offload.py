"""Who computes checksums: the interface or the kernel."""

from __future__ import annotations

import os

from fastnl._nl import set_checksums
from fastnl.errors import FastnlError, KernelError
from fastnl.links import End


def offload(fd: int, end: End, where: str) -> FastnlError | None:
    """Sets what an end says of it, in its open namespace; the error if the interface cannot."""
    if end.rx_checksum is None and end.tx_checksum is None:
        return None
    err = set_checksums(fd, end.ifname, end.rx_checksum, end.tx_checksum)
    if not err:
        return None
    field = f"{where}.{'rx' if end.rx_checksum is not None else 'tx'}_checksum"
    return KernelError(
        f"{field}: {end.ifname} cannot have its checksums so: {os.strerror(err)}", errno=err, field=field
    )
