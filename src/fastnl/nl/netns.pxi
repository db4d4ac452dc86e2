# Network namespaces as file descriptors: opened only after a look at what they are, and made.

cdef int open_ns(const char *path, bint careful, int *fd) noexcept nogil:
    """Opens the network namespace behind a path; errno, or 0 and the descriptor.  See open_netns."""
    cdef char again[40]
    cdef statfs_s fs
    cdef int err = 0
    # O_NONBLOCK: a FIFO would wait for its writer
    cdef int look = c_open(path, (O_PATH if careful else O_RDONLY | O_NONBLOCK | O_NOCTTY) | O_CLOEXEC)
    fd[0] = -1
    if look < 0:
        return errno
    if c_fstatfs(look, &fs) != 0:
        err = errno
    elif fs.f_type != NSFS_MAGIC:
        err = EINVAL
    elif careful:
        snprintf(again, sizeof(again), b"/proc/self/fd/%d", look)
        fd[0] = c_open(again, O_RDONLY | O_CLOEXEC)
        if fd[0] < 0:
            err = errno
    else:
        fd[0], look = look, -1
    if not err and c_ioctl(fd[0], NS_GET_NSTYPE) != CLONE_NEWNET:
        err = EINVAL
        c_close(fd[0])
    if look >= 0:
        c_close(look)
    return err


cdef int identify(int fd, uint64_t *inode, uint64_t *ns_id) noexcept nogil:
    """errno, or 0 and who the namespace is.  See netns_identity."""
    cdef stat_s st
    if c_fstat(fd, &st) != 0:
        return errno
    inode[0] = st.st_ino
    if c_ioctl(fd, NS_GET_ID, ns_id) != 0:
        ns_id[0] = 0
    return 0


def open_netns(str path not None, bint careful=True) -> int:
    """Opens the network namespace behind a path; the caller closes the descriptor.

    With `careful` the path is looked at through O_PATH first, so that nothing but a namespace is ever really
    opened: an open of a device may act.  Without, at a third of the cost, it is looked at afterwards: for
    folders where only root puts anything.  /run/netns holds plain files where a mount did not propagate or
    its maker died.

    Raises OSError: ENOENT and the like from the open, EINVAL for what is no network namespace.
    """
    cdef bytes raw = os.fsencode(path)
    cdef const char *p = raw
    cdef int fd = -1, err
    with nogil:
        err = open_ns(p, careful, &fd)
    if err:
        raise OSError(err, strerror(err).decode(), path)
    return fd


def netns_at(str path not None, bint careful=True) -> tuple:
    """netns_identity of what open_netns would open; nothing is left open."""
    cdef bytes raw = os.fsencode(path)
    cdef const char *p = raw
    cdef uint64_t inode = 0, ns_id = 0
    cdef int fd = -1, err
    with nogil:
        err = open_ns(p, careful, &fd)
        if not err:
            err = identify(fd, &inode, &ns_id)
            c_close(fd)
    if err:
        raise OSError(err, strerror(err).decode(), path)
    return inode, ns_id


def netns_identity(int fd) -> tuple:
    """(inode, id) of an open network namespace.

    The inode alone is given to another namespace soon after this one dies.  The id is never given twice
    in one boot: ioctl NS_GET_ID (6.18), or 0 where the kernel has none.
    """
    cdef uint64_t inode = 0, ns_id = 0
    cdef int err = identify(fd, &inode, &ns_id)
    if err:
        raise OSError(err, strerror(err).decode())
    return inode, ns_id


# The same for many at a time, with the GIL released once: a thread that gives it away for each system call waits for
# it again each time, behind whoever computes.

cdef struct Found:
    const char *path
    int fd
    int err
    uint64_t inode, ns_id


cdef Found *found_at(list raw) except NULL:
    """Room for what is behind each path; the paths have to live as long as it does."""
    cdef Py_ssize_t i, n = len(raw)
    cdef Found *found = <Found *>calloc(<size_t>n + 1, sizeof(Found))
    if found == NULL:
        raise MemoryError("no memory for paths")
    for i in range(n):
        found[i].path = <bytes>raw[i]
        found[i].fd = -1
    return found


