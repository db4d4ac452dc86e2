# Links: names, and the messages that create, change and delete interfaces.

def name_problem(name) -> str | None:
    """Why `name` cannot be the name of an interface, or None if it can.

    The kernel's own rule is dev_valid_name (net/core/dev.c): 1 to 15 bytes, not "." or "..", no '/', ':'
    or space, where 0xa0 counts as a space too.  Refused as well: '%', which the kernel takes as a pattern
    to be numbered; control characters; and "all" and "default", whose sysctl folders stand for every
    interface of the namespace.
    """
    cdef Py_ssize_t n, i
    cdef const char *p
    cdef uint8_t c
    if not isinstance(name, str):
        return f"must be a name as text, not {type(name).__name__}"
    try:
        p = PyUnicode_AsUTF8AndSize(name, &n)
    except UnicodeEncodeError:
        return f"{name!r} cannot be written as UTF-8"
    if n == 0:
        return "the name is empty"
    if n > 15:
        return f"{name!r} has {n} bytes; the kernel allows 15"
    if name == "." or name == "..":
        return f"{name!r} is not allowed as a name"
    if name == "all" or name == "default":
        return f"{name!r} is reserved: in /proc/sys/net it stands for every interface"
    for i in range(n):
        c = <uint8_t>p[i]
        if c == 47 or c == 58:
            return f"{name!r} holds '{chr(c)}', which the kernel does not allow"
        if c == 32 or 9 <= c <= 13 or c == 0xa0:
            return f"{name!r} holds a space (or a byte that the kernel takes for one)"
        if c == 37:
            return f"{name!r} holds '%', which the kernel would replace by a number"
        if c < 32 or c == 127:
            return f"{name!r} holds a control character"
    return None


cdef int put_device(Buf *b, object end, int ns_fd, mtu, uint32_t group) except -1:
    """What an interface is born with: rtnl_create_link applies these before it is registered.

    One queue each way unless asked otherwise: veth gives every possible CPU one, and each costs a kobject
    (veth_get_num_queues, drivers/net/veth.c).
    """
    cdef uint8_t mac[6]
    put_str(b, IFLA_IFNAME, end.ifname)
    put_u32(b, IFLA_NET_NS_FD, <uint32_t>ns_fd)
    if mtu:
        put_u32(b, IFLA_MTU, <uint32_t>mtu)
    if end.mac is not None and parse_mac(end.mac, mac):
        put(b, IFLA_ADDRESS, mac, 6)
    if group:
        put_u32(b, IFLA_GROUP, group)
    if end.txqlen is not None:
        put_u32(b, IFLA_TXQLEN, <uint32_t>end.txqlen)
    put_u32(b, IFLA_NUM_TX_QUEUES, <uint32_t>end.queues)
    put_u32(b, IFLA_NUM_RX_QUEUES, <uint32_t>end.queues)
    return 0


cdef inline size_t link_begin(Buf *b, uint16_t kind, uint16_t flags, int ifindex,
                              uint32_t ifi_flags, uint32_t ifi_change) noexcept nogil:
    cdef ifinfomsg head
    memset(&head, 0, sizeof(head))
    head.ifi_index = ifindex
    head.ifi_flags = ifi_flags
    head.ifi_change = ifi_change
    return msg_begin(b, kind, flags, &head, sizeof(head))


# Every interface is created with an index chosen here, not by the kernel.  The messages that furnish it can
# then be built without asking for the index, and the kernel looks an existing interface up by that index
# and not by name: before 6.15 it looked in the sender's namespace, where an interface of the same name
# would have made the create fail.

cdef int build_veth(Buf *b, object veth, int a_fd, int a_index, int b_fd, int b_index, uint32_t group) except -1:
    """One RTM_NEWLINK that gives birth to both ends, each inside its namespace (veth_newlink).

    Both ends stay down: IFF_UP on the peer makes the kernel refuse the pair (ENOTCONN) after it has
    registered it, which costs two grace periods to undo.
    """
    cdef object a = veth.a
    cdef object z = veth.b
    cdef size_t info, data, peer, at
    cdef ifinfomsg *head
    at = link_begin(b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, a_index, 0, 0)
    put_device(b, a, a_fd, a.mtu or veth.mtu, group)
    info = nest_begin(b, IFLA_LINKINFO)
    put(b, IFLA_INFO_KIND, <const char *>b"veth", 4)
    data = nest_begin(b, IFLA_INFO_DATA)
    peer = nest_begin(b, VETH_INFO_PEER)
    head = <ifinfomsg *>buf_room(b, sizeof(ifinfomsg))
    if head != NULL:
        head.ifi_index = b_index
    put_device(b, z, b_fd, z.mtu or veth.mtu, group)
    nest_end(b, peer)
    nest_end(b, data)
    nest_end(b, info)
    msg_end(b, at)
    return 0


