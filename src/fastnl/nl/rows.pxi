# What dumps and gets answer, as rows of Python values: links, addresses, routes, neighbours; rules are in rule.pxi.

cdef class LinkRow:
    """One interface as the kernel reports it (RTM_NEWLINK, net/core/rtnetlink.c rtnl_fill_ifinfo)."""
    cdef readonly int ifindex
    cdef readonly str ifname
    cdef readonly unsigned int flags
    cdef readonly unsigned int mtu
    cdef readonly str mac
    cdef readonly str alias
    cdef readonly unsigned int group
    cdef readonly str kind
    cdef readonly int link                  # ifindex of the veth peer or lower device, 0 without
    cdef readonly int link_netnsid          # namespace id of `link` here, -1: this namespace
    cdef readonly int master                # ifindex of the bridge or the like that it is a port of, 0 without
    cdef readonly int operstate
    cdef readonly unsigned int tx_queues
    cdef readonly unsigned int rx_queues
    cdef readonly unsigned int txqlen
    cdef readonly int addr_gen_mode         # -1: no IPv6 on this interface
    cdef readonly dict stats                # counters, None where the kernel sent none
    cdef readonly dict vxlan                # {"vni": …, "port": …, "local": …, "remote": …} or None

    @property
    def up(self):
        """Administratively up (IFF_UP)."""
        return bool(self.flags & IFF_UP)

    def __repr__(self):
        return f"<LinkRow {self.ifindex} {self.ifname} {self.kind or '-'} mtu {self.mtu} flags {self.flags:#x}>"


cdef class AddrRow:
    """One address of an interface (RTM_NEWADDR, net/ipv4/devinet.c and net/ipv6/addrconf.c)."""
    cdef readonly int ifindex
    cdef readonly str address               # "10.0.0.1/24"
    cdef readonly unsigned int flags
    cdef readonly unsigned int scope

    def __repr__(self):
        return f"<AddrRow {self.ifindex} {self.address} flags {self.flags:#x}>"


cdef class RouteRow:
    """One route (RTM_NEWROUTE); `to` is "0.0.0.0/0" or "::/0" for a default route."""
    cdef readonly int ifindex
    cdef readonly str to
    cdef readonly str via
    cdef readonly str source
    cdef readonly unsigned int metric
    cdef readonly unsigned int table
    cdef readonly unsigned int protocol
    cdef readonly unsigned int scope
    cdef readonly unsigned int kind         # RTN_UNICAST is 1
    cdef readonly unsigned int flags

    def __repr__(self):
        return f"<RouteRow {self.to} via {self.via or '-'} dev {self.ifindex} table {self.table}>"


cdef class NeighRow:
    """One neighbour (RTM_NEWNEIGH)."""
    cdef readonly int ifindex
    cdef readonly str ip
    cdef readonly str mac
    cdef readonly unsigned int state
    cdef readonly unsigned int flags

    def __repr__(self):
        return f"<NeighRow {self.ip} {self.mac} dev {self.ifindex} state {self.state:#x}>"


cdef void read_af_spec(LinkRow row, const nlattr *spec):
    cdef Cursor families = attrs_within(spec)
    cdef Cursor inner
    cdef const nlattr *family
    cdef const nlattr *a
    while True:
        family = next_attr(&families)
        if family == NULL:
            return
        if attr_type(family) != AF_INET6:
            continue
        inner = attrs_within(family)
        while True:
            a = next_attr(&inner)
            if a == NULL:
                break
            if attr_type(a) == IFLA_INET6_ADDR_GEN_MODE:
                row.addr_gen_mode = <int>attr_u32(a)


