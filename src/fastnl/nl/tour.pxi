# Tours: the Python face of visits.  A Tour is filled with visits and messages, run once, and then asked
# what became of each message.

# Note.what: phase << 24 | end << 20 | softness << 19 | place in the list
cdef inline uint32_t what_of(int phase, int end, size_t place) noexcept nogil:
    return <uint32_t>(phase << 24 | end << 20) | <uint32_t>place


# places of Phase.SETTING
cdef enum:
    ROUTE_LOCALNET = 0
    PING_GROUP_RANGE = 1
    IPV6 = 2

cdef const char *IPV4_CONF = b"/proc/sys/net/ipv4/conf"
cdef const char *PING_GROUPS = b"/proc/sys/net/ipv4/ping_group_range"


class Phase:
    """What a message is for; an error carries it so that the failing field can be named."""
    CREATE = 1
    UP = 2
    ADDRESS = 3
    ROUTE = 4
    NEIGHBOUR = 5
    CHANGE = 6
    MOVE = 7
    MARK = 8
    DELETE = 9
    RULE = 10
    QUERY = 11
    RAW = 12
    SETTING = 13


class Problem(NamedTuple):
    """One message that did not do what it should.

    errno 0 means that its outcome is unknown: the kernel's answer was lost and has to be read back.
    A soft one was not meant to fail its item.
    """
    item: int
    phase: int
    end: int
    place: int
    errno: int
    ext_ack: str
    offset: int
    soft: bool = False


