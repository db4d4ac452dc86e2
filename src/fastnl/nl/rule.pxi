# Policy rules: values parsed once into the bytes the kernel takes, and their messages.

cdef enum:
    RULE_PROTOCOL = 102         # FRA_PROTOCOL of ours, "f"; none of include/uapi/linux/rtnetlink.h
    RULE_PRIORITY = 32765       # what the kernel gives the first rule that comes without: just before main
    LAST_PORT = 65534           # fib_rule_port_range_valid, include/net/fib_rules.h

cdef struct PortRange:          # struct fib_rule_port_range; 0, 0: any
    uint16_t low
    uint16_t high


cdef int parse_ports(value, PortRange *out, str field) except -1:
    """A port or a pair of them, the first and the last."""
    if value is None:
        return 0
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise InvalidValue(field, "must be a port, or the first and the last of a range")
        out.low = <uint16_t>whole_number(value[0], 1, LAST_PORT, field)
        out.high = <uint16_t>whole_number(value[1], out.low, LAST_PORT, field)
    else:
        out.low = out.high = <uint16_t>whole_number(value, 1, LAST_PORT, field)
    return 0


cdef object ports_of(const PortRange *p):
    return (p.low, p.high) if p.low else None


cdef int parse_selector(value, Prefix *out, bint *given, str field) except -1:
    """A prefix; one of all addresses selects nothing and only tells the family."""
    parse_prefix(value, out, field)
    clear_host_bits(out)
    given[0] = out.length != 0
    return 0


@cython.final
cdef class Rule:
    """A policy rule, as End.rules holds it: packets that it selects look for their route in `table`.

    source, to     prefixes as text
    iif            name of the interface that packets come in by
    fwmark         0: any
    ipproto        number of the IP protocol, 0: any
    sport, dport   a port, or the first and the last of a range
    priority       lower ones come first
    family         4 or 6, where no prefix tells; then 4 by default

    Host bits of prefixes are cleared.  Raises InvalidValue, naming `field`, with `from` for `source`.
    Source: fib_nl2rule in net/core/fib_rules.c.
    """
    cdef Prefix src, dst
    cdef bint has_src, has_dst
    cdef uint8_t fam
    cdef PortRange sports, dports
    cdef readonly unsigned int table
    cdef readonly unsigned int priority
    cdef readonly unsigned int fwmark
    cdef readonly unsigned int ipproto
    cdef readonly str iif

    def __init__(self, *, table, source=None, to=None, iif=None, fwmark=0, ipproto=0, sport=None, dport=None,
                 priority=RULE_PRIORITY, family=None, str field="rule"):
        self.fam = AF_INET6 if family == 6 else AF_INET
        if source is not None:
            parse_selector(source, &self.src, &self.has_src, field + ".from")
            self.fam = self.src.family
        if to is not None:
            parse_selector(to, &self.dst, &self.has_dst, field + ".to")
            if source is not None and self.dst.family != self.fam:
                raise InvalidValue(field + ".to", f"{to!r} is not of the family of {source!r}")
            self.fam = self.dst.family
        if family not in (None, 4, 6) or (family is not None and family != self.family):
            raise InvalidValue(field + ".family", f"{family!r} must be 4 or 6 and fit the addresses")
        if iif is not None and name_problem(iif):
            raise InvalidValue(field + ".iif", name_problem(iif))
        self.iif = iif
        self.fwmark = whole_number(fwmark, 0, 0xffffffff, field + ".fwmark")
        self.ipproto = whole_number(ipproto, 0, 255, field + ".ipproto")
        parse_ports(sport, &self.sports, field + ".sport")
        parse_ports(dport, &self.dports, field + ".dport")
        self.table = whole_number(table, 1, 0xffffffff, field + ".table")
        self.priority = whole_number(priority, 1, 0xffffffff, field + ".priority")

    @property
    def source(self):
        return prefix_text(&self.src) if self.has_src else None

    @property
    def to(self):
        return prefix_text(&self.dst) if self.has_dst else None

    @property
    def family(self):
        return 6 if self.fam == AF_INET6 else 4

    @property
    def sport(self):
        return ports_of(&self.sports)

    @property
    def dport(self):
        return ports_of(&self.dports)

    @property
    def selectors(self):
        """What packets have to be like; None or 0: any."""
        return self.source, self.to, self.iif, self.fwmark, self.ipproto, self.sport, self.dport

    def _key(self):
        return (self.table, self.priority, self.family, *self.selectors)

    def __hash__(self):
        return hash(self._key())

    def __eq__(self, other):
        if not isinstance(other, Rule):
            return NotImplemented
        return self._key() == other._key()

    def __reduce__(self):
        return _rule, self._key()

    def __repr__(self):
        return f"Rule({str(self)!r})"

    def __str__(self):
        """As `ip rule` spells it."""
        cdef list words = [f"{self.priority}: from {self.source or 'all'}"]
        for word, value in (("to", self.to), ("fwmark", hex(self.fwmark) if self.fwmark else None),
                            ("iif", self.iif), ("ipproto", self.ipproto or None),
                            ("sport", port_words(self.sport)), ("dport", port_words(self.dport))):
            if value is not None:
                words.append(f"{word} {value}")
        return " ".join(words) + f" lookup {self.table}"


cdef object port_words(ports):
    if ports is None:
        return None
    return f"{ports[0]}" if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


def _rule(table, priority, family, source, to, iif, fwmark, ipproto, sport, dport):
    return Rule(table=table, source=source, to=to, iif=iif, fwmark=fwmark, ipproto=ipproto, sport=sport, dport=dport,
                priority=priority, family=family)