cdef dict read_vxlan(const nlattr *data):
    cdef Cursor c = attrs_within(data)
    cdef const nlattr *a
    cdef uint16_t kind
    cdef dict out = {"vni": 0, "port": 0, "local": "", "remote": ""}
    while True:
        a = next_attr(&c)
        if a == NULL:
            return out
        kind = attr_type(a)
        if kind == IFLA_VXLAN_ID:
            out["vni"] = attr_u32(a)
        elif kind == IFLA_VXLAN_PORT:
            out["port"] = ntohs(<uint16_t>attr_u32(a))
        elif kind == IFLA_VXLAN_LOCAL or kind == IFLA_VXLAN_LOCAL6:
            out["local"] = ip_text(a)
        elif kind == IFLA_VXLAN_GROUP or kind == IFLA_VXLAN_GROUP6:
            out["remote"] = ip_text(a)
        elif kind == IFLA_VXLAN_LEARNING:
            out["learning"] = bool(attr_u32(a))
        elif kind == IFLA_VXLAN_TTL:
            out["ttl"] = attr_u32(a)


cdef dict read_stats(const nlattr *a):
    cdef rtnl_link_stats64 s
    memset(&s, 0, sizeof(s))
    memcpy(&s, attr_data(a), min(attr_len(a), sizeof(s)))
    return {
        "rx_packets": s.rx_packets, "tx_packets": s.tx_packets,
        "rx_bytes": s.rx_bytes, "tx_bytes": s.tx_bytes,
        "rx_errors": s.rx_errors, "tx_errors": s.tx_errors,
        "rx_dropped": s.rx_dropped, "tx_dropped": s.tx_dropped,
    }


cdef LinkRow read_link(const nlmsghdr *h):
    cdef Cursor c = attrs_after(h, sizeof(ifinfomsg))
    cdef Cursor inner
    cdef const ifinfomsg *head
    cdef const nlattr *a
    cdef const nlattr *info
    cdef const nlattr *info_data = NULL
    cdef uint16_t kind
    cdef LinkRow row
    if c.p == NULL:
        return None
    head = <const ifinfomsg *>(<const char *>h + sizeof(nlmsghdr))
    row = LinkRow.__new__(LinkRow)
    row.ifindex = head.ifi_index
    row.flags = head.ifi_flags
    row.ifname = row.mac = row.alias = row.kind = ""
    row.link_netnsid = row.addr_gen_mode = -1
    while True:
        a = next_attr(&c)
        if a == NULL:
            break
        kind = attr_type(a)
        if kind == IFLA_IFNAME:
            row.ifname = attr_str(a)
        elif kind == IFLA_MTU:
            row.mtu = attr_u32(a)
        elif kind == IFLA_ADDRESS:
            row.mac = mac_text(a)
        elif kind == IFLA_IFALIAS:
            row.alias = attr_str(a)
        elif kind == IFLA_GROUP:
            row.group = attr_u32(a)
        elif kind == IFLA_LINK:
            row.link = <int>attr_u32(a)
        elif kind == IFLA_LINK_NETNSID:
            row.link_netnsid = <int>attr_u32(a)
        elif kind == IFLA_MASTER:
            row.master = <int>attr_u32(a)
        elif kind == IFLA_OPERSTATE:
            row.operstate = <int>attr_u32(a)
        elif kind == IFLA_NUM_TX_QUEUES:
            row.tx_queues = attr_u32(a)
        elif kind == IFLA_NUM_RX_QUEUES:
            row.rx_queues = attr_u32(a)
        elif kind == IFLA_TXQLEN:
            row.txqlen = attr_u32(a)
        elif kind == IFLA_AF_SPEC:
            read_af_spec(row, a)
        elif kind == IFLA_STATS64:
            row.stats = read_stats(a)
        elif kind == IFLA_LINKINFO:
            inner = attrs_within(a)
            while True:
                info = next_attr(&inner)
                if info == NULL:
                    break
                if attr_type(info) == IFLA_INFO_KIND:
                    row.kind = attr_str(info)
                elif attr_type(info) == IFLA_INFO_DATA:
                    info_data = info
    if row.kind == "vxlan" and info_data != NULL:
        row.vxlan = read_vxlan(info_data)
    return row


