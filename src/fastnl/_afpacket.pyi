"""Frames from one interface to another through AF_PACKET, without Python.

A Port is a packet socket with a ring that the kernel fills with what arrives on its interface (TPACKET_V3).  Checksums
that are not computed yet and segments that are not cut yet (GSO) pass through as they are, with the kernel's own
description of them (PACKET_VNET_HDR).  VLAN tags, which the kernel takes out of the frames, are put in again.
"""

from typing import TypedDict, final

class Counts(TypedDict):
    """Of the frames that came in by a port: what left by the other one, and what was dropped on the way."""

    frames: int
    bytes: int
    ring_full: int
    truncated: int
    too_long: int
    interface_down: int
    refused: int

@final
class Port:
    """A packet socket, bound to an interface.  The descriptor stays the caller's, who closes it after the port."""

    def __init__(self, fd: int, ifindex: int, *, blocks: int = 32, retire: int = 1) -> None:
        """Begins to receive into a ring.

        fd       of socket(AF_PACKET, SOCK_RAW, 0), made in the namespace of the interface
        ifindex  of the interface, which becomes promiscuous as long as the socket is open
        blocks   of 256 KiB each; the kernel's memory, never swapped
        retire   milliseconds after which the kernel hands a block over that is not full yet

        Raises OSError: ENODEV without such an interface, EPROTONOSUPPORT when it carries no Ethernet frames, EPERM
        without CAP_NET_RAW, ENOMEM.
        """

    @property
    def ifindex(self) -> int: ...
    def share(self, group: int = -1) -> int:
        """Shares what arrives with other sockets of the interface, flow by flow (PACKET_FANOUT_HASH).

        The first one gets the number of a new group, which the others give.  Raises OSError; before Linux 5.17 EINVAL
        while the interface is down.
        """

    def counts(self) -> Counts:
        """Since the port was opened; also after it was closed."""

    def close(self) -> None:
        """Unmaps the ring.  Raises ValueError while the port is pumped."""

def pump(a: Port, b: Port, stop: int) -> None:
    """Sends frames from each port out by the other, until the descriptor `stop` can be read.

    The GIL is released all the time, so this is for a thread of its own.  Raises ValueError for a port that is closed
    or pumped already.
    """