cdef int put_vxlan_ip(Buf *b, uint16_t v4, uint16_t v6, str ip) except -1:
    cdef Prefix p
    parse_ip(ip, &p, "vxlan")
    put(b, v4 if p.family == AF_INET else v6, p.ip, ip_size(p.family))
    return 0


cdef inline int put_switch(Buf *b, uint16_t kind, object v) except -1:
    if v is not None:
        put_u8(b, kind, 1 if v else 0)
    return 0


cdef inline int put_flag(Buf *b, uint16_t kind, object v) except -1:
    if v:
        put(b, kind, NULL, 0)
    return 0


cdef int put_vxlan(Buf *b, object v, int lower) except -1:
    """The attributes of vxlan_policy (drivers/net/vxlan/vxlan_core.c); None leaves the kernel's default.

    The port is always sent: the kernel's own default is 8472, not the registered 4789.
    """
    cdef ifla_vxlan_port_range ports
    put_u32(b, IFLA_VXLAN_ID, <uint32_t>v.vni)
    put_u16(b, IFLA_VXLAN_PORT, htons(<uint16_t>v.port))
    if v.local is not None:
        put_vxlan_ip(b, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6, v.local)
    if v.remote is not None:
        put_vxlan_ip(b, IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6, v.remote)
    if lower:
        put_u32(b, IFLA_VXLAN_LINK, <uint32_t>lower)
    if v.ttl == "inherit":
        put_flag(b, IFLA_VXLAN_TTL_INHERIT, True)
    elif v.ttl is not None:
        put_u8(b, IFLA_VXLAN_TTL, <uint8_t>v.ttl)
    if v.tos is not None:
        put_u8(b, IFLA_VXLAN_TOS, <uint8_t>(1 if v.tos == "inherit" else v.tos))
    if v.df is not None:
        put_u8(b, IFLA_VXLAN_DF, <uint8_t>("unset", "set", "inherit").index(v.df))
    if v.label:
        put_u32(b, IFLA_VXLAN_LABEL, htonl(<uint32_t>v.label))
    if v.ageing is not None:
        put_u32(b, IFLA_VXLAN_AGEING, <uint32_t>v.ageing)
    if v.limit is not None:
        put_u32(b, IFLA_VXLAN_LIMIT, <uint32_t>v.limit)
    if v.port_range is not None:
        ports.low = htons(<uint16_t>v.port_range[0])
        ports.high = htons(<uint16_t>v.port_range[1])
        put(b, IFLA_VXLAN_PORT_RANGE, &ports, sizeof(ports))
    put_switch(b, IFLA_VXLAN_LEARNING, v.learning)
    put_switch(b, IFLA_VXLAN_PROXY, v.proxy)
    put_switch(b, IFLA_VXLAN_RSC, v.rsc)
    put_switch(b, IFLA_VXLAN_L2MISS, v.l2miss)
    put_switch(b, IFLA_VXLAN_L3MISS, v.l3miss)
    put_switch(b, IFLA_VXLAN_UDP_CSUM, v.udp_csum)
    put_switch(b, IFLA_VXLAN_UDP_ZERO_CSUM6_TX, v.udp_zero_csum6_tx)
    put_switch(b, IFLA_VXLAN_UDP_ZERO_CSUM6_RX, v.udp_zero_csum6_rx)
    put_switch(b, IFLA_VXLAN_REMCSUM_TX, v.remcsum_tx)
    put_switch(b, IFLA_VXLAN_REMCSUM_RX, v.remcsum_rx)
    put_switch(b, IFLA_VXLAN_COLLECT_METADATA, v.external)
    put_switch(b, IFLA_VXLAN_VNIFILTER, v.vnifilter)
    put_switch(b, IFLA_VXLAN_LOCALBYPASS, v.localbypass)
    put_flag(b, IFLA_VXLAN_GBP, v.gbp)
    put_flag(b, IFLA_VXLAN_GPE, v.gpe)
    put_flag(b, IFLA_VXLAN_REMCSUM_NOPARTIAL, v.remcsum_nopartial)
    return 0


cdef int build_vxlan(Buf *b, object v, int ns_fd, int ifindex, int lower, uint32_t group) except -1:
    """RTM_NEWLINK of a VXLAN born in `ns_fd`, its tunnel in the namespace of the sending socket.

    Sent from the underlay's socket with a target namespace, the device is registered in the target and
    the UDP socket stays where the message came from (rtnl_newlink_link_net, net/core/rtnetlink.c).
    """
    cdef size_t info, data, at
    at = link_begin(b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, ifindex, 0, 0)
    put_device(b, v.a, ns_fd, v.inner_mtu, group)
    info = nest_begin(b, IFLA_LINKINFO)
    put(b, IFLA_INFO_KIND, <const char *>b"vxlan", 5)
    data = nest_begin(b, IFLA_INFO_DATA)
    put_vxlan(b, v, lower)
    nest_end(b, data)
    nest_end(b, info)
    msg_end(b, at)
    return 0


