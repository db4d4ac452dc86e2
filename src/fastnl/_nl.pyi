"""The compiled part: netlink messages, namespaces and the threads that visit them.

Values (Address, Neighbour, Route, Rule) are checked when they are made and raise InvalidValue, naming their
`field`.  A Tour takes them to the kernel; rows come back.  Sources named are those of the Linux kernel.
"""

from typing import Any, Literal, NamedTuple, final

from typing_extensions import Buffer

from fastnl.links import Device, End, Veth, Vxlan

# -- names and values ------------------------------------------------------------------------------

def name_problem(name: object) -> str | None:
    """Why `name` cannot be the name of an interface, or None if it can.

    The kernel's own rule is dev_valid_name (net/core/dev.c): 1 to 15 bytes, not "." or "..", no '/', ':'
    or space, where 0xa0 counts as a space too.  Refused as well: '%', which the kernel takes as a pattern
    to be numbered; control characters; and "all" and "default", whose sysctl folders stand for every
    interface of the namespace.
    """

def mac_problem(text: str) -> str | None:
    """Why `text` cannot be the hardware address of an interface, or None if it can.

    The form is "02:00:00:00:00:01", in either case.  The kernel refuses all zeros and multicast
    (is_valid_ether_addr, include/linux/etherdevice.h).
    """

@final
class Address:
    """An address of an interface, `Address("10.0.0.1/24")` or `Address("fd00::1/64")`.

    Without a mask it is a /32 or /128.  IPv6 addresses are usable at once: they are added without
    duplicate address detection (IFA_F_NODAD), which has no meaning on a link of two ends.  Equal and
    hashable by value.

    Raises InvalidValue, naming `field`.
    """

    def __init__(self, text: str, field: str = "address") -> None: ...
    @property
    def text(self) -> str:
        """In the kernel's own spelling, always with the prefix length."""
    @property
    def ip(self) -> str:
        """In the kernel's own spelling, without the prefix length."""
    @property
    def family(self) -> Literal[4, 6]: ...
    @property
    def prefixlen(self) -> int: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...
    def __reduce__(self) -> tuple[type[Address], tuple[str]]: ...

@final
class Neighbour:
    """A neighbour entry: `ip` is reached at `mac` on the interface.

    `state` is "permanent" (default), "reachable", "stale" or "noarp" (include/uapi/linux/neighbour.h); only
    the first and the last stay what they are, the kernel ages the others.  Equal and hashable by value.

    Raises InvalidValue, naming `field`.  Source: neigh_add in net/core/neighbour.c.
    """

    def __init__(self, ip: str, mac: str, *, state: str = "permanent", field: str = "neighbour") -> None: ...
    @property
    def ip(self) -> str:
        """In the kernel's own spelling."""
    @property
    def mac(self) -> str:
        """In lower case."""
    @property
    def family(self) -> Literal[4, 6]: ...
    @property
    def state(self) -> str: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...
    def __reduce__(self) -> tuple[Any, tuple[str, str, str]]: ...

@final
class Route:
    """A route through an interface, as End.routes holds it.

    to       "10.1.0.0/16", "fd00::/64" or "default" (with `via` or `source` telling the family; IPv4 if neither)
    via      next hop, an address; without it the destination is on the link
    metric   priority, 0: the kernel's default (0 for IPv4, 1024 for IPv6)
    table    routing table, 0: main (254)
    source   preferred source address
    onlink   take `via` as reachable on this link though no address covers it
    scope    "global", "site", "link" or "host", of an IPv4 route; None: "link" without a next hop, else "global"

    Host bits of `to` are cleared.  Equal and hashable by value.  Raises InvalidValue, naming `field`.
    Source: inet_rtm_newroute in net/ipv4/fib_frontend.c, inet6_rtm_newroute in net/ipv6/route.c.
    """

    def __init__(
        self,
        to: str,
        via: str | None = None,
        *,
        metric: int = 0,
        table: int = 0,
        source: str | None = None,
        onlink: bool = False,
        scope: str | None = None,
        field: str = "route",
    ) -> None: ...
    @property
    def to(self) -> str:
        """With the prefix length, in the kernel's own spelling; "0.0.0.0/0" or "::/0" for a default route."""
    @property
    def via(self) -> str | None: ...
    @property
    def source(self) -> str | None: ...
    @property
    def family(self) -> Literal[4, 6]: ...
    @property
    def metric(self) -> int:
        """As given: 0 stands for the kernel's default."""
    @property
    def table(self) -> int:
        """As given: 0 stands for main."""
    @property
    def onlink(self) -> bool: ...
    @property
    def scope(self) -> str | None: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...
    def __reduce__(self) -> tuple[Any, tuple[str, str | None, int, int, str | None, bool, str | None]]: ...