def open_all(list paths not None, bint careful=True) -> list:
    """(descriptor, inode, id) of the network namespace behind each path, as open_netns and netns_identity give them.

    None for one that cannot be opened: open_netns says why.  The caller closes the descriptors.
    """
    cdef list raw = [PyUnicode_EncodeFSDefault(path) for path in paths]
    cdef Py_ssize_t i, n = len(raw)
    cdef Found *found = found_at(raw)
    cdef Found *f
    with nogil:
        for i in range(n):
            f = &found[i]
            f.err = open_ns(f.path, careful, &f.fd)
            if f.err == 0:
                f.err = identify(f.fd, &f.inode, &f.ns_id)
                if f.err:
                    c_close(f.fd)
    opened = [None if found[i].err else (found[i].fd, found[i].inode, found[i].ns_id) for i in range(n)]
    free(found)
    return opened


def inodes(list paths not None) -> list:
    """The inode of the file behind each path, 0 where there is none."""
    cdef list raw = [PyUnicode_EncodeFSDefault(path) for path in paths]
    cdef Py_ssize_t i, n = len(raw)
    cdef Found *found = found_at(raw)
    cdef stat_s st
    with nogil:
        for i in range(n):
            if c_stat(found[i].path, &st) == 0:
                found[i].inode = st.st_ino
    there = [found[i].inode for i in range(n)]
    free(found)
    return there


def close_all(list fds not None) -> None:
    """Closes descriptors."""
    cdef Py_ssize_t i, n = len(fds)
    cdef int *each = <int *>malloc((<size_t>n + 1) * sizeof(int))
    if each == NULL:
        raise MemoryError("no memory for descriptors")
    for i in range(n):
        each[i] = fds[i]
    with nogil:
        for i in range(n):
            c_close(each[i])
    free(each)


cdef struct Birth:
    int fd                  # of the new namespace, -1 on failure
    int err
    const char *target      # bind-mount it here, NULL: only the descriptor


cdef int enter_new_netns(Birth *birth) noexcept nogil:
    cdef char own[64]
    if unshare(CLONE_NEWNET) != 0:
        return errno
    # a thread's own namespaces are under its task, /proc/self shows the main thread's
    snprintf(own, sizeof(own), b"/proc/self/task/%d/ns/net", gettid())
    if birth.target != NULL and c_mount(own, birth.target, b"none", MS_BIND, NULL) != 0:
        return errno
    birth.fd = c_open(own, O_RDONLY | O_CLOEXEC)
    return 0 if birth.fd >= 0 else errno


cdef void *birth_main(void *arg) noexcept nogil:
    cdef Birth *birth = <Birth *>arg
    birth.err = enter_new_netns(birth)
    return NULL


def new_netns(str target=None) -> int:
    """A new, empty network namespace as a descriptor; with `target`, an existing file, it is bind-mounted there too.

    Made on a thread that ends at once: unshare changes the thread for good.  The namespace lives as long
    as the descriptor or the mount.  Raises OSError (EPERM without CAP_SYS_ADMIN).
    """
    cdef Birth birth
    cdef bytes raw = os.fsencode(target) if target is not None else b""
    cdef int failed
    birth.fd = -1
    birth.err = 0
    birth.target = <const char *>raw if target is not None else NULL
    with nogil:
        failed = on_own_thread(birth_main, &birth)
    if failed or birth.err:
        failed = failed or birth.err
        raise OSError(failed, strerror(failed).decode(), target)
    return birth.fd


cdef struct Opening:
    int ns_fd
    int family, kind, protocol
    int fd                  # the socket, -1 on failure
    int err


cdef void *opening_main(void *arg) noexcept nogil:
    cdef Opening *opening = <Opening *>arg
    if setns(opening.ns_fd, CLONE_NEWNET) == 0:
        opening.fd = socket(opening.family, opening.kind | SOCK_CLOEXEC, opening.protocol)
    opening.err = 0 if opening.fd >= 0 else errno
    return NULL


