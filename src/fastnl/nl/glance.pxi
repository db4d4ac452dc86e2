# Glances: is an interface still as it was?  By ioctl, which takes no lock of the kernel's and no netlink
# socket, so that thousands of idle interfaces can be looked at every few seconds.

cdef enum:
    SAME = 0
    GONE = 1                # no interface of that index: deleted, or moved away
    RENAMED = 2
    DOWN = 3
    OTHER_MTU = 4
    NO_ADDRESS = 5

cdef struct Look:
    int32_t item
    int ifindex
    char name[16]
    int mtu                 # 0: any
    uint32_t ip             # an IPv4 address that it has to have, network order; 0: none
    int verdict


cdef int glance(int fd, Look *look) noexcept nogil:
    """One verdict; dev_ioctl in net/core/dev_ioctl.c, devinet_ioctl in net/ipv4/devinet.c."""
    cdef ifreq r
    memset(&r, 0, sizeof(r))
    r.u.number = look.ifindex
    if c_ioctl(fd, SIOCGIFNAME, &r) != 0:
        return GONE
    if strncmp(r.name, look.name, 16) != 0:
        return RENAMED
    if c_ioctl(fd, SIOCGIFFLAGS, &r) != 0:
        return GONE
    if not r.u.flags & IFF_UP:
        return DOWN
    if look.mtu:
        if c_ioctl(fd, SIOCGIFMTU, &r) != 0 or r.u.number != look.mtu:
            return OTHER_MTU
    if look.ip:
        # given an address, the kernel looks for that one among those of the interface
        memset(&r.u, 0, sizeof(r.u))
        r.u.address.sin_family = AF_INET
        r.u.address.sin_addr.s_addr = look.ip
        if c_ioctl(fd, SIOCGIFADDR, &r) != 0 or r.u.address.sin_addr.s_addr != look.ip:
            return NO_ADDRESS
    return SAME


cdef void glance_all(Look *looks, size_t n) noexcept nogil:
    """Looks at each; what cannot be told for want of a socket counts as the same."""
    cdef size_t i
    cdef int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    if fd < 0:
        return
    for i in range(n):
        looks[i].verdict = glance(fd, &looks[i])
    c_close(fd)