@cython.final
cdef class Visit:
    """The messages for one network namespace, in the order in which the kernel will see them.

    Made by Tour.visit.  `item` in every method is the caller's number of the thing that the message
    belongs to: once an item has failed, its later messages are left out.
    """
    cdef Stop s
    cdef readonly int ns_fd

    def __cinit__(self, int ns_fd, bint asks=False):
        memset(&self.s, 0, sizeof(Stop))
        self.ns_fd = self.s.ns_fd = ns_fd
        self.s.asks = asks

    def __dealloc__(self):
        free(self.s.out.data)
        free(self.s.files.data)
        free(self.s.texts.data)
        free(self.s.replies.data)
        free(self.s.notes)
        free(self.s.file_notes)

    cdef size_t begin(self) noexcept:
        """Where the next message begins.  What is left of one that could not be finished, a bad MAC say, goes."""
        self.s.out.len = self.s.whole
        self.s.out.err = 0
        return self.s.whole

    cdef int note(self, size_t at, int32_t item, uint32_t what) except -1:
        """Books the message that was just built; raises what went wrong while building it."""
        cdef size_t cap
        cdef Note *grown
        cdef Note *n
        cdef int err
        if self.s.out.err:
            err = self.s.out.err
            if err == ENOMEM:
                raise MemoryError("no memory for a netlink message")
            raise OverflowError("a netlink attribute would be longer than 65535 bytes")
        if self.s.n_notes == self.s.cap_notes:
            cap = self.s.cap_notes * 2 if self.s.cap_notes else 8
            grown = <Note *>realloc(self.s.notes, cap * sizeof(Note))
            if grown == NULL:
                raise MemoryError("no memory for a netlink message")
            self.s.notes = grown
            self.s.cap_notes = cap
        n = &self.s.notes[self.s.n_notes]
        memset(n, 0, sizeof(Note))
        n.at = <uint32_t>at
        n.item = item
        n.what = what
        self.s.n_notes += 1
        self.s.whole = self.s.out.len
        return 0

    # -- creating -------------------------------------------------------------------------------

    def veth(self, int item, veth, int a_fd, int a_index, int b_fd, int b_index, unsigned int group=0):
        """Creates a pair, each end born in the namespace of its descriptor with the index given."""
        cdef size_t at = self.begin()
        build_veth(&self.s.out, veth, a_fd, a_index, b_fd, b_index, group)
        self.note(at, item, what_of(1, 0, 0))

    def vxlan(self, int item, vxlan, int ns_fd, int index, int lower=0, unsigned int group=0):
        """Creates a VXLAN in `ns_fd` whose tunnel runs in this visit's namespace."""
        cdef size_t at = self.begin()
        build_vxlan(&self.s.out, vxlan, ns_fd, index, lower, group)
        self.note(at, item, what_of(1, 0, 0))

    def lone(self, int item, device, int ns_fd, int index, unsigned int group=0):
        """Creates a Device of kind "dummy", "bridge" or "vrf" in `ns_fd` with the index given."""
        cdef size_t at = self.begin()
        build_lone(&self.s.out, device, ns_fd, index, group)
        self.note(at, item, what_of(1, 0, 0))

    def device(self, int item, str kind, str name, *, int ns_fd=-1, int index=0, unsigned int group=0, mtu=0):
        """Creates an interface of a kind without parameters: "dummy", "bridge", "ifb"."""
        cdef size_t at = self.begin()
        build_dummy_like(&self.s.out, kind, name, ns_fd, index, group, mtu)
        self.note(at, item, what_of(1, 0, 0))

    def no_ipv6(self, int item, str ifname not None):
        """Turns IPv6 off on one interface (conf/<ifname>/disable_ipv6), before this visit's messages.

        addrconf_disable_ipv6, net/ipv6/addrconf.c.  Not possible with /proc/sys read-only; see file_errors.
        """
        self.file(item, 0, b"%s/disable_ipv6" % ifname.encode(), b"1")

    def allow_ipv6(self, int item, int end, str ifname not None):
        """Turns IPv6 on on one interface, where its namespace has it off for new ones; before the messages.

        A failure does not fail the item: it may have been on, and an address says whether it is.
        """
        self.file(item, what_of(13, end, IPV6) | SOFT, b"%s/disable_ipv6" % ifname.encode(), b"0")

    def route_localnet(self, int item, int end, str ifname not None, bint on=True):
        """Whether 127.0.0.0/8 may be routed by the interface (net.ipv4.conf.<ifname>); before the messages."""
        self.file(item, what_of(13, end, ROUTE_LOCALNET), b"%s/%s/route_localnet" % (<bytes>IPV4_CONF, ifname.encode()),
                  b"1" if on else b"0")

    def ping_group_range(self, int item, int end, long low, long high):
        """Groups that may send ICMP echo requests without privilege in the namespace; before the messages."""
        self.file(item, what_of(13, end, PING_GROUP_RANGE), <bytes>PING_GROUPS, b"%d %d" % (low, high))

    cdef int file(self, int32_t item, uint32_t what, bytes path, bytes value) except -1:
        cdef size_t cap, n
        cdef FileNote *grown
        cdef size_t at = self.s.files.len
        cdef char *p
        if self.s.n_files == self.s.cap_files:
            cap = self.s.cap_files * 2 if self.s.cap_files else 8
            grown = <FileNote *>realloc(self.s.file_notes, cap * sizeof(FileNote))
            if grown == NULL:
                raise MemoryError("no memory for a file note")
            self.s.file_notes = grown
            self.s.cap_files = cap
        n = <size_t>len(path)
        p = buf_room(&self.s.files, n + 1 + <size_t>len(value) + 1)
        if p == NULL:
            raise MemoryError("no memory for a path")
        memcpy(p, <const char *>path, n)
        memcpy(p + n + 1, <const char *>value, <size_t>len(value))
        memset(&self.s.file_notes[self.s.n_files], 0, sizeof(FileNote))
        self.s.file_notes[self.s.n_files].path = <uint32_t>at
        self.s.file_notes[self.s.n_files].item = item
        self.s.file_notes[self.s.n_files].what = what
        self.s.n_files += 1
        return 0

    def bring_up(self, int item, int end, int index, str alias, int addr_gen_mode=-1, *, bint up=True,
                 unsigned int group=0, int master=0):
        """Alias, IPv6 mode (-1: leave it), group and master (0: leave it) and, with `up`, administratively up.

        The mode needs a message of its own before the one that brings the interface up: within one message
        the kernel works on the flags first (do_setlink), and the second end of a pair, which has a carrier
        at once, would have its link-local address before the mode that forbids it.
        """
        cdef size_t at = self.begin()
        if addr_gen_mode >= 0 or group or master or not up:
            build_marks(&self.s.out, index, alias, addr_gen_mode, group, master)
            self.note(at, item, what_of(2, end, 0))
            if not up:
                return
            at = self.begin()
            alias = None
        build_up(&self.s.out, index, alias)
        self.note(at, item, what_of(2, end, 0))

    def furnish(self, int item, int end, int index, what):
        """Adds the addresses, routes and permanent neighbours of an End, in the order in which they need each other."""
        cdef size_t i
        for i, address in enumerate(what.addresses):
            self.address(item, index, address, True, end, i)
        for i, route in enumerate(what.routes):
            self.route(item, index, route, True, end, i)
        for i, neighbour in enumerate(what.neighbours):
            if neighbour.state == "permanent":
                self.neighbour(item, index, neighbour, True, end, i)

    def furnish_late(self, int item, int end, int index, what):
        """Adds the neighbours that are not permanent.  They need a carrier, so the other end has to be up.

        The kernel forgets them when it finds that there is none, which it looks for in its own time after
        the first end came up (neigh_carrier_down, net/core/neighbour.c).
        """
        cdef size_t i
        for i, neighbour in enumerate(what.neighbours):
            if neighbour.state != "permanent":
                self.neighbour(item, index, neighbour, True, end, i)

    # -- changing -------------------------------------------------------------------------------

    def address(self, int item, int index, Address address not None, bint add=True, int end=0, size_t place=0,
                bint soft=False):
        """Adds or removes an address; with `soft` a failure does not fail the item."""
        cdef size_t at = self.begin()
        build_addr(&self.s.out, add, <uint32_t>index, &address.p)
        self.note(at, item, what_of(3, end, place) | (SOFT if soft else 0))

    def route(self, int item, int index, Route route not None, bint add=True, int end=0, size_t place=0,
              bint soft=False, bint replace=False):
        """Adds, adds or replaces, or removes a route through the interface."""
        cdef size_t at = self.begin()
        build_route(&self.s.out, add, index, route, replace)
        self.note(at, item, what_of(4, end, place) | (SOFT if soft else 0))

    def neighbour(self, int item, int index, Neighbour neighbour not None, bint add=True, int end=0,
                  size_t place=0, bint soft=False):
        """Adds (or replaces) or removes a neighbour."""
        cdef size_t at = self.begin()
        build_neigh(&self.s.out, add, index, neighbour)
        self.note(at, item, what_of(5, end, place) | (SOFT if soft else 0))

    def rule(self, int item, Rule rule not None, bint add=True, int end=0, size_t place=0, bint soft=False):
        """Adds or removes a policy rule of the namespace; with `soft` a failure does not fail the item."""
        cdef size_t at = self.begin()
        build_rule(&self.s.out, add, rule)
        self.note(at, item, what_of(10, end, place) | (SOFT if soft else 0))

    def change(self, int item, int index, *, int end=0, up=None, str name=None, mtu=None, str mac=None,
               str alias=None, group=None, txqlen=None, int addr_gen_mode=-1, master=None):
        """Sets what is given and leaves the rest (do_setlink, net/core/rtnetlink.c); master 0: none.

        `name` renames, which costs a grace period and is refused with EBUSY for an interface that is up
        before Linux 6.2.  `alias` "" removes the alias.
        """
        cdef size_t at = self.begin()
        cdef uint8_t raw[6]
        link_begin(&self.s.out, RTM_SETLINK, 0, index, IFF_UP if up else 0, IFF_UP if up is not None else 0)
        if name is not None:
            put_str(&self.s.out, IFLA_IFNAME, name)
        if mtu is not None:
            put_u32(&self.s.out, IFLA_MTU, <uint32_t>mtu)
        if mac is not None:
            if not parse_mac(mac, raw):
                raise InvalidValue("mac", f"{mac!r} is not a MAC address like 02:00:00:00:00:01")
            put(&self.s.out, IFLA_ADDRESS, raw, 6)
        if alias is not None:
            put_str(&self.s.out, IFLA_IFALIAS, alias)
        if group is not None:
            put_u32(&self.s.out, IFLA_GROUP, <uint32_t>group)
        if txqlen is not None:
            put_u32(&self.s.out, IFLA_TXQLEN, <uint32_t>txqlen)
        if master is not None:
            put_u32(&self.s.out, IFLA_MASTER, <uint32_t>master)
        if addr_gen_mode >= 0:
            put_addr_gen_mode(&self.s.out, <uint8_t>addr_gen_mode)
        msg_end(&self.s.out, at)
        self.note(at, item, what_of(6, end, 0))

    def move(self, int item, int index, int ns_fd, *, int end=0, str name=None, int new_index=0):
        """Moves an interface to another namespace; it keeps MAC, MTU and group, and loses the rest.

        Grace periods under the kernel's one lock make this cost milliseconds (__dev_change_net_namespace).
        `name` renames on the way; `new_index` sets the index there (Linux 5.13).
        """
        cdef size_t at = self.begin()
        link_begin(&self.s.out, RTM_SETLINK, 0, index, 0, 0)
        put_u32(&self.s.out, IFLA_NET_NS_FD, <uint32_t>ns_fd)
        if name is not None:
            put_str(&self.s.out, IFLA_IFNAME, name)
        if new_index:
            put_u32(&self.s.out, IFLA_NEW_IFINDEX, <uint32_t>new_index)
        msg_end(&self.s.out, at)
        self.note(at, item, what_of(7, end, 0))

    # -- deleting -------------------------------------------------------------------------------

    def mark(self, int item, int index, unsigned int group, size_t place=0):
        """Puts an interface into a group, the first half of a sweep; a failure does not fail the item."""
        cdef size_t at = self.begin()
        link_begin(&self.s.out, RTM_SETLINK, 0, index, 0, 0)
        put_u32(&self.s.out, IFLA_GROUP, group)
        msg_end(&self.s.out, at)
        self.note(at, item, what_of(8, 0, place) | SOFT)

    def probe_group(self, int item, unsigned int group):
        """Fails with EINVAL if the group has members in this namespace, and changes nothing either way.

        Its datagram ends with it: within one the kernel goes on after an error, and what follows must not.
        """
        cdef size_t at = self.begin()
        build_group_probe(&self.s.out, group)
        self.note(at, item, what_of(11, 0, 0))
        self.s.notes[self.s.n_notes - 1].fence = True

    def delete_group(self, int item, unsigned int group):
        """Deletes every interface of the group in this namespace, and the other ends of pairs anywhere."""
        cdef size_t at = self.begin()
        if group == 0:
            raise ValueError("group 0 is the default of every interface")
        build_del_group(&self.s.out, group)
        self.note(at, item, what_of(9, 1, 0))

    def delete(self, int item, int index, int end=0):
        """Deletes one interface by index; of a pair both ends go."""
        cdef size_t at = self.begin()
        if index <= 0:
            raise ValueError("an interface to delete needs its index")
        link_begin(&self.s.out, RTM_DELLINK, 0, index, 0, 0)
        msg_end(&self.s.out, at)
        self.note(at, item, what_of(9, end, 0))

    def delete_name(self, int item, str name not None):
        """Deletes one interface by name; names are reused, an index is the safer handle."""
        cdef size_t at = self.begin()
        link_begin(&self.s.out, RTM_DELLINK, 0, 0, 0, 0)
        put_str(&self.s.out, IFLA_IFNAME, name)
        msg_end(&self.s.out, at)
        self.note(at, item, what_of(9, 0, 0))

    # -- asking ---------------------------------------------------------------------------------

    def get_link(self, int item, int index=0, str name=None, bint stats=False):
        """Asks for one interface by index or name; ENODEV if there is none."""
        cdef size_t at = self.begin()
        if not self.s.asks:
            raise ValueError("questions need a visit that asks")
        link_begin(&self.s.out, RTM_GETLINK, NLM_F_ACK, index, 0, 0)
        if name is not None:
            put_str(&self.s.out, IFLA_IFNAME, name)
        put_u32(&self.s.out, IFLA_EXT_MASK, 0 if stats else RTEXT_FILTER_SKIP_STATS)
        msg_end(&self.s.out, at)
        self.note(at, item, what_of(11, 0, 0))

    def dump_links(self, int item=0, bint stats=False):
        """Asks for every interface; without `stats` the kernel leaves out IPv6's counters, its dearest."""
        self.dump(item, RTM_GETLINK, sizeof(ifinfomsg), not stats)

    def dump_addresses(self, int item=0):
        self.dump(item, RTM_GETADDR, sizeof(ifaddrmsg), False)

    def dump_routes(self, int item=0):
        self.dump(item, RTM_GETROUTE, sizeof(rtmsg), False)

    def dump_neighbours(self, int item=0):
        self.dump(item, RTM_GETNEIGH, sizeof(ndmsg), False)

    def dump_rules(self, int item=0):
        self.dump(item, RTM_GETRULE, sizeof(fib_rule_hdr), False)

    cdef int dump(self, int item, uint16_t kind, size_t head_len, bint skip_stats) except -1:
        cdef char zero[32]
        cdef size_t at = self.begin()
        if not self.s.asks:
            raise ValueError("questions need a visit that asks")
        memset(zero, 0, sizeof(zero))
        msg_begin(&self.s.out, kind, NLM_F_DUMP, zero, head_len)
        if skip_stats:
            put_u32(&self.s.out, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        msg_end(&self.s.out, at)
        self.note(at, item, what_of(11, 0, 0))
        return 0

    def raw(self, int item, bytes message not None):
        """A message as bytes, sent as it is: for tests and for replaying what was recorded."""
        cdef size_t at = self.begin()
        cdef char *p
        if len(message) < <Py_ssize_t>sizeof(nlmsghdr) or len(message) % 4:
            raise ValueError("a netlink message has at least 16 bytes and a length divisible by 4")
        p = buf_room(&self.s.out, <size_t>len(message))
        if p != NULL:
            memcpy(p, <const char *>message, <size_t>len(message))
        self.note(at, item, what_of(12, 0, 0))

    # -- afterwards -----------------------------------------------------------------------------

    def rows(self) -> list:
        """The answers to this visit's questions: LinkRow, AddrRow, RouteRow, NeighRow, RuleRow in order."""
        cdef Cursor c
        cdef list out = []
        c.p = self.s.replies.data
        c.left = self.s.replies.len
        collect_rows(&c, out)
        return out

    def messages(self) -> list:
        """Every message as bytes, as built or (after the run) as sent."""
        cdef size_t i, end
        cdef list out = []
        for i in range(self.s.n_notes):
            end = self.s.notes[i + 1].at if i + 1 < self.s.n_notes else self.s.whole
            out.append(PyBytes_FromStringAndSize(self.s.out.data + self.s.notes[i].at,
                                                 <Py_ssize_t>(end - self.s.notes[i].at)))
        return out

    def states(self) -> list:
        """(item, sent, errno) of every message after the run."""
        cdef size_t i
        return [(self.s.notes[i].item, self.s.notes[i].state not in (WAITING, LEFT_OUT), self.s.notes[i].err)
                for i in range(self.s.n_notes)]

    def files(self) -> list:
        """(item, path) of every file that is written before the messages."""
        cdef size_t i
        return [(self.s.file_notes[i].item,
                 os.path.join(<bytes>IPV6_CONF, <bytes>(self.s.files.data + self.s.file_notes[i].path)).decode())
                for i in range(self.s.n_files)]

    @property
    def file_errors(self) -> int:
        """How many of this visit's files could not be written."""
        cdef size_t i, n = 0
        for i in range(self.s.n_files):
            n += self.s.file_notes[i].err != 0
        return n

    @property
    def failure(self):
        """(errno, what it was at) if the namespace could not be visited at all, else None."""
        if self.s.err == 0:
            return None
        return self.s.err, self.s.stage.decode()

    @property
    def cookie(self):
        """SO_NETNS_COOKIE of the namespace: never given twice in one boot; 0 before Linux 5.14."""
        return self.s.cookie

    @property
    def datagrams(self):
        """How many datagrams it took."""
        return self.s.datagrams

    @property
    def overrun(self):
        """Some answers of the kernel were lost (ENOBUFS)."""
        return bool(self.s.overrun)

    @property
    def interrupted(self):
        """A dump was still inconsistent after every try (NLM_F_DUMP_INTR)."""
        return bool(self.s.interrupted)

    def __len__(self):
        return <Py_ssize_t>self.s.n_notes

    cdef int collect(self, list out) except -1:
        cdef size_t i
        cdef Note *n
        cdef FileNote *f
        for i in range(self.s.n_files):
            f = &self.s.file_notes[i]
            if f.what and f.err:
                out.append(Problem(f.item, f.what >> 24, f.what >> 20 & 0xf, f.what & (SOFT - 1), f.err, "", 0,
                                   f.what & SOFT != 0))
        for i in range(self.s.n_notes):
            n = &self.s.notes[i]
            if n.state == FAILED or n.state == SENT:
                out.append(Problem(
                    n.item, n.what >> 24, n.what >> 20 & 0xf, n.what & (SOFT - 1),
                    n.err if n.state == FAILED else 0,
                    PyUnicode_DecodeUTF8(self.s.texts.data + n.text,
                                         <Py_ssize_t>strlen(self.s.texts.data + n.text), b"backslashreplace")
                    if n.text else "",
                    n.offset,
                    n.what & SOFT != 0))
        return 0


@cython.final
cdef class Tour:
    """Visits to namespaces, made in C without the GIL, for `items` things numbered from 0.

    With `skip`, once a message of an item has failed the item's later messages are left out, so that a
    connection whose create failed is not furnished.  `datagram_bytes` and `datagram_messages` bound one
    datagram: the kernel works through it in one uninterruptible call.
    """
    cdef readonly int items
    cdef readonly bint skip
    cdef size_t datagram_bytes, datagram_messages
    cdef int rcvbuf
    cdef list _visits
    cdef uint8_t *failed_items

    def __cinit__(self, int items, bint skip=True, *, size_t datagram_bytes=65536, size_t datagram_messages=128,
                  int rcvbuf=0):
        if items < 0 or not datagram_messages:
            raise ValueError("items must not be negative and a datagram takes at least one message")
        self.items = items
        self.skip = skip
        self.datagram_bytes = datagram_bytes
        self.datagram_messages = datagram_messages
        self.rcvbuf = rcvbuf
        self._visits = []
        self.failed_items = <uint8_t *>calloc(<size_t>items + 1, 1)
        if self.failed_items == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.failed_items)

    @property
    def visits(self):
        return list(self._visits)

    def visit(self, int ns_fd, bint asks=False) -> Visit:
        """A new visit, after those that are there; with `asks` it is for questions only."""
        cdef Visit v = Visit(ns_fd, asks)
        self._visits.append(v)
        return v

    def failed(self, int item) -> bool:
        """Whether a message of the item has failed, or was sent and its outcome is unknown."""
        if not 0 <= item < self.items:
            raise IndexError(item)
        return self.failed_items[item] != 0

    def run(self, int threads=1, *, bint here=False):
        """Makes every visit; with one thread in order, with more several namespaces at a time.

        Threads are made for the tour and end with it.  With `here` one thread is the caller's own, where that can be:
        it is back in its namespace when this returns, so the process must not give up CAP_SYS_ADMIN meanwhile, or it
        is aborted.  Returns when all are done, with the GIL released meanwhile.  Raises OSError
        only if no thread could be started; what the kernel said is in problems().
        """
        cdef Trip t
        cdef Visit v
        cdef pthread_t running[256]
        cdef int i, started = 0, err = 0, wanted = max(1, min(threads, 256, <int>len(self._visits)))
        if not self._visits:
            return
        memset(&t, 0, sizeof(t))
        t.n = <int>len(self._visits)
        t.stops = <Stop **>malloc(<size_t>t.n * sizeof(Stop *))
        if t.stops == NULL:
            raise MemoryError
        for i in range(t.n):
            v = self._visits[i]
            t.stops[i] = &v.s
        t.failed = self.failed_items
        t.n_items = self.items
        t.skip = self.skip
        t.datagram_bytes = self.datagram_bytes
        t.datagram_messages = self.datagram_messages
        t.rcvbuf = self.rcvbuf
        with nogil:
            if here and wanted == 1 and go_alone(&t):
                wanted = 0
            while started < wanted:
                err = start_thread(&running[started], trip_main, &t)
                if err:
                    break           # fewer threads do the same work
                started += 1
            for i in range(started):
                pthread_join(running[i], NULL)
        free(t.stops)
        if wanted and not started:
            raise OSError(err, f"cannot start a thread: {strerror(err).decode()}")

    def problems(self) -> list:
        """A Problem for every message that failed or whose outcome is unknown."""
        cdef list out = []
        cdef Visit v
        for v in self._visits:
            v.collect(out)
        return out