cdef int build_dummy_like(Buf *b, str kind, str name, int ns_fd, int ifindex, uint32_t group, mtu) except -1:
    """RTM_NEWLINK of a kind that needs no data of its own ("dummy", "bridge", "ifb")."""
    cdef size_t info, at
    cdef bytes raw = kind.encode("ascii")
    at = link_begin(b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, ifindex, 0, 0)
    put_str(b, IFLA_IFNAME, name)
    if ns_fd >= 0:
        put_u32(b, IFLA_NET_NS_FD, <uint32_t>ns_fd)
    if group:
        put_u32(b, IFLA_GROUP, group)
    if mtu:
        put_u32(b, IFLA_MTU, <uint32_t>mtu)
    info = nest_begin(b, IFLA_LINKINFO)
    put(b, IFLA_INFO_KIND, <const char *>raw, <size_t>len(raw))
    nest_end(b, info)
    msg_end(b, at)
    return 0


cdef int build_lone(Buf *b, object device, int ns_fd, int ifindex, uint32_t group) except -1:
    """RTM_NEWLINK of an interface that leads nowhere else: "dummy", "bridge", or "vrf" with its table."""
    cdef size_t info, data, at
    cdef bytes kind = device.kind.encode("ascii")
    at = link_begin(b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, ifindex, 0, 0)
    put_device(b, device.a, ns_fd, device.a.mtu or device.mtu, group)
    info = nest_begin(b, IFLA_LINKINFO)
    put(b, IFLA_INFO_KIND, <const char *>kind, <size_t>len(kind))
    if device.table is not None:
        data = nest_begin(b, IFLA_INFO_DATA)
        put_u32(b, IFLA_VRF_TABLE, <uint32_t>device.table)
        nest_end(b, data)
    nest_end(b, info)
    msg_end(b, at)
    return 0


cdef void put_addr_gen_mode(Buf *b, uint8_t mode) noexcept nogil:
    cdef size_t spec = nest_begin(b, IFLA_AF_SPEC)
    cdef size_t inet6 = nest_begin(b, AF_INET6)
    put_u8(b, IFLA_INET6_ADDR_GEN_MODE, mode)
    nest_end(b, inet6)
    nest_end(b, spec)


cdef int build_marks(Buf *b, int ifindex, str alias, int addr_gen_mode, uint32_t group, int master) except -1:
    """What an interface is marked with before it comes up: alias and IPv6 mode, group and master where needed.

    Neither of the first can be part of the create: rtnl_create_link leaves out IFLA_IFALIAS and IFLA_AF_SPEC.
    """
    cdef size_t at = link_begin(b, RTM_SETLINK, 0, ifindex, 0, 0)
    if alias:
        put_str(b, IFLA_IFALIAS, alias)
    if group:
        put_u32(b, IFLA_GROUP, group)
    if master:
        put_u32(b, IFLA_MASTER, <uint32_t>master)
    if addr_gen_mode >= 0:
        put_addr_gen_mode(b, <uint8_t>addr_gen_mode)
    msg_end(b, at)
    return 0


cdef int build_up(Buf *b, int ifindex, str alias) except -1:
    cdef size_t at = link_begin(b, RTM_SETLINK, 0, ifindex, IFF_UP, IFF_UP)
    if alias:
        put_str(b, IFLA_IFALIAS, alias)
    msg_end(b, at)
    return 0


cdef void build_group_probe(Buf *b, uint32_t group) noexcept nogil:
    """Asks without touching anything whether a group has members.

    A change without index and name goes to every member of IFLA_GROUP (rtnl_group_changelink); an MTU that
    no device can take makes it fail with EINVAL at the first one, and succeed when there is none.
    """
    cdef size_t at = link_begin(b, RTM_NEWLINK, 0, 0, 0, 0)
    put_u32(b, IFLA_GROUP, group)
    put_u32(b, IFLA_MTU, 0xffffffff)
    msg_end(b, at)


cdef void build_del_group(Buf *b, uint32_t group) noexcept nogil:
    """RTM_DELLINK of every member of a group: one pair of grace periods for all (rtnl_group_dellink)."""
    cdef size_t at = link_begin(b, RTM_DELLINK, 0, 0, 0, 0)
    put_u32(b, IFLA_GROUP, group)
    msg_end(b, at)