cdef int build_rule(Buf *b, bint add, Rule r) except -1:
    """RTM_NEWRULE or RTM_DELRULE: fib_nl_newrule and fib_nl_delrule in net/core/fib_rules.c.

    The protocol goes into both: a rule of another origin is never the one that is deleted.
    """
    cdef fib_rule_hdr head
    cdef size_t at
    memset(&head, 0, sizeof(head))
    head.family = r.fam
    head.src_len = r.src.length
    head.dst_len = r.dst.length
    head.table = <uint8_t>(r.table if r.table < 256 else RT_TABLE_COMPAT)
    head.action = FR_ACT_TO_TBL
    at = msg_begin(b, RTM_NEWRULE if add else RTM_DELRULE,
                   NLM_F_CREATE | NLM_F_EXCL if add else 0, &head, sizeof(head))
    if r.has_src:
        put(b, FRA_SRC, r.src.ip, ip_size(r.fam))
    if r.has_dst:
        put(b, FRA_DST, r.dst.ip, ip_size(r.fam))
    if r.iif is not None:
        put_str(b, FRA_IIFNAME, r.iif)
    if r.fwmark:
        put_u32(b, FRA_FWMARK, r.fwmark)
    if r.ipproto:
        put_u8(b, FRA_IP_PROTO, <uint8_t>r.ipproto)
    if r.sports.low:
        put(b, FRA_SPORT_RANGE, &r.sports, sizeof(PortRange))
    if r.dports.low:
        put(b, FRA_DPORT_RANGE, &r.dports, sizeof(PortRange))
    put_u32(b, FRA_PRIORITY, r.priority)
    put_u32(b, FRA_TABLE, r.table)
    put_u8(b, FRA_PROTOCOL, RULE_PROTOCOL)
    msg_end(b, at)
    return 0


cdef void read_ports(const nlattr *a, PortRange *out) noexcept nogil:
    if attr_len(a) >= sizeof(PortRange):
        memcpy(out, attr_data(a), sizeof(PortRange))


cdef bint read_prefix(const nlattr *a, uint8_t family, uint8_t length, Prefix *out) noexcept nogil:
    """False for what is no address of the family."""
    if attr_len(a) != ip_size(family) or length > 8 * ip_size(family):
        return False
    out.family = family
    out.length = length
    memcpy(out.ip, attr_data(a), attr_len(a))
    return True


cdef class RuleRow:
    """One policy rule as the kernel has it (RTM_NEWRULE, fib_nl_fill_rule in net/core/fib_rules.c)."""
    cdef readonly int family
    cdef readonly unsigned int priority
    cdef readonly unsigned int table
    cdef readonly unsigned int protocol     # FRA_PROTOCOL: who made it
    cdef readonly str source
    cdef readonly str to
    cdef readonly str iif
    cdef readonly Rule rule                 # the same as a value; None for one that a Rule cannot say

    @property
    def ours(self):
        return self.protocol == RULE_PROTOCOL

    def __repr__(self):
        return f"<RuleRow {self.priority}: from {self.source or 'all'} table {self.table} protocol {self.protocol}>"


cdef RuleRow read_rule(const nlmsghdr *h):
    cdef Cursor c = attrs_after(h, sizeof(fib_rule_hdr))
    cdef const fib_rule_hdr *head
    cdef const nlattr *a
    cdef uint16_t kind
    cdef RuleRow row
    cdef Rule rule
    cdef bint plain
    if c.p == NULL:
        return None
    head = <const fib_rule_hdr *>(<const char *>h + sizeof(nlmsghdr))
    row = RuleRow.__new__(RuleRow)
    rule = Rule.__new__(Rule)
    row.family = head.family
    row.table = head.table
    row.source = row.to = row.iif = ""
    rule.fam = head.family
    plain = (head.action == FR_ACT_TO_TBL and not head.flags & FIB_RULE_INVERT and head.tos == 0
             and (head.family == AF_INET or head.family == AF_INET6))
    while True:
        a = next_attr(&c)
        if a == NULL:
            break
        kind = attr_type(a)
        if kind == FRA_PRIORITY:
            row.priority = attr_u32(a)
        elif kind == FRA_TABLE:
            row.table = attr_u32(a)
        elif kind == FRA_PROTOCOL:
            row.protocol = attr_u32(a)
        elif kind == FRA_SRC:
            row.source = f"{ip_text(a)}/{head.src_len}"
            rule.has_src = plain and read_prefix(a, head.family, head.src_len, &rule.src)
            plain = rule.has_src
        elif kind == FRA_DST:
            row.to = f"{ip_text(a)}/{head.dst_len}"
            rule.has_dst = plain and read_prefix(a, head.family, head.dst_len, &rule.dst)
            plain = rule.has_dst
        elif kind == FRA_IIFNAME:
            row.iif = rule.iif = attr_str(a)
        elif kind == FRA_FWMARK:
            rule.fwmark = attr_u32(a)
        elif kind == FRA_FWMASK:
            plain = plain and attr_u32(a) == 0xffffffff
        elif kind == FRA_IP_PROTO:
            rule.ipproto = attr_u32(a)
        elif kind == FRA_SPORT_RANGE:
            read_ports(a, &rule.sports)
        elif kind == FRA_DPORT_RANGE:
            read_ports(a, &rule.dports)
        elif kind == FRA_SUPPRESS_PREFIXLEN:        # always told; all ones: none
            plain = plain and attr_u32(a) == 0xffffffff
        elif kind == FRA_SPORT_MASK or kind == FRA_DPORT_MASK:      # all ones: the whole port
            plain = plain and attr_u32(a) == 0xffff
        elif kind != FRA_PAD:
            plain = False
    rule.table = row.table
    rule.priority = row.priority
    row.rule = rule if plain else None
    return row
