# Visits: what a thread says to one namespace's kernel, and the trip from one to the next.
#
# Everything here runs without the GIL on threads of its own.  A visit enters the namespace, makes a
# netlink socket, sends its messages in datagrams, gathers the answers and closes the socket, so that
# nothing of ours keeps the namespace alive afterwards.

cdef enum:
    WAITING = 0             # not sent
    SENT = 1                # sent, outcome not known yet; stays so when the kernel's answer was lost
    DONE = 2
    FAILED = 3              # Note.err says why
    LEFT_OUT = 4            # its item had failed before

cdef enum:
    SOFT = 1 << 19          # in Note.what: a failure of this message does not fail its item

cdef enum:
    MAX_IOV = 256
    RECV_ROOM = 8192        # for one acknowledgement
    FEW = 32                # so many answers fit into the receive buffer that the kernel gives
    SMALL = 4096            # and so many bytes into any send buffer (SOCK_MIN_SNDBUF)
    DUMP_ROOM = 65536       # the kernel fills dumps up to the largest buffer seen, at most 32 KiB
    DUMP_TRIES = 8

cdef struct Note:           # one message of a visit
    uint32_t at             # where it begins in Stop.out
    int32_t item            # whose message it is
    uint32_t what           # phase, end, softness and place in the list, see tour.pxi
    int32_t err
    uint32_t offset         # of the attribute that the kernel did not like
    uint32_t text           # where its extended ACK text begins in Stop.texts, 0: none
    uint8_t state
    bint fence              # the datagram ends with it: what follows depends on its outcome

cdef const char *IPV6_CONF = b"/proc/sys/net/ipv6/conf"

cdef struct FileNote:       # one file to be written inside the namespace, before the messages
    uint32_t path           # where its path begins in Stop.files, from IPV6_CONF on unless absolute; the value follows
    int32_t item
    uint32_t what           # as in a Note; 0: nobody minds if it fails
    int32_t err

cdef struct Stop:
    int ns_fd
    Buf out
    size_t whole            # bytes of whole messages in `out`
    Note *notes
    size_t n_notes, cap_notes
    Buf files
    FileNote *file_notes
    size_t n_files, cap_files
    Buf texts
    Buf replies             # of questions
    bint asks               # its messages are questions: one at a time, answers kept
    int err                 # errno that ended the whole visit, 0: none
    const char *stage       # what it failed at
    uint64_t cookie         # SO_NETNS_COOKIE of the namespace, 0 before 5.14
    uint32_t datagrams
    bint overrun            # ENOBUFS was seen: some answers are lost
    bint interrupted        # a dump stayed inconsistent through every try

cdef struct Trip:
    Stop **stops
    int n
    int next                # the next stop to take, taken atomically by the threads
    uint8_t *failed         # per item
    int32_t n_items
    bint skip               # leave out later messages of an item that failed or whose answer was lost
    size_t datagram_bytes
    size_t datagram_messages
    int rcvbuf              # for tests: a receive buffer this small instead of a large one


cdef inline bint left_out(Trip *t, int32_t item) noexcept nogil:
    return t.skip and 0 <= item < t.n_items and t.failed[item]


cdef void answer(Trip *t, Stop *s, Note *note, int32_t err) noexcept nogil:
    note.err = err
    note.state = FAILED if err else DONE
    if err and not note.what & SOFT and 0 <= note.item < t.n_items:
        t.failed[note.item] = 1


cdef void give_up(Trip *t, Stop *s, int err, const char *stage) noexcept nogil:
    """The visit as a whole failed: every message that was not sent has."""
    cdef size_t i
    s.err = err
    s.stage = stage
    for i in range(s.n_notes):
        if s.notes[i].state == WAITING:
            answer(t, s, &s.notes[i], err)


cdef void not_written(Trip *t, FileNote *f, int err) noexcept nogil:
    f.err = err
    if f.what and not f.what & SOFT and 0 <= f.item < t.n_items:
        t.failed[f.item] = 1


