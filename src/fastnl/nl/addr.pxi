# Addresses and neighbours: values parsed once into the bytes the kernel takes, and their messages.

cdef struct Prefix:
    uint8_t family          # AF_INET or AF_INET6
    uint8_t length          # prefix bits
    uint8_t ip[16]          # network order; IPv4 uses the first four


cdef inline size_t ip_size(uint8_t family) noexcept nogil:
    return 4 if family == AF_INET else 16


cdef int parse_ip(object text, Prefix *out, str field) except -1:
    """Text of an address to its bytes; the family follows from the text."""
    cdef Py_ssize_t n
    cdef const char *p
    if not isinstance(text, str):
        raise InvalidValue(field, f"must be an IP address as text, not {type(text).__name__}")
    try:
        p = PyUnicode_AsUTF8AndSize(text, &n)
    except UnicodeEncodeError:
        raise InvalidValue(field, f"{text!r} cannot be written as UTF-8") from None
    memset(out, 0, sizeof(Prefix))
    if <size_t>n == strlen(p):                          # a NUL inside would hide what follows it
        out.family = AF_INET6 if strchr(p, 58) != NULL else AF_INET
        out.length = 128 if out.family == AF_INET6 else 32
        if inet_pton(out.family, p, out.ip) == 1:
            return 0
    raise InvalidValue(field, f"{text!r} is not an IPv4 or IPv6 address")


cdef int parse_prefix(object text, Prefix *out, str field) except -1:
    """"10.0.0.1/24" to bytes and length; without a mask the whole address counts (/32 or /128)."""
    cdef str ip, mask
    cdef int most
    if not isinstance(text, str):
        raise InvalidValue(field, f"must be an address as text, not {type(text).__name__}")
    ip, _, mask = text.partition("/")
    parse_ip(ip, out, field)
    if "/" in text:
        most = out.length
        if not (mask.isascii() and mask.isdigit() and len(mask) < 4 and int(mask) <= most):
            raise InvalidValue(field, f"{text!r}: the prefix length must be a number from 0 to {most}")
        out.length = <uint8_t>int(mask)
    return 0


cdef str prefix_text(const Prefix *p):
    cdef char text[64]
    inet_ntop(p.family, p.ip, text, 64)
    return f"{text.decode('ascii')}/{p.length}"


cdef str only_ip_text(const Prefix *p):
    cdef char text[64]
    inet_ntop(p.family, p.ip, text, 64)
    return text.decode("ascii")


cdef bint is_zero(const Prefix *p) noexcept nogil:
    cdef size_t i
    for i in range(16):
        if p.ip[i]:
            return False
    return True


cdef void clear_host_bits(Prefix *p) noexcept nogil:
    """Leaves the network of a prefix: the kernel refuses a route whose host bits are set."""
    cdef size_t i
    cdef int bits
    for i in range(ip_size(p.family)):
        bits = <int>p.length - 8 * <int>i
        if bits <= 0:
            p.ip[i] = 0
        elif bits < 8:
            p.ip[i] &= <uint8_t>(0xff << (8 - bits))


cdef bint parse_mac(str text, uint8_t *out) except -1:
    """Six bytes from "02:00:00:00:00:01"; false if the text is anything else."""
    cdef Py_ssize_t n, i
    cdef const char *p
    cdef int digit, value = 0
    if len(text) != 17:
        return False
    try:
        p = PyUnicode_AsUTF8AndSize(text, &n)
    except UnicodeEncodeError:
        return False
    if n != 17:
        return False
    for i in range(17):
        if i % 3 == 2:
            if p[i] != 58:
                return False
            continue
        if 48 <= p[i] <= 57:
            digit = p[i] - 48
        elif 97 <= (p[i] | 32) <= 102:
            digit = (p[i] | 32) - 87
        else:
            return False
        if i % 3 == 0:
            value = digit << 4
        else:
            out[i // 3] = <uint8_t>(value | digit)
    return True


def mac_problem(str text not None) -> str | None:
    """Why `text` cannot be the hardware address of an interface, or None if it can.

    The kernel refuses all zeros and multicast (is_valid_ether_addr, include/linux/etherdevice.h).
    """
    cdef uint8_t mac[6]
    if not parse_mac(text, mac):
        return f"{text!r} is not a MAC address like 02:00:00:00:00:01"
    if mac[0] & 1:
        return f"{text!r} is a multicast MAC address; an interface needs a unicast one"
    if not (mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]):
        return f"{text!r} is all zeros"
    return None


