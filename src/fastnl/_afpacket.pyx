# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=False, embedsignature=False
"""Frames from one interface to another through AF_PACKET, without Python.

A Port is a packet socket with a ring that the kernel fills with what arrives on its interface, TPACKET_V3: blocks of
frames one after the other, handed over when a block is full or its time is up.  `pump` sends the frames on
from where they lie, many in one system call.
"""
cimport cython
from libc.errno cimport EAGAIN, EINTR, EINVAL, EMSGSIZE, ENETDOWN, ENODEV, ENXIO, EPROTONOSUPPORT, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset, strerror

from fastnl.nl.packet cimport *
from fastnl.nl.uapi cimport (
    MSG_DONTWAIT, SO_SNDBUF, SO_SNDBUFFORCE, SOL_SOCKET, getsockopt, htons, iovec, setsockopt,
)

cdef enum:
    BLOCK = 256 * 1024      # bytes of a block; a frame has to fit in, and GSO makes them 64 KiB
    SLOT = 2048             # the kernel wants a size of frames, but packs them as they are
    SEND_ROOM = 4 << 20     # bytes on their way out, as the kernel counts them
    BATCH = 64              # frames of one system call
    TAG = 4                 # bytes of a VLAN tag
    ROUNDS = 64             # turns of a busy pump between looks at whether it shall stop

cdef enum:                  # what becomes of a frame; Ring.counts
    SENT
    OWN                     # the host's own, which some kernels show although they are asked not to
    TRUNCATED               # larger than a block
    TOO_LONG                # for the interface it should leave by
    DOWN                    # that interface is down or gone
    REFUSED                 # by it or its queue, for any other reason
    FATES

cdef enum:                  # what became of a look at a ring
    IDLE                    # nothing there
    MOVED
    STUCK                   # the way out is full

cdef struct Ring:
    int fd
    char *map
    size_t size
    uint32_t blocks
    uint32_t block          # the next one to be read
    uint32_t left           # frames left in it, 0: not begun
    tpacket3_hdr *frame     # the first of them
    uint64_t counts[FATES]
    uint64_t bytes


cdef inline void advance(Ring *r) noexcept nogil:
    r.frame = <tpacket3_hdr *>(<char *>r.frame + r.frame.tp_next_offset)
    r.left -= 1


cdef inline int flaw(const tpacket3_hdr *frame) noexcept nogil:
    """Why a frame is not sent on, or SENT."""
    cdef const sockaddr_ll *sender = <const sockaddr_ll *>(<const char *>frame + TPACKET_ALIGN(sizeof(tpacket3_hdr)))
    if sender.sll_pkttype == PACKET_OUTGOING:
        return OWN
    return SENT if frame.tp_snaplen == frame.tp_len else TRUNCATED


cdef inline void put_tag_back(tpacket3_hdr *frame) noexcept nogil:
    """The kernel took the VLAN tag out of the frame; here it goes in again, and the frame begins 4 bytes earlier.

    Before the frame lie the virtio header, which counts bytes from the frame's beginning, and then at least 14
    bytes that nothing is in.  Doing it twice does no harm: the header is changed so that it is not a second time.
    """
    cdef char *head = <char *>frame + frame.tp_mac - sizeof(virtio_net_hdr)
    cdef virtio_net_hdr offload
    cdef uint16_t tag[2]
    memcpy(&offload, head, sizeof(offload))
    if offload.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        offload.csum_start += TAG
    if offload.gso_type != VIRTIO_NET_HDR_GSO_NONE:
        offload.hdr_len += TAG
    tag[0] = htons(frame.hv1.tp_vlan_tpid if frame.tp_status & TP_STATUS_VLAN_TPID_VALID else <uint16_t>ETH_P_8021Q)
    tag[1] = htons(<uint16_t>frame.hv1.tp_vlan_tci)
    memmove(head + sizeof(offload) - TAG, head + sizeof(offload), 2 * ETH_ALEN)
    memcpy(head + sizeof(offload) - TAG + 2 * ETH_ALEN, tag, TAG)
    memcpy(head - TAG, &offload, sizeof(offload))
    frame.tp_mac -= TAG
    frame.tp_snaplen += TAG
    frame.tp_len += TAG
    frame.tp_status &= ~<uint32_t>TP_STATUS_VLAN_VALID