def route_socket(int ns_fd) -> int:
    """A NETLINK_ROUTE socket inside an open network namespace, for a reader other than this module.

    A socket belongs for good to the namespace of the thread that made it and keeps it alive; the caller
    closes it soon.  Raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL for what is no network namespace.
    """
    return socket_in(ns_fd, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)


def socket_in(int ns_fd, int family, int kind, int protocol) -> int:
    """A socket of any family inside an open network namespace, as its descriptor; otherwise like route_socket."""
    cdef Opening opening
    cdef int failed
    opening.ns_fd = ns_fd
    opening.family = family
    opening.kind = kind
    opening.protocol = protocol
    opening.fd = -1
    opening.err = 0
    with nogil:
        failed = on_own_thread(opening_main, &opening)
    failed = failed or opening.err
    if failed:
        raise OSError(failed, strerror(failed).decode())
    return opening.fd


cdef enum:
    SETTING_ROOM = 64       # bytes of a setting; what fastnl looks at is shorter

cdef struct Reading:
    int ns_fd
    const char *paths       # each with its NUL
    size_t n
    char *out               # SETTING_ROOM for each, with a NUL; empty: it could not be read
    int err


cdef void *reading_main(void *arg) noexcept nogil:
    """What is under /proc/sys/net is the opening task's own (net/sysctl_net.c)."""
    cdef Reading *r = <Reading *>arg
    cdef const char *path = r.paths
    cdef size_t i
    cdef int fd
    if setns(r.ns_fd, CLONE_NEWNET) != 0:
        r.err = errno
        return NULL
    for i in range(r.n):
        fd = c_open(path, O_RDONLY | O_CLOEXEC)
        if fd >= 0:
            if c_read(fd, r.out + i * SETTING_ROOM, SETTING_ROOM - 1) < 0:
                r.out[i * SETTING_ROOM] = 0
            c_close(fd)
        path += strlen(path) + 1
    return NULL


def read_settings(int ns_fd, list paths not None) -> list:
    """What files under /proc/sys/net hold inside an open network namespace, a string for each path.

    White space is made one blank; None for a file that cannot be read.  Raises OSError as route_socket does.
    """
    cdef Reading r
    cdef bytes raw = b"".join([os.fsencode(path) + b"\0" for path in paths])
    cdef int failed
    cdef size_t i
    memset(&r, 0, sizeof(r))
    r.ns_fd = ns_fd
    r.paths = raw
    r.n = <size_t>len(paths)
    r.out = <char *>calloc(r.n + 1, SETTING_ROOM)
    if r.out == NULL:
        raise MemoryError("no memory for settings")
    try:
        with nogil:
            failed = on_own_thread(reading_main, &r)
        failed = failed or r.err
        if failed:
            raise OSError(failed, strerror(failed).decode())
        read = [(<bytes>(r.out + i * SETTING_ROOM)).decode("ascii", "replace").split() for i in range(r.n)]
        return [" ".join(words) or None for words in read]
    finally:
        free(r.out)


cdef int on_own_thread(void *(*main)(void *) noexcept nogil, void *arg) noexcept nogil:
    """Runs `main` on a thread made for it and waits for its end; errno of the failure to do so, or 0.

    A thread that goes into other namespaces is never used again, so it need not find its way back: no
    Python ever runs on it, and no signal handler either.
    """
    cdef pthread_t thread
    cdef int err = start_thread(&thread, main, arg)
    if err == 0:
        err = pthread_join(thread, NULL)
    return err


cdef int start_thread(pthread_t *thread, void *(*main)(void *) noexcept nogil, void *arg) noexcept nogil:
    cdef pthread_attr_t attr
    cdef sigset_t every, before
    cdef int err = pthread_attr_init(&attr)
    if err:
        return err
    pthread_attr_setstacksize(&attr, 256 * 1024)
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &before)
    err = pthread_create(thread, &attr, main, arg)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&attr)
    return err