cdef int open_route_socket(Trip *t, Stop *s) noexcept nogil:
    cdef int one = 1
    cdef int size = t.rcvbuf if t.rcvbuf else 4 << 20
    cdef uint32_t n = sizeof(uint64_t)
    cdef int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)
    if fd < 0:
        return -1
    setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one))
    setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one))
    if s.asks:
        setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one))
    # each answer is charged with the size of its whole buffer, so hundreds of errors overrun the default
    if t.rcvbuf:
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size))
    elif (s.asks or s.n_notes > FEW) and setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) != 0:
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size))
    if getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &s.cookie, &n) != 0:
        s.cookie = 0
    return fd


cdef bint born_without(int folder) noexcept nogil:
    """Whether the namespace, by its folder of IPV6_CONF, has IPv6 off for new interfaces (ipv6_add_dev, addrconf.c)."""
    cdef char value = 0
    cdef int fd = c_openat(folder, b"default/disable_ipv6", O_RDONLY | O_CLOEXEC)
    if fd >= 0:
        if c_read(fd, &value, 1) != 1:
            value = 0
        c_close(fd)
    return value != 0 and value != b'0'


cdef void write_files(Trip *t, Stop *s) noexcept nogil:
    """Each file holds one value; a failure is noted and hurts nobody else.

    An interface that was just born without IPv6 needs no file for that.

    The folder is looked up once: every namespace has a /proc/sys/net of its own under that one name, and
    the kernel finds ours by walking past those of all namespaces that have been asked for it.
    """
    cdef size_t i, n
    cdef FileNote *f
    cdef const char *path
    cdef const char *value
    cdef int fd, folder, without = -1
    if s.n_files == 0:
        return
    folder = c_open(IPV6_CONF, O_PATH | O_CLOEXEC)
    for i in range(s.n_files):
        f = &s.file_notes[i]
        if left_out(t, f.item):
            continue
        if not f.what:                  # no_ipv6
            if without < 0:
                without = born_without(folder)
            if without:
                continue
        path = s.files.data + f.path
        value = path + strlen(path) + 1
        n = strlen(value)
        fd = c_openat(folder, path, O_WRONLY | O_CLOEXEC)
        if fd < 0 or c_write(fd, value, n) != <ssize_t>n:
            not_written(t, f, errno)
        if fd >= 0:
            c_close(fd)
    if folder >= 0:
        c_close(folder)


cdef void take_ack(Trip *t, Stop *s, const nlmsghdr *h, size_t first, size_t last) noexcept nogil:
    """Books one acknowledgement on its message; sequence numbers count from 1 within a visit."""
    cdef Ack ack
    cdef Note *note
    cdef char *p
    if not parse_ack(h, &ack) or ack.seq < first + 1 or ack.seq > last + 1:
        return
    note = &s.notes[ack.seq - 1]
    if note.state != SENT:
        return
    note.offset = ack.offset
    if ack.err and ack.text_len:
        if s.texts.len == 0:
            buf_room(&s.texts, 1)       # offset 0 stands for "no text"
        note.text = <uint32_t>s.texts.len
        p = buf_room(&s.texts, ack.text_len + 1)
        if p != NULL:
            memcpy(p, ack.text, ack.text_len)
        else:
            note.text = 0
    answer(t, s, note, ack.err)


cdef void drain_acks(Trip *t, Stop *s, int fd, size_t first, size_t last) noexcept nogil:
    """Reads what the kernel answered to one datagram.

    The handlers ran inside sendmsg, so every answer that will ever come is there already.  Errors always
    come back; success of the last message shows that the datagram was worked through to its end, and with
    it every message without an error is done.  Without it, or after a lost answer, the silent ones stay
    SENT: their outcome has to be read back.
    """
    cdef char room[RECV_ROOM]
    cdef ssize_t n
    cdef size_t k
    cdef Cursor c
    cdef const nlmsghdr *h
    cdef bint lost = False
    while s.notes[last].state == SENT:  # its answer comes after all the others
        n = recv(fd, room, RECV_ROOM, MSG_DONTWAIT)
        if n < 0:
            if errno == ENOBUFS:        # told once and before any answer; then what is left can be read
                s.overrun = lost = True
                continue
            if errno == EINTR:
                continue
            break
        c.p = room
        c.left = <size_t>n
        while True:
            h = next_message(&c)
            if h == NULL:
                break
            take_ack(t, s, h, first, last)
    lost = lost or s.notes[last].state == SENT
    for k in range(first, last + 1):
        if s.notes[k].state != SENT:
            continue
        if not lost:
            s.notes[k].state = DONE
        elif not s.notes[k].what & SOFT and 0 <= s.notes[k].item < t.n_items:
            # what comes later must not build on it: the index that it asked for may be somebody else's
            t.failed[s.notes[k].item] = 1