cdef AddrRow read_addr(const nlmsghdr *h):
    cdef Cursor c = attrs_after(h, sizeof(ifaddrmsg))
    cdef const ifaddrmsg *head
    cdef const nlattr *a
    cdef const nlattr *local = NULL
    cdef AddrRow row
    if c.p == NULL:
        return None
    head = <const ifaddrmsg *>(<const char *>h + sizeof(nlmsghdr))
    row = AddrRow.__new__(AddrRow)
    row.ifindex = <int>head.ifa_index
    row.flags = head.ifa_flags
    row.scope = head.ifa_scope
    row.address = ""
    while True:
        a = next_attr(&c)
        if a == NULL:
            break
        # with IFA_LOCAL present, IFA_ADDRESS is the other end of a point-to-point address
        if attr_type(a) == IFA_LOCAL or (attr_type(a) == IFA_ADDRESS and local == NULL):
            local = a
        elif attr_type(a) == IFA_FLAGS:
            row.flags = attr_u32(a)
    if local != NULL:
        row.address = f"{ip_text(local)}/{head.ifa_prefixlen}"
    return row


cdef RouteRow read_route(const nlmsghdr *h):
    cdef Cursor c = attrs_after(h, sizeof(rtmsg))
    cdef const rtmsg *head
    cdef const nlattr *a
    cdef uint16_t kind
    cdef RouteRow row
    cdef str to
    if c.p == NULL:
        return None
    head = <const rtmsg *>(<const char *>h + sizeof(nlmsghdr))
    row = RouteRow.__new__(RouteRow)
    row.table = head.rtm_table
    row.protocol = head.rtm_protocol
    row.scope = head.rtm_scope
    row.kind = head.rtm_type
    row.flags = head.rtm_flags
    row.via = row.source = ""
    to = "::" if head.rtm_family == AF_INET6 else "0.0.0.0"
    while True:
        a = next_attr(&c)
        if a == NULL:
            break
        kind = attr_type(a)
        if kind == RTA_DST:
            to = ip_text(a)
        elif kind == RTA_OIF:
            row.ifindex = <int>attr_u32(a)
        elif kind == RTA_GATEWAY:
            row.via = ip_text(a)
        elif kind == RTA_PRIORITY:
            row.metric = attr_u32(a)
        elif kind == RTA_PREFSRC:
            row.source = ip_text(a)
        elif kind == RTA_TABLE:
            row.table = attr_u32(a)
    row.to = f"{to}/{head.rtm_dst_len}"
    return row


cdef NeighRow read_neigh(const nlmsghdr *h):
    cdef Cursor c = attrs_after(h, sizeof(ndmsg))
    cdef const ndmsg *head
    cdef const nlattr *a
    cdef NeighRow row
    if c.p == NULL:
        return None
    head = <const ndmsg *>(<const char *>h + sizeof(nlmsghdr))
    row = NeighRow.__new__(NeighRow)
    row.ifindex = head.ndm_ifindex
    row.state = head.ndm_state
    row.flags = head.ndm_flags
    row.ip = row.mac = ""
    while True:
        a = next_attr(&c)
        if a == NULL:
            break
        if attr_type(a) == NDA_DST:
            row.ip = ip_text(a)
        elif attr_type(a) == NDA_LLADDR:
            row.mac = mac_text(a)
    return row


def read_rows(const unsigned char[::1] data not None):
    """Every link, address, route, neighbour and rule row in a byte string of netlink messages.

    Stops at the first message whose length cannot be true; whatever came before it is returned.
    Messages of other types are passed over.
    """
    cdef Cursor c
    cdef list rows = []
    if data.shape[0] == 0:
        return rows
    c.p = <const char *>&data[0]
    c.left = <size_t>data.shape[0]
    collect_rows(&c, rows)
    return rows


cdef int collect_rows(Cursor *c, list rows) except -1:
    cdef const nlmsghdr *h
    cdef object row
    while True:
        h = next_message(c)
        if h == NULL:
            return 0
        if h.nlmsg_type == RTM_NEWLINK:
            row = read_link(h)
        elif h.nlmsg_type == RTM_NEWADDR:
            row = read_addr(h)
        elif h.nlmsg_type == RTM_NEWROUTE:
            row = read_route(h)
        elif h.nlmsg_type == RTM_NEWNEIGH:
            row = read_neigh(h)
        elif h.nlmsg_type == RTM_NEWRULE:
            row = read_rule(h)
        else:
            continue
        if row is not None:
            rows.append(row)