@cython.final
@cython.freelist(64)
cdef class Address:
    """An address of an interface, `Address("10.0.0.1/24")` or `Address("fd00::1/64")`.

    Without a mask it is a /32 or /128.  IPv6 addresses are usable at once: they are added without
    duplicate address detection (IFA_F_NODAD), which has no meaning on a link of two ends.

    Raises InvalidValue, naming `field`.
    """
    cdef Prefix p

    def __init__(self, text, str field="address"):
        parse_prefix(text, &self.p, field)
        if is_zero(&self.p):
            raise InvalidValue(field, f"{text!r}: the unspecified address cannot be given to an interface")
        if (self.p.family == AF_INET6 and self.p.ip[0] == 0xff) or \
                (self.p.family == AF_INET and 224 <= self.p.ip[0] <= 239):
            raise InvalidValue(field, f"{text!r}: a multicast address cannot be given to an interface")

    @property
    def text(self):
        """In the kernel's own spelling, always with the prefix length."""
        return prefix_text(&self.p)

    @property
    def ip(self):
        return only_ip_text(&self.p)

    @property
    def family(self):
        """4 or 6."""
        return 6 if self.p.family == AF_INET6 else 4

    @property
    def prefixlen(self):
        return self.p.length

    def __repr__(self):
        return f"Address({self.text!r})"

    def __hash__(self):
        return hash(self.text)

    def __eq__(self, other):
        cdef Address o
        if not isinstance(other, Address):
            return NotImplemented
        o = other
        return memcmp(&self.p, &o.p, sizeof(Prefix)) == 0

    def __reduce__(self):
        return Address, (self.text,)


@cython.final
cdef class Neighbour:
    """A permanent neighbour entry: `ip` is reached at `mac` on the interface.

    `state` is "permanent" (default), "reachable", "stale" or "noarp" (include/uapi/linux/neighbour.h).
    """
    cdef Prefix p
    cdef uint8_t raw_mac[6]
    cdef uint16_t nud
    cdef readonly str state

    def __init__(self, ip, mac, *, str state="permanent", str field="neighbour"):
        parse_ip(ip, &self.p, field + ".ip")
        if not isinstance(mac, str) or not parse_mac(mac, self.raw_mac):
            raise InvalidValue(field + ".mac", f"{mac!r} is not a MAC address like 02:00:00:00:00:01")
        if state == "permanent":
            self.nud = NUD_PERMANENT
        elif state == "reachable":
            self.nud = NUD_REACHABLE
        elif state == "stale":
            self.nud = NUD_STALE
        elif state == "noarp":
            self.nud = NUD_NOARP
        else:
            raise InvalidValue(field + ".state",
                               f"{state!r} is none of permanent, reachable, stale, noarp")
        self.state = state

    @property
    def ip(self):
        return only_ip_text(&self.p)

    @property
    def mac(self):
        return self.raw_mac[:6].hex(":")

    @property
    def family(self):
        return 6 if self.p.family == AF_INET6 else 4

    def _key(self):
        return self.ip, self.mac, self.state

    def __repr__(self):
        return f"Neighbour({self.ip!r}, {self.mac!r}, state={self.state!r})"

    def __hash__(self):
        return hash(self._key())

    def __eq__(self, other):
        if not isinstance(other, Neighbour):
            return NotImplemented
        return self._key() == other._key()

    def __reduce__(self):
        return _neighbour, self._key()


def _neighbour(ip, mac, state):
    return Neighbour(ip, mac, state=state)


cdef void build_addr(Buf *b, bint add, uint32_t ifindex, const Prefix *p) noexcept nogil:
    """RTM_NEWADDR or RTM_DELADDR: inet_rtm_newaddr in net/ipv4/devinet.c, inet6_rtm_newaddr in addrconf.c."""
    cdef ifaddrmsg head
    cdef size_t at
    cdef uint32_t bcast, mask
    memset(&head, 0, sizeof(head))
    head.ifa_family = p.family
    head.ifa_prefixlen = p.length
    head.ifa_index = ifindex
    at = msg_begin(b, RTM_NEWADDR if add else RTM_DELADDR,
                   NLM_F_CREATE | NLM_F_EXCL if add else 0, &head, sizeof(head))
    put(b, IFA_LOCAL, p.ip, ip_size(p.family))
    put(b, IFA_ADDRESS, p.ip, ip_size(p.family))
    if add and p.family == AF_INET and p.length < 31:
        memcpy(&bcast, p.ip, 4)
        mask = htonl(<uint32_t>0xffffffff << (32 - p.length)) if p.length else 0
        bcast |= ~mask
        put(b, IFA_BROADCAST, &bcast, 4)
    elif add and p.family == AF_INET6:
        put_u32(b, IFA_FLAGS, IFA_F_NODAD)
    msg_end(b, at)


cdef void build_neigh(Buf *b, bint add, int ifindex, Neighbour n) noexcept:
    """RTM_NEWNEIGH or RTM_DELNEIGH: neigh_add and neigh_delete in net/core/neighbour.c."""
    cdef ndmsg head
    cdef size_t at
    memset(&head, 0, sizeof(head))
    head.ndm_family = n.p.family
    head.ndm_ifindex = ifindex
    head.ndm_state = n.nud
    at = msg_begin(b, RTM_NEWNEIGH if add else RTM_DELNEIGH,
                   NLM_F_CREATE | NLM_F_REPLACE if add else 0, &head, sizeof(head))
    put(b, NDA_DST, n.p.ip, ip_size(n.p.family))
    if add:
        put(b, NDA_LLADDR, n.raw_mac, 6)
    msg_end(b, at)
