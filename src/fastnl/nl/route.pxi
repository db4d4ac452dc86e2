# Routes: values parsed once into the bytes the kernel takes, and their messages.

SCOPES = {"global": RT_SCOPE_UNIVERSE, "site": RT_SCOPE_SITE, "link": RT_SCOPE_LINK, "host": RT_SCOPE_HOST}


@cython.final
cdef class Route:
    """A route through an interface, as End.routes holds it.

    to       "10.1.0.0/16", "fd00::/64" or "default" (with `via` or `source` telling the family; IPv4 if neither)
    via      next hop, an address; without it the destination is on the link
    metric   priority, 0: the kernel's default (0 for IPv4, 1024 for IPv6)
    table    routing table, 0: main (254)
    source   preferred source address
    onlink   take `via` as reachable on this link though no address covers it
    scope    "global", "site", "link" or "host", of an IPv4 route; None: "link" without a next hop, else "global"

    Host bits of `to` are cleared.  Raises InvalidValue, naming `field`.
    Source: inet_rtm_newroute in net/ipv4/fib_frontend.c, inet6_rtm_newroute in net/ipv6/route.c.
    """
    cdef Prefix dst, gw, src
    cdef bint has_gw, has_src
    cdef readonly unsigned int metric
    cdef readonly unsigned int table
    cdef readonly bint onlink
    cdef readonly str scope

    def __init__(self, to, via=None, *, metric=0, table=0, source=None, bint onlink=False, scope=None,
                 str field="route"):
        cdef uint8_t family
        if via is not None:
            parse_ip(via, &self.gw, field + ".via")
            self.has_gw = True
        if source is not None:
            parse_ip(source, &self.src, field + ".source")
            self.has_src = True
        if to == "default":
            family = self.gw.family if self.has_gw else self.src.family if self.has_src else AF_INET
            parse_prefix("::/0" if family == AF_INET6 else "0.0.0.0/0", &self.dst, field + ".to")
        else:
            parse_prefix(to, &self.dst, field + ".to")
            clear_host_bits(&self.dst)
        if self.has_gw and self.gw.family != self.dst.family:
            raise InvalidValue(field + ".via", f"{via!r} is not of the family of {to!r}")
        if self.has_gw and is_zero(&self.gw):
            raise InvalidValue(field + ".via", f"{via!r}: the unspecified address is no next hop")
        if self.has_src and self.src.family != self.dst.family:
            raise InvalidValue(field + ".source", f"{source!r} is not of the family of {to!r}")
        self.metric = whole_number(metric, 0, 0xffffffff, field + ".metric")
        self.table = whole_number(table, 0, 0xffffffff, field + ".table")
        self.onlink = onlink
        if onlink and not self.has_gw:
            raise InvalidValue(field + ".onlink", "needs a next hop in `via`")
        if scope is not None:
            if scope not in SCOPES:
                raise InvalidValue(field + ".scope", f"{scope!r} is none of {', '.join(SCOPES)}")
            if self.dst.family == AF_INET6:
                raise InvalidValue(field + ".scope", "IPv6 routes have no scope")
            if self.has_gw and SCOPES[scope] >= RT_SCOPE_LINK:
                # fib_check_nh, net/ipv4/fib_semantics.c: the next hop has to be nearer than the destination
                raise InvalidValue(field + ".scope", f"{scope!r} cannot be that of a route with a next hop")
        self.scope = scope

    @property
    def to(self):
        return prefix_text(&self.dst)

    @property
    def via(self):
        return only_ip_text(&self.gw) if self.has_gw else None

    @property
    def source(self):
        return only_ip_text(&self.src) if self.has_src else None

    @property
    def family(self):
        return 6 if self.dst.family == AF_INET6 else 4

    def _key(self):
        return self.to, self.via, self.metric, self.table, self.source, self.onlink, self.scope

    def __repr__(self):
        return f"Route({self.to!r}, via={self.via!r}, metric={self.metric}, table={self.table})"

    def __hash__(self):
        return hash(self._key())

    def __eq__(self, other):
        if not isinstance(other, Route):
            return NotImplemented
        return self._key() == other._key()

    def __reduce__(self):
        return _route, self._key()


def _route(to, via, metric, table, source, onlink, scope=None):
    return Route(to, via, metric=metric, table=table, source=source, onlink=onlink, scope=scope)


cdef unsigned long whole_number(value, unsigned long least, unsigned long most, str field) except? 0xdead:
    """A whole number within its bounds; True and False are no numbers here."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValue(field, f"must be a whole number, not {type(value).__name__}")
    if not least <= value <= most:
        raise InvalidValue(field, f"{value} is not between {least} and {most}")
    return value


cdef void build_route(Buf *b, bint add, int ifindex, Route r, bint replace) noexcept:
    cdef rtmsg head
    cdef size_t at
    cdef uint32_t table = r.table if r.table else <uint32_t>RT_TABLE_MAIN
    memset(&head, 0, sizeof(head))
    head.rtm_family = r.dst.family
    head.rtm_dst_len = r.dst.length
    head.rtm_table = <uint8_t>(table if table < 256 else RT_TABLE_COMPAT)
    head.rtm_protocol = RTPROT_STATIC       # also when deleting: somebody else's route of another origin stays
    if add:
        head.rtm_type = RTN_UNICAST
        # IPv4 wants link scope for a destination on the link; IPv6 has no scopes here and ignores it
        if r.scope is not None:
            head.rtm_scope = <uint8_t>SCOPES[r.scope]
        else:
            head.rtm_scope = RT_SCOPE_UNIVERSE if r.has_gw or r.dst.family == AF_INET6 else RT_SCOPE_LINK
        head.rtm_flags = RTNH_F_ONLINK if r.onlink else 0
    else:
        head.rtm_scope = RT_SCOPE_NOWHERE
    at = msg_begin(b, RTM_NEWROUTE if add else RTM_DELROUTE,
                   (NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)) if add else 0, &head, sizeof(head))
    if r.dst.length:
        put(b, RTA_DST, r.dst.ip, ip_size(r.dst.family))
    put_u32(b, RTA_OIF, <uint32_t>ifindex)
    if r.has_gw:
        put(b, RTA_GATEWAY, r.gw.ip, ip_size(r.gw.family))
    if r.has_src:
        put(b, RTA_PREFSRC, r.src.ip, ip_size(r.src.family))
    if r.metric:
        put_u32(b, RTA_PRIORITY, r.metric)
    put_u32(b, RTA_TABLE, table)
    msg_end(b, at)