@final
class Rule:
    """A policy rule, as End.rules holds it: packets that it selects look for their route in `table`.

    source, to     prefixes as text
    iif            name of the interface that packets come in by
    fwmark         0: any
    ipproto        number of the IP protocol, 0: any
    sport, dport   a port, or the first and the last of a range, 1 to 65534
    priority       lower ones come first; by default 32765, just before the table main
    family         4 or 6, where no prefix tells; then 4 by default

    Host bits of prefixes are cleared.  As text it is what `ip rule` shows.  Equal and hashable by value.  Raises
    InvalidValue, naming `field`, with `from` for `source`.  Source: fib_nl2rule in net/core/fib_rules.c.
    """

    def __init__(
        self,
        *,
        table: int,
        source: str | None = None,
        to: str | None = None,
        iif: str | None = None,
        fwmark: int = 0,
        ipproto: int = 0,
        sport: int | tuple[int, int] | None = None,
        dport: int | tuple[int, int] | None = None,
        priority: int = ...,
        family: Literal[4, 6] | None = None,
        field: str = "rule",
    ) -> None: ...
    @property
    def source(self) -> str | None:
        """With the prefix length, in the kernel's own spelling; None: any."""
    @property
    def to(self) -> str | None: ...
    @property
    def family(self) -> Literal[4, 6]: ...
    @property
    def table(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def fwmark(self) -> int: ...
    @property
    def ipproto(self) -> int: ...
    @property
    def sport(self) -> tuple[int, int] | None:
        """The first and the last; None: any."""
    @property
    def dport(self) -> tuple[int, int] | None: ...
    @property
    def iif(self) -> str | None: ...
    @property
    def selectors(self) -> tuple[object, ...]:
        """What packets have to be like; None or 0: any."""
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...
    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]: ...

# -- rows ------------------------------------------------------------------------------------------

