# Glances: is an interface still as it was?  By ioctl, which takes no lock of the kernel's and no netlink
# socket, and without any Python, so that thousands of idle interfaces can be looked at every few seconds.

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
    bint up                 # whether it has to be
    int mtu                 # 0: any
    uint32_t ip             # an IPv4 address that it has to have, network order; 0: none
    uint32_t mask           # of its subnet
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
    if look.up and not r.u.flags & IFF_UP:
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
        # that it is there with another prefix is another address; asked for as above
        memset(&r.u, 0, sizeof(r.u))
        r.u.address.sin_family = AF_INET
        r.u.address.sin_addr.s_addr = look.ip
        if c_ioctl(fd, SIOCGIFNETMASK, &r) != 0 or r.u.address.sin_addr.s_addr != look.mask:
            return NO_ADDRESS
    return SAME


cdef struct Site:
    const char *path        # of the namespace
    bint careful            # see open_netns
    uint64_t inode, ns_id   # who it has to be; ns_id 0: not known
    Look *looks
    size_t n, cap
    bint seen               # the namespace was there and the one that it has to be


cdef void glance_at(Site *site) noexcept nogil:
    """Looks at each interface of one namespace, from a thread that is left in it."""
    cdef uint64_t inode = 0, ns_id = 0
    cdef size_t i
    cdef int ns = -1, fd = -1
    site.seen = False
    if open_ns(site.path, site.careful, &ns) != 0:
        return
    if identify(ns, &inode, &ns_id) == 0 and inode == site.inode and (ns_id == site.ns_id or not site.ns_id):
        if setns(ns, CLONE_NEWNET) == 0:
            fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    c_close(ns)
    if fd < 0:
        return
    for i in range(site.n):
        site.looks[i].verdict = glance(fd, &site.looks[i])
    c_close(fd)
    site.seen = True


cdef struct Round:
    Site **sites
    size_t n


cdef void *round_main(void *arg) noexcept nogil:
    cdef Round *r = <Round *>arg
    cdef size_t i
    for i in range(r.n):
        glance_at(r.sites[i])
    return NULL


cdef class Glances:
    """Interfaces of one namespace as they have to be, to be looked at again and again by look_around.

    path      of the namespace, opened anew each time, so that it is not held
    identity  as netns_identity has it; another one is not looked at
    careful   as in open_netns
    """
    cdef Site site
    cdef bytes path

    def __cinit__(self, str path not None, identity not None, bint careful=True):
        self.path = os.fsencode(path)
        self.site.path = <const char *>self.path
        self.site.careful = careful
        self.site.inode, self.site.ns_id = identity

    def __dealloc__(self):
        free(self.site.looks)

    def add(self, int item, int index, str name not None, int mtu=0, Address address=None, bint up=True):
        """An interface that has to be there, by that name, with an MTU (0: any) and an IPv4 address (None: any).

        It has to be up, unless `up` is false: then that does not matter.

        `item` comes back with what was found to differ.  An interface may be added several times, to look for
        several addresses; IPv6 addresses are not looked for.
        """
        cdef Look *grown
        cdef Look *look
        cdef Py_ssize_t n
        cdef const char *raw = PyUnicode_AsUTF8AndSize(name, &n)
        cdef size_t cap
        if n > 15:
            raise ValueError(f"{name!r} is too long for an interface's name")
        if self.site.n == self.site.cap:
            cap = self.site.cap * 2 if self.site.cap else 2
            grown = <Look *>realloc(self.site.looks, cap * sizeof(Look))
            if grown == NULL:
                raise MemoryError("no memory for a glance")
            self.site.looks = grown
            self.site.cap = cap
        look = &self.site.looks[self.site.n]
        memset(look, 0, sizeof(Look))
        look.item = item
        look.ifindex = index
        memcpy(look.name, raw, <size_t>n)
        look.mtu = mtu
        look.up = up
        if address is not None and address.p.family == AF_INET:
            memcpy(&look.ip, address.p.ip, 4)
            look.mask = htonl(<uint32_t>0xffffffff << (32 - address.p.length)) if address.p.length else 0
        self.site.n += 1

    @property
    def seen(self):
        """Whether the last look found the namespace there, and the one that it has to be."""
        return bool(self.site.seen)

    def changed(self) -> list:
        """(item, what) of what differed at the last look: "gone", "renamed", "down", "mtu" or "address"."""
        cdef size_t i
        if not self.site.seen:
            return []
        return [(self.site.looks[i].item, ("", "gone", "renamed", "down", "mtu", "address")[self.site.looks[i].verdict])
                for i in range(self.site.n) if self.site.looks[i].verdict]


def look_around(list sites not None) -> None:
    """Has a look at every Glances of a list; one that is in two lists at a time is the caller's mistake.

    Raises OSError when no thread can be made for it.
    """
    cdef Round r
    cdef Py_ssize_t i, n = len(sites)
    cdef Glances one
    cdef int err
    r.n = <size_t>n
    r.sites = <Site **>malloc(<size_t>n * sizeof(Site *) + 1)
    if r.sites == NULL:
        raise MemoryError("no memory for a round of glances")
    try:
        for i in range(n):
            one = <Glances?>sites[i]
            r.sites[i] = &one.site
        with nogil:
            err = on_own_thread(round_main, &r)
    finally:
        free(r.sites)
    if err:
        raise OSError(err, strerror(err).decode())