cdef size_t send_limit(Trip *t, Stop *s, int fd) noexcept nogil:
    """The most bytes of one datagram: netlink_sendmsg refuses more than sk_sndbuf - 32 (EMSGSIZE)."""
    cdef int size = 0
    cdef uint32_t n = sizeof(size)
    if s.whole <= SMALL:
        return t.datagram_bytes
    if getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &n) == 0 and size > 32 and <size_t>size - 32 < t.datagram_bytes:
        return <size_t>size - 32
    return t.datagram_bytes


cdef size_t send_datagram(Trip *t, Stop *s, int fd, size_t first, size_t most) noexcept nogil:
    """Sends the next datagram from message `first` on; returns the message to go on with."""
    cdef iovec iov[MAX_IOV]
    cdef msghdr head
    cdef size_t n_iov = 0, bytes_ = 0, count = 0, size
    cdef size_t i = first, last = 0, begin = 0
    cdef nlmsghdr *h
    cdef bint room = True
    while i < s.n_notes and room:
        if left_out(t, s.notes[i].item):
            s.notes[i].state = LEFT_OUT
            i += 1
            continue
        h = <nlmsghdr *>(s.out.data + s.notes[i].at)
        size = (s.notes[i + 1].at if i + 1 < s.n_notes else s.whole) - s.notes[i].at
        if count and (bytes_ + size > most or count >= t.datagram_messages):
            break
        h.nlmsg_seq = <uint32_t>(i + 1)
        s.notes[i].state = SENT
        if n_iov and <char *>iov[n_iov - 1].iov_base + iov[n_iov - 1].iov_len == <char *>h:
            iov[n_iov - 1].iov_len += size
        else:
            iov[n_iov].iov_base = h
            iov[n_iov].iov_len = size
            n_iov += 1
            room = n_iov < MAX_IOV
        if not count:
            begin = i
        if s.notes[i].fence:
            room = False
        last = i
        bytes_ += size
        count += 1
        i += 1
    if not count:
        return i
    (<nlmsghdr *>(s.out.data + s.notes[last].at)).nlmsg_flags |= NLM_F_ACK
    memset(&head, 0, sizeof(head))
    head.msg_iov = iov
    head.msg_iovlen = n_iov
    s.datagrams += 1
    if sendmsg(fd, &head, 0) < 0:
        # nothing of it reached the kernel: EMSGSIZE for a message over the send buffer, ENOBUFS, ENOMEM
        size = <size_t>errno
        for i in range(begin, last + 1):
            if s.notes[i].state == SENT:
                answer(t, s, &s.notes[i], <int32_t>size)
        return last + 1
    drain_acks(t, s, fd, begin, last)
    return i


cdef int ask_once(Stop *s, int fd, Note *note, char *room) noexcept nogil:
    """One question, its answers to Stop.replies; errno, or -1 when the dump has to be asked again."""
    cdef nlmsghdr *request = <nlmsghdr *>(s.out.data + note.at)
    cdef const nlmsghdr *h
    cdef msghdr head
    cdef iovec iov
    cdef Cursor c
    cdef Ack ack
    cdef ssize_t n
    cdef char *p
    cdef bint again = False
    iov.iov_base = request
    iov.iov_len = request.nlmsg_len
    memset(&head, 0, sizeof(head))
    head.msg_iov = &iov
    head.msg_iovlen = 1
    if sendmsg(fd, &head, 0) < 0:
        return errno
    while True:
        iov.iov_base = room
        iov.iov_len = DUMP_ROOM
        n = recvmsg(fd, &head, MSG_DONTWAIT)
        if n < 0 and errno == EINTR:
            continue
        if n < 0 and errno == ENOBUFS:
            again = True            # told once; what is left is read, and the question asked again
            continue
        if n < 0:
            # EAGAIN: the kernel answers within the call, so nothing more will come
            return -1 if again else errno
        c.p = room
        c.left = <size_t>n
        while True:
            h = next_message(&c)
            if h == NULL:
                break
            if h.nlmsg_seq != request.nlmsg_seq:
                continue
            if h.nlmsg_flags & NLM_F_DUMP_INTR:
                again = True        # the table changed under the dump: rows may be missing or double
            if h.nlmsg_type == NLMSG_DONE:
                return -1 if again else 0
            if h.nlmsg_type == NLMSG_ERROR:
                return ack.err if parse_ack(h, &ack) else EPROTO
            p = buf_room(&s.replies, align4(h.nlmsg_len))
            if p == NULL:
                return s.replies.err
            memcpy(p, h, h.nlmsg_len)