class LinkRow:
    """One interface as the kernel reports it (RTM_NEWLINK, rtnl_fill_ifinfo in net/core/rtnetlink.c).

    mtu            bytes
    mac            "" without one
    kind           "veth", "vxlan", "dummy", …; "" for what has no driver of that sort
    link           index of the veth peer or lower device, 0 without
    master         index of the bridge or the like that it is a port of, 0 without
    link_netnsid   the namespace's own number for the one that `link` is in, -1: this one
    operstate      RFC 2863: 6 is up, 2 down
    addr_gen_mode  IPv6 mode, 1: no link-local address; -1: no IPv6 on this interface
    stats          rx_ and tx_ packets, bytes, errors, dropped, None where the kernel sent none
    vxlan          vni, port, local, remote, learning, ttl of a VXLAN, else None
    """

    @property
    def ifindex(self) -> int: ...
    @property
    def ifname(self) -> str: ...
    @property
    def flags(self) -> int: ...
    @property
    def mtu(self) -> int: ...
    @property
    def mac(self) -> str: ...
    @property
    def alias(self) -> str: ...
    @property
    def group(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def link(self) -> int: ...
    @property
    def link_netnsid(self) -> int: ...
    @property
    def master(self) -> int: ...
    @property
    def operstate(self) -> int: ...
    @property
    def tx_queues(self) -> int: ...
    @property
    def rx_queues(self) -> int: ...
    @property
    def txqlen(self) -> int: ...
    @property
    def addr_gen_mode(self) -> int: ...
    @property
    def stats(self) -> dict[str, int] | None: ...
    @property
    def vxlan(self) -> dict[str, Any] | None: ...
    @property
    def up(self) -> bool:
        """Administratively up (IFF_UP)."""

class AddrRow:
    """One address of an interface (RTM_NEWADDR, net/ipv4/devinet.c and net/ipv6/addrconf.c)."""

    @property
    def ifindex(self) -> int: ...
    @property
    def address(self) -> str:
        """With the prefix length: "10.0.0.1/24"."""
    @property
    def flags(self) -> int:
        """IFA_F_*, include/uapi/linux/if_addr.h."""
    @property
    def scope(self) -> int: ...

class RouteRow:
    """One route (RTM_NEWROUTE).

    to      "10.1.0.0/16"; "0.0.0.0/0" or "::/0" for a default route
    via, source   "" without
    kind    RTN_*, unicast is 1
    """

    @property
    def ifindex(self) -> int: ...
    @property
    def to(self) -> str: ...
    @property
    def via(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def metric(self) -> int: ...
    @property
    def table(self) -> int: ...
    @property
    def protocol(self) -> int: ...
    @property
    def scope(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def flags(self) -> int: ...

class NeighRow:
    """One neighbour (RTM_NEWNEIGH); `mac` is "" as long as it is not known."""

    @property
    def ifindex(self) -> int: ...
    @property
    def ip(self) -> str: ...
    @property
    def mac(self) -> str: ...
    @property
    def state(self) -> int:
        """NUD_*, include/uapi/linux/neighbour.h."""
    @property
    def flags(self) -> int: ...

class RuleRow:
    """One policy rule (RTM_NEWRULE).

    family        AF_INET or AF_INET6
    protocol      FRA_PROTOCOL: who made it
    source, to    prefixes, "" for any
    iif           "" for any
    rule          the same as a value; None for one that a Rule cannot say
    ours          whether it carries the protocol of fastnl's, 102
    """

    @property
    def family(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def table(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def to(self) -> str: ...
    @property
    def iif(self) -> str: ...
    @property
    def protocol(self) -> int: ...
    @property
    def rule(self) -> Rule | None: ...
    @property
    def ours(self) -> bool: ...

def read_rows(data: Buffer) -> list[LinkRow | AddrRow | RouteRow | NeighRow | RuleRow]:
    """Every link, address, route, neighbour and rule row in a byte string of netlink messages.

    Stops at the first message whose length cannot be true; whatever came before it is returned.
    Messages of other types are passed over.  Raises nothing, whatever the bytes are.
    """

def read_acks(data: Buffer) -> list[tuple[int, int, int, str]]:
    """Every acknowledgement in a byte string, as (seq, errno, offset, text).

    errno 0: done; offset in bytes of the attribute that the kernel did not like, 0: not told; text of the
    extended ACK, "" without.  Stops at the first message whose length cannot be true.
    Source: netlink_ack in net/netlink/af_netlink.c.
    """

# -- namespaces ------------------------------------------------------------------------------------

def open_netns(path: str, careful: bool = True) -> int:
    """Opens the network namespace behind a path; the caller closes the descriptor.

    With `careful` the path is looked at through O_PATH first, so that nothing but a namespace is ever really
    opened: an open of a device may act.  Without, at a third of the cost, it is looked at afterwards: for
    folders where only root puts anything.  /run/netns holds plain files where a mount did not propagate or
    its maker died.

    Raises OSError: ENOENT and the like from the open, EINVAL for what is no network namespace.
    """

def netns_at(path: str, careful: bool = True) -> tuple[int, int]:
    """netns_identity of what open_netns would open; nothing is left open.  Raises what both raise."""

def netns_identity(fd: int) -> tuple[int, int]:
    """(inode, id) of an open network namespace.

    The inode alone is given to another namespace soon after this one dies.  The id is never given twice
    in one boot: ioctl NS_GET_ID (6.18, fs/nsfs.c), or 0 where the kernel has none.  Raises OSError.
    """

def open_all(paths: list[str], careful: bool = True) -> list[tuple[int, int, int] | None]:
    """(descriptor, inode, id) of the network namespace behind each path, as open_netns and netns_identity give them.

    None for one that cannot be opened: open_netns says why.  The caller closes the descriptors.  Like inodes and
    close_all it releases the GIL once for all of them.
    """

def inodes(paths: list[str]) -> list[int]:
    """The inode of the file behind each path, 0 where there is none."""

def close_all(fds: list[int]) -> None:
    """Closes descriptors."""

class Glances:
    """Interfaces of one namespace as they have to be, to be looked at again and again by look_around.

    path      of the namespace, opened anew each time, so that it is not held
    identity  as netns_identity has it; another one is not looked at
    careful   as in open_netns
    """

    def __init__(self, path: str, identity: tuple[int, int], careful: bool = True) -> None: ...
    def add(
        self, item: int, index: int, name: str, mtu: int = 0, address: Address | None = None, up: bool = True
    ) -> None:
        """An interface that has to be there, by that name, with an MTU (0: any) and an IPv4 address (None: any).

        It has to be up, unless `up` is false: then that does not matter.

        `item` comes back with what was found to differ.  An interface may be added several times, to look for
        several addresses; IPv6 addresses are not looked for.
        """

    @property
    def seen(self) -> bool:
        """Whether the last look found the namespace there, and the one that it has to be."""

    def changed(self) -> list[tuple[int, str]]:
        """(item, what) of what differed at the last look: "gone", "renamed", "down", "mtu" or "address"."""

def look_around(sites: list[Glances]) -> None:
    """Has a look at every Glances of a list; one that is in two lists at a time is the caller's mistake.

    Raises OSError when no thread can be made for it.
    """

def make_tap(ns_fd: int, name: str, index: int) -> int:
    """Makes a persistent TAP device, down, in an open namespace with the index given; errno, 0: done.

    EBUSY or EEXIST: there is an interface of that name or index; ENOENT: the kernel has no /dev/net/tun.
    """

def set_checksums(ns_fd: int, name: str, rx: bool | None, tx: bool | None) -> int:
    """Leaves checksums to the interface (True), to the kernel (False), or as they are (None); errno, 0: done.

    EOPNOTSUPP: the interface cannot do otherwise.
    """

def new_netns(target: str | None = None) -> int:
    """A new, empty network namespace as a descriptor; with `target`, an existing file, it is bind-mounted there too.

    Made on a thread that ends at once: unshare changes the thread for good.  The namespace lives as long
    as the descriptor or the mount.  Raises OSError (EPERM without CAP_SYS_ADMIN).
    """

def route_socket(ns_fd: int) -> int:
    """A NETLINK_ROUTE socket inside an open network namespace, for a reader other than this module.

    A socket belongs for good to the namespace of the thread that made it and keeps it alive; the caller
    closes it soon.  Raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL for what is no network namespace.
    """

def socket_in(ns_fd: int, family: int, kind: int, protocol: int) -> int:
    """A socket of any family inside an open network namespace, as its descriptor; otherwise like route_socket."""

def read_settings(ns_fd: int, paths: list[str]) -> list[str | None]:
    """What files under /proc/sys/net hold inside an open network namespace, a string for each path.

    White space is made one blank; None for a file that cannot be read.  Raises OSError as route_socket does.
    """

# -- visits ----------------------------------------------------------------------------------------

class Phase:
    """What a message is for; an error carries it so that the failing field can be named."""

    CREATE: Literal[1]
    UP: Literal[2]
    ADDRESS: Literal[3]
    ROUTE: Literal[4]
    NEIGHBOUR: Literal[5]
    CHANGE: Literal[6]
    MOVE: Literal[7]
    MARK: Literal[8]
    DELETE: Literal[9]
    RULE: Literal[10]
    QUERY: Literal[11]
    RAW: Literal[12]
    SETTING: Literal[13]

class Problem(NamedTuple):
    """One message that did not do what it should.

    errno 0 means that its outcome is unknown: the kernel's answer was lost and has to be read back.

    item      the caller's number
    phase     one of Phase
    end       0: a, 1: b
    place     in the list that the message was made from: addresses, routes, neighbours, rules; of a SETTING 0:
              route_localnet, 1: ping_group_range, 2: IPv6
    ext_ack   the kernel's own words, "" without
    offset    where in the message the kernel stopped, bytes; 0: not told
    soft      it was not meant to fail its item
    """

    item: int
    phase: int
    end: int
    place: int
    errno: int
    ext_ack: str
    offset: int
    soft: bool = ...

@final
class Visit:
    """The messages for one network namespace, in the order in which the kernel will see them.

    Made by Tour.visit.  `item` in every method is the caller's number of the thing that the message
    belongs to: once an item has failed, its later messages are left out.  `index` is that of an interface
    in the visit's namespace.  Descriptors are borrowed and must stay open until the tour has run.
    """

    @property
    def ns_fd(self) -> int: ...

    # creating
    def veth(self, item: int, veth: Veth, a_fd: int, a_index: int, b_fd: int, b_index: int, group: int = 0) -> None:
        """Creates a pair, each end born down in the namespace of its descriptor with the index given.

        Source: veth_newlink in drivers/net/veth.c.
        """
    def vxlan(self, item: int, vxlan: Vxlan, ns_fd: int, index: int, lower: int = 0, group: int = 0) -> None:
        """Creates a VXLAN in `ns_fd` whose tunnel runs in this visit's namespace, over the interface `lower`.

        Source: vxlan_newlink in drivers/net/vxlan/vxlan_core.c.
        """
    def lone(self, item: int, device: Device, ns_fd: int, index: int, group: int = 0) -> None:
        """Creates a Device of kind "dummy", "bridge" or "vrf" in `ns_fd` with the index given."""
    def device(
        self,
        item: int,
        kind: str,
        name: str,
        *,
        ns_fd: int = -1,
        index: int = 0,
        group: int = 0,
        mtu: int | None = 0,
    ) -> None:
        """Creates an interface of a kind without parameters: "dummy", "bridge", "ifb"."""
    def no_ipv6(self, item: int, ifname: str) -> None:
        """Turns IPv6 off on one interface (conf/<ifname>/disable_ipv6), before this visit's messages.

        addrconf_disable_ipv6, net/ipv6/addrconf.c.  Not possible with /proc/sys read-only; see file_errors.
        """
    def allow_ipv6(self, item: int, end: int, ifname: str) -> None:
        """Turns IPv6 on on one interface, where its namespace has it off for new ones; before the messages.

        A failure does not fail the item: it may have been on, and an address says whether it is.
        """
    def route_localnet(self, item: int, end: int, ifname: str, on: bool = True) -> None:
        """Whether 127.0.0.0/8 may be routed by the interface (net.ipv4.conf.<ifname>); before the messages."""
    def ping_group_range(self, item: int, end: int, low: int, high: int) -> None:
        """Groups that may send ICMP echo requests without privilege in the namespace; before the messages."""
    def bring_up(
        self, item: int, end: int, index: int, alias: str | None, addr_gen_mode: int = -1, *,
        up: bool = True, group: int = 0, master: int = 0,
    ) -> None:  # fmt: skip
        """Alias, IPv6 mode (-1: leave it), group and master (0: leave it) and, with `up`, administratively up.

        The mode needs a message of its own before the one that brings the interface up: within one message
        the kernel works on the flags first (do_setlink), and the second end of a pair, which has a carrier
        at once, would have its link-local address before the mode that forbids it.
        """
    def furnish(self, item: int, end: int, index: int, what: End) -> None:
        """Adds the addresses, routes and permanent neighbours of an End, in the order in which they need each other."""
    def furnish_late(self, item: int, end: int, index: int, what: End) -> None:
        """Adds the neighbours that are not permanent.  They need a carrier, so the other end has to be up.

        The kernel forgets them when it finds that there is none, which it looks for in its own time after
        the first end came up (neigh_carrier_down, net/core/neighbour.c).
        """

    # changing
    def address(
        self,
        item: int,
        index: int,
        address: Address,
        add: bool = True,
        end: int = 0,
        place: int = 0,
        soft: bool = False,
    ) -> None:
        """Adds or removes an address; with `soft` a failure does not fail the item."""
    def route(
        self,
        item: int,
        index: int,
        route: Route,
        add: bool = True,
        end: int = 0,
        place: int = 0,
        soft: bool = False,
        replace: bool = False,
    ) -> None:
        """Adds, adds or replaces, or removes a route through the interface."""
    def neighbour(
        self,
        item: int,
        index: int,
        neighbour: Neighbour,
        add: bool = True,
        end: int = 0,
        place: int = 0,
        soft: bool = False,
    ) -> None:
        """Adds (or replaces) or removes a neighbour."""
    def rule(self, item: int, rule: Rule, add: bool = True, end: int = 0, place: int = 0, soft: bool = False) -> None:
        """Adds or removes a policy rule of the namespace; with `soft` a failure does not fail the item."""
    def change(
        self,
        item: int,
        index: int,
        *,
        end: int = 0,
        up: bool | None = None,
        name: str | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        alias: str | None = None,
        group: int | None = None,
        txqlen: int | None = None,
        addr_gen_mode: int = -1,
        master: int | None = None,
    ) -> None:
        """Sets what is given and leaves the rest (do_setlink, net/core/rtnetlink.c); master 0: none.

        `name` renames, which costs a grace period and is refused with EBUSY for an interface that is up
        before Linux 6.2.  `alias` "" removes the alias.  Raises InvalidValue for a MAC that is none.
        """
    def move(
        self, item: int, index: int, ns_fd: int, *, end: int = 0, name: str | None = None, new_index: int = 0
    ) -> None:
        """Moves an interface to another namespace; it keeps MAC, MTU and group, and loses the rest.

        Grace periods under the kernel's one lock make this cost milliseconds (__dev_change_net_namespace).
        `name` renames on the way; `new_index` sets the index there (Linux 5.13).
        """

    # deleting
    def mark(self, item: int, index: int, group: int, place: int = 0) -> None:
        """Puts an interface into a group, the first half of a sweep; a failure does not fail the item."""
    def probe_group(self, item: int, group: int) -> None:
        """Fails with EINVAL if the group has members in this namespace, and changes nothing either way.

        Its datagram ends with it: within one the kernel goes on after an error, and what follows must not.
        """
    def delete_group(self, item: int, group: int) -> None:
        """Deletes every interface of the group in this namespace, and the other ends of pairs anywhere.

        Raises ValueError for group 0, which every interface is in by default.  Source: rtnl_group_dellink.
        """
    def delete(self, item: int, index: int, end: int = 0) -> None:
        """Deletes one interface by index; of a pair both ends go.  Raises ValueError for an index under 1."""
    def delete_name(self, item: int, name: str) -> None:
        """Deletes one interface by name; names are reused, an index is the safer handle."""

    # asking; each raises ValueError in a visit that does not ask
    def get_link(self, item: int, index: int = 0, name: str | None = None, stats: bool = False) -> None:
        """Asks for one interface by index or name; ENODEV if there is none."""
    def dump_links(self, item: int = 0, stats: bool = False) -> None:
        """Asks for every interface; without `stats` the kernel leaves out IPv6's counters, its dearest."""
    def dump_addresses(self, item: int = 0) -> None: ...
    def dump_routes(self, item: int = 0) -> None:
        """Asks for the routes of every table."""
    def dump_neighbours(self, item: int = 0) -> None: ...
    def dump_rules(self, item: int = 0) -> None: ...
    def raw(self, item: int, message: bytes) -> None:
        """A message as bytes, sent as it is: for tests and for replaying what was recorded.

        Raises ValueError if it is shorter than its 16 bytes of header or its length is no multiple of 4.
        """

    # afterwards
    def rows(self) -> list[Any]:
        """The answers to this visit's questions: LinkRow, AddrRow, RouteRow, NeighRow, RuleRow in order."""
    def messages(self) -> list[bytes]:
        """Every message as bytes, as built or (after the run) as sent."""
    def states(self) -> list[tuple[int, bool, int]]:
        """(item, sent, errno) of every message after the run."""
    def files(self) -> list[tuple[int, str]]:
        """(item, path) of every file that is written before the messages."""
    @property
    def file_errors(self) -> int:
        """How many of this visit's files could not be written."""
    @property
    def failure(self) -> tuple[int, str] | None:
        """(errno, what it was at) if the namespace could not be visited at all, else None."""
    @property
    def cookie(self) -> int:
        """SO_NETNS_COOKIE of the namespace: never given twice in one boot; 0 before Linux 5.14."""
    @property
    def datagrams(self) -> int:
        """How many datagrams it took."""
    @property
    def overrun(self) -> bool:
        """Some answers of the kernel were lost (ENOBUFS)."""
    @property
    def interrupted(self) -> bool:
        """A dump was still inconsistent after every try (NLM_F_DUMP_INTR)."""
    def __len__(self) -> int:
        """How many messages."""

@final
class Tour:
    """Visits to namespaces, made by C threads without the GIL, for `items` things numbered from 0.

    With `skip`, once a message of an item has failed the item's later messages are left out, so that a
    connection whose create failed is not furnished.  `datagram_bytes` and `datagram_messages` bound one
    datagram: the kernel works through it in one uninterruptible call.  `rcvbuf` in bytes, 0: large.

    Raises ValueError for a negative number of items or datagrams of no messages.
    """

    def __init__(
        self,
        items: int,
        skip: bool = True,
        *,
        datagram_bytes: int = 65536,
        datagram_messages: int = 128,
        rcvbuf: int = 0,
    ) -> None: ...
    @property
    def items(self) -> int: ...
    @property
    def skip(self) -> bool: ...
    @property
    def visits(self) -> list[Visit]: ...
    def visit(self, ns_fd: int, asks: bool = False) -> Visit:
        """A new visit, after those that are there; with `asks` it is for questions only."""
    def failed(self, item: int) -> bool:
        """Whether a message of the item has failed, or was sent and its outcome is unknown.  Raises IndexError."""
    def run(self, threads: int = 1, *, here: bool = False) -> None:
        """Makes every visit; with one thread in order, with more several namespaces at a time.

        Threads are made for the tour and end with it.  With `here` one thread is the caller's own, where that can be:
        it is back in its namespace when this returns, so the process must not give up CAP_SYS_ADMIN meanwhile, or it
        is aborted.  Returns when all are done, with the GIL released meanwhile.  Raises OSError only if no thread could
        be started; what the kernel said is in problems().
        """
    def problems(self) -> list[Problem]:
        """A Problem for every message that failed or whose outcome is unknown."""