cdef unsigned int gather(Ring *r, mmsghdr *messages, iovec *parts) noexcept nogil:
    """The next frames of the block, up to one that is not to be sent; how many."""
    cdef tpacket3_hdr *frame = r.frame
    cdef unsigned int n = 0
    while n < BATCH and n < r.left and flaw(frame) == SENT:
        if frame.tp_status & TP_STATUS_VLAN_VALID:
            put_tag_back(frame)
        # what the kernel says of checksums and segments of a frame lies before it, and is told to it again
        parts[n].iov_base = <char *>frame + frame.tp_mac - sizeof(virtio_net_hdr)
        parts[n].iov_len = frame.tp_snaplen + sizeof(virtio_net_hdr)
        memset(&messages[n], 0, sizeof(mmsghdr))
        messages[n].msg_hdr.msg_iov = &parts[n]
        messages[n].msg_hdr.msg_iovlen = 1
        frame = <tpacket3_hdr *>(<char *>frame + frame.tp_next_offset)
        n += 1
    return n


cdef inline int fate(int err) noexcept nogil:
    if err == EMSGSIZE:
        return TOO_LONG
    return DOWN if err == ENETDOWN or err == ENXIO or err == ENODEV else REFUSED


cdef int forward(Ring *r, int out) noexcept nogil:
    """Sends on what one block holds.  What cannot be sent is counted and let go."""
    cdef mmsghdr messages[BATCH]
    cdef iovec parts[BATCH]
    cdef tpacket_block_desc *block = <tpacket_block_desc *>(r.map + <size_t>r.block * BLOCK)
    cdef unsigned int n
    cdef int sent, _
    if r.left == 0:
        if not load_acquire(&block.hdr.bh1.block_status, ACQUIRE) & TP_STATUS_USER:
            return IDLE
        r.left = block.hdr.bh1.num_pkts
        r.frame = <tpacket3_hdr *>(<char *>block + block.hdr.bh1.offset_to_first_pkt)
    while r.left:
        n = gather(r, messages, parts)
        if n == 0:
            r.counts[flaw(r.frame)] += 1
            advance(r)
            continue
        sent = sendmmsg(out, messages, n, MSG_DONTWAIT)
        if sent < 0:
            if errno == EINTR:
                continue
            if errno == EAGAIN:
                return STUCK
            r.counts[fate(errno)] += 1      # the first; those behind it are tried again
            advance(r)
            continue
        for _ in range(sent):
            r.bytes += r.frame.tp_snaplen
            advance(r)
        r.counts[SENT] += <uint64_t>sent
    store_release(&block.hdr.bh1.block_status, TP_STATUS_KERNEL, RELEASE)
    r.block = (r.block + 1) % r.blocks
    return MOVED


cdef void clear_error(int fd) noexcept nogil:
    """An interface that goes down is told once, as an error of the socket, which would end every poll at once."""
    cdef int err = 0
    cdef uint32_t n = sizeof(err)
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n)


cdef void carry(Ring *a, Ring *b, int stop) noexcept nogil:
    cdef pollfd fds[3]
    cdef int there, back, rounds = 0
    fds[2].fd = stop
    fds[2].events = POLLIN
    while True:
        there = forward(a, b.fd)
        back = forward(b, a.fd)
        rounds += 1
        if (there == MOVED or back == MOVED) and rounds % ROUNDS:
            continue
        fds[0].fd = a.fd
        fds[0].events = (0 if there == STUCK else POLLIN) | (POLLOUT if back == STUCK else 0)
        fds[1].fd = b.fd
        fds[1].events = (0 if back == STUCK else POLLIN) | (POLLOUT if there == STUCK else 0)
        fds[2].revents = 0
        if c_poll(fds, 3, 0 if there == MOVED or back == MOVED else -1) < 0:
            continue
        if fds[2].revents:
            return
        if fds[0].revents & POLLERR:
            clear_error(a.fd)
        if fds[1].revents & POLLERR:
            clear_error(b.fd)