cdef void ask_all(Trip *t, Stop *s, int fd) noexcept nogil:
    cdef size_t i, before
    cdef int err, tries
    cdef char *room = <char *>malloc(DUMP_ROOM)
    if room == NULL:
        give_up(t, s, ENOMEM, b"receive buffer")
        return
    for i in range(s.n_notes):
        if left_out(t, s.notes[i].item):
            s.notes[i].state = LEFT_OUT
            continue
        before = s.replies.len
        (<nlmsghdr *>(s.out.data + s.notes[i].at)).nlmsg_seq = <uint32_t>(i + 1)
        for tries in range(DUMP_TRIES):
            s.replies.len = before
            err = ask_once(s, fd, &s.notes[i], room)
            if err != -1:
                break
        if err == -1:
            # still changing: what was read is used and marked, as a namespace in constant motion never gets better
            s.interrupted = True
            err = 0
        answer(t, s, &s.notes[i], err)
    free(room)


cdef void make_stop(Trip *t, Stop *s) noexcept nogil:
    cdef int fd
    cdef size_t i = 0, most
    if setns(s.ns_fd, CLONE_NEWNET) != 0:
        give_up(t, s, errno, b"entering the namespace")
        for i in range(s.n_files):
            not_written(t, &s.file_notes[i], s.err)
        return
    write_files(t, s)
    if s.n_notes == 0:
        return
    fd = open_route_socket(t, s)
    if fd < 0:
        give_up(t, s, errno, b"opening a netlink socket")
        return
    if s.asks:
        ask_all(t, s, fd)
    else:
        most = send_limit(t, s, fd)
        while i < s.n_notes:
            i = send_datagram(t, s, fd, i, most)
    c_close(fd)


cdef bint go_alone(Trip *t) noexcept nogil:
    """Makes the whole trip on the calling thread, and comes back; False: it cannot be, and nothing was done.

    A thread of its own costs a lone connection up to a tenth.  But not everybody may go back: to enter a
    namespace needs CAP_SYS_ADMIN in the user namespace that owns it, which for one's own is asked beforehand.  And
    /proc/self, which is /proc/net as well, shows every other thread the namespace that the main thread is in.
    """
    cdef sigset_t every, before
    cdef int i, home
    if gettid() == getpid():
        return False
    home = c_open(b"/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)
    if home < 0:
        return False
    for i in range(t.n):
        if t.stops[i].ns_fd == home:
            # of a descriptor that somebody has closed: the visit would be to our own namespace
            c_close(home)
            return False
    sigfillset(&every)
    pthread_sigmask(SIG_SETMASK, &every, &before)   # as on a thread of our own: no handler runs in a strange namespace
    if setns(home, CLONE_NEWNET) != 0:
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        c_close(home)
        return False
    trip_main(t)
    while setns(home, CLONE_NEWNET) != 0:
        # It was possible a moment ago.  Memory may be there again in another one; a process that goes on in a namespace
        # that it does not know of does harm.
        if errno != ENOMEM and errno != EINTR and errno != EAGAIN:
            abort()
        usleep(1000)
    c_close(home)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    return True


cdef void *trip_main(void *arg) noexcept nogil:
    cdef Trip *t = <Trip *>arg
    cdef int i
    while True:
        i = fetch_add(&t.next, 1)
        if i >= t.n:
            return NULL
        make_stop(t, t.stops[i])
