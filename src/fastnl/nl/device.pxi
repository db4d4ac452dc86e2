# What netlink does not do for an interface: TAP devices and checksum offloads, both by ioctl, on a thread of
# their own inside the namespace.

cdef struct Errand:
    int ns_fd
    const char *name
    int index               # of a TAP to be made; 0: checksums are set
    int rx, tx              # 1: on, 0: off, -1: as they are
    int err


cdef void *errand_main(void *arg) noexcept nogil:
    cdef Errand *e = <Errand *>arg
    if setns(e.ns_fd, CLONE_NEWNET) != 0:
        e.err = errno
    elif e.index:
        e.err = make_tap_here(e)
    else:
        e.err = set_checksums_here(e)
    return NULL


cdef int make_tap_here(Errand *e) noexcept nogil:
    """A TAP belongs to the namespace that /dev/net/tun was opened in (tun_chr_open, drivers/net/tun.c)."""
    cdef ifreq r
    cdef int err = 0
    cdef int fd = c_open(b"/dev/net/tun", O_RDWR | O_CLOEXEC)
    cdef uint32_t index = <uint32_t>e.index
    if fd < 0:
        return errno
    memset(&r, 0, sizeof(r))
    memcpy(r.name, e.name, strlen(e.name))
    r.u.flags = IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL
    if c_ioctl(fd, TUNSETIFINDEX, &index) != 0 or c_ioctl(fd, TUNSETIFF, &r) != 0:
        err = errno
    elif c_ioctl(fd, TUNSETPERSIST, 1) != 0:
        err = errno
    c_close(fd)
    return err


cdef int set_checksums_here(Errand *e) noexcept nogil:
    cdef int err
    cdef int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    if fd < 0:
        return errno
    err = ethtool_switch(fd, e.name, ETHTOOL_SRXCSUM, e.rx)
    if err == 0:
        err = ethtool_switch(fd, e.name, ETHTOOL_STXCSUM, e.tx)
    c_close(fd)
    return err


cdef int ethtool_switch(int fd, const char *name, uint32_t command, int value) noexcept nogil:
    cdef ifreq r
    cdef ethtool_value v
    if value < 0:
        return 0
    v.cmd = command
    v.data = <uint32_t>value
    memset(&r, 0, sizeof(r))
    memcpy(r.name, name, strlen(name))
    r.u.data = &v
    return 0 if c_ioctl(fd, SIOCETHTOOL, &r) == 0 else errno


cdef int run_errand(int ns_fd, str name, int index, int rx, int tx) except -1:
    cdef Errand e
    cdef bytes raw = name.encode()
    cdef int failed
    if len(raw) > 15:
        raise ValueError(f"{name!r} is too long for an interface's name")
    e.ns_fd, e.name, e.index, e.rx, e.tx, e.err = ns_fd, <const char *>raw, index, rx, tx, 0
    with nogil:
        failed = on_own_thread(errand_main, &e)
    return failed or e.err


def make_tap(int ns_fd, str name not None, int index) -> int:
    """Makes a persistent TAP device, down, in an open namespace with the index given; errno, 0: done.

    EBUSY or EEXIST: there is an interface of that name or index; ENOENT: the kernel has no /dev/net/tun.
    """
    if index < 1:
        raise ValueError("an index is at least 1")
    return run_errand(ns_fd, name, index, -1, -1)


def set_checksums(int ns_fd, str name not None, rx, tx) -> int:
    """Leaves checksums to the interface (True), to the kernel (False), or as they are (None); errno, 0: done.

    EOPNOTSUPP: the interface cannot do otherwise.
    """
    return run_errand(ns_fd, name, 0, -1 if rx is None else bool(rx), -1 if tx is None else bool(tx))