@cython.final
cdef class Port:
    cdef Ring ring
    cdef bint busy
    cdef uint64_t ring_full
    cdef readonly int ifindex

    def __cinit__(self, int fd, int ifindex, *, int blocks=32, int retire=1):
        if blocks < 2:
            raise ValueError(f"a ring has at least 2 blocks, not {blocks}")
        self.ring.fd = fd
        self.ring.blocks = blocks
        self.ring.size = <size_t>blocks * BLOCK
        self.ifindex = ifindex
        self._set(PACKET_VERSION, TPACKET_V3, "PACKET_VERSION")
        self._set(PACKET_VNET_HDR, 1, "PACKET_VNET_HDR")
        cdef int room = SEND_ROOM, one = 1
        if setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) != 0:
            setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room))
        # where the kernel does not know it, `flaw` sees to it
        setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one))
        self._make_ring(retire)
        self._bind()

    cdef _set(self, int option, int value, str what):
        if setsockopt(self.ring.fd, SOL_PACKET, option, &value, sizeof(value)) != 0:
            raise trouble(errno, what)

    cdef _make_ring(self, int retire):
        cdef tpacket_req3 request
        cdef void *where
        memset(&request, 0, sizeof(request))
        request.tp_block_size = BLOCK
        request.tp_block_nr = self.ring.blocks
        request.tp_frame_size = SLOT
        request.tp_frame_nr = self.ring.blocks * (BLOCK // SLOT)
        request.tp_retire_blk_tov = retire
        if setsockopt(self.ring.fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) != 0:
            raise trouble(errno, "PACKET_RX_RING")
        where = mmap(NULL, self.ring.size, PROT_READ | PROT_WRITE, MAP_SHARED, self.ring.fd, 0)
        if where == MAP_FAILED:
            raise trouble(errno, "mapping the ring")
        self.ring.map = <char *>where

    cdef _bind(self):
        cdef sockaddr_ll address
        cdef packet_mreq every
        cdef uint32_t n = sizeof(address)
        memset(&address, 0, sizeof(address))
        address.sll_family = AF_PACKET
        address.sll_protocol = htons(ETH_P_ALL)
        address.sll_ifindex = self.ifindex
        if c_bind(self.ring.fd, <const sockaddr *>&address, sizeof(address)) != 0:
            raise trouble(errno, f"interface {self.ifindex}")
        if getsockname(self.ring.fd, <sockaddr *>&address, &n) != 0:
            raise trouble(errno, f"interface {self.ifindex}")
        if address.sll_hatype != ARPHRD_ETHER and address.sll_hatype != ARPHRD_LOOPBACK:
            raise trouble(EPROTONOSUPPORT, f"interface {self.ifindex} carries no Ethernet frames")
        memset(&every, 0, sizeof(every))
        every.mr_ifindex = self.ifindex
        every.mr_type = PACKET_MR_PROMISC
        if setsockopt(self.ring.fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &every, sizeof(every)) != 0:
            raise trouble(errno, "PACKET_ADD_MEMBERSHIP")

    def __dealloc__(self):
        if self.ring.map != NULL:
            munmap(self.ring.map, self.ring.size)

    def close(self):
        if self.busy:
            raise ValueError("the port is being pumped")
        if self.ring.map != NULL:
            self.counts()       # the last that the kernel has counted
            munmap(self.ring.map, self.ring.size)
            self.ring.map = NULL

    def share(self, int group=-1):
        cdef int flags = PACKET_FANOUT_HASH
        cdef int value
        cdef uint32_t n = sizeof(value)
        if group < 0:
            flags |= PACKET_FANOUT_FLAG_UNIQUEID
            group = 0
        value = group | (flags | PACKET_FANOUT_FLAG_IGNORE_OUTGOING) << 16
        if setsockopt(self.ring.fd, SOL_PACKET, PACKET_FANOUT, &value, sizeof(value)) != 0:
            if errno != EINVAL:
                raise trouble(errno, "PACKET_FANOUT")
            value = group | flags << 16
            self._set(PACKET_FANOUT, value, "PACKET_FANOUT")
        if getsockopt(self.ring.fd, SOL_PACKET, PACKET_FANOUT, &value, &n) != 0:
            raise trouble(errno, "PACKET_FANOUT")
        return value & 0xffff

    def counts(self):
        cdef tpacket_stats_v3 stats
        cdef uint32_t n = sizeof(stats)
        # they begin at 0 again after each time
        if self.ring.map != NULL and getsockopt(self.ring.fd, SOL_PACKET, PACKET_STATISTICS, &stats, &n) == 0:
            self.ring_full += stats.tp_drops
        return {
            "frames": self.ring.counts[SENT],
            "bytes": self.ring.bytes,
            "ring_full": self.ring_full,
            "truncated": self.ring.counts[TRUNCATED],
            "too_long": self.ring.counts[TOO_LONG],
            "interface_down": self.ring.counts[DOWN],
            "refused": self.ring.counts[REFUSED],
        }


cdef trouble(int err, str what):
    return OSError(err, f"{strerror(err).decode()}: {what}")


def pump(Port a not None, Port b not None, int stop):
    if a.busy or b.busy or a is b:
        raise ValueError("a port is pumped once at a time")
    if a.ring.map == NULL or b.ring.map == NULL:
        raise ValueError("the port is closed")
    a.busy = b.busy = True
    with nogil:
        carry(&a.ring, &b.ring, stop)
    a.busy = b.busy = False
