# Acknowledgements: which message of a datagram failed, why, and where in the message.

cdef struct Ack:
    uint32_t seq
    int32_t err             # errno, 0: done
    uint32_t offset         # of the attribute that the kernel did not like, 0: not told
    const char *text        # extended ACK text inside the datagram, NULL: none
    size_t text_len


cdef bint parse_ack(const nlmsghdr *h, Ack *out) noexcept nogil:
    """Reads one NLMSG_ERROR; false if it is not one or too short for its errno.

    The request's header follows the errno; with NLM_F_CAPPED nothing but that header does, and the
    extended ACK's attributes come right behind.  Whatever is broken there, the errno counts.
    """
    cdef const nlmsghdr *request
    cdef Cursor c
    cdef const nlattr *a
    cdef size_t skip
    if h.nlmsg_type != NLMSG_ERROR or h.nlmsg_len < sizeof(nlmsghdr) + 4:
        return False
    memset(out, 0, sizeof(Ack))
    out.seq = h.nlmsg_seq
    memcpy(&out.err, <const char *>h + sizeof(nlmsghdr), 4)
    # -INT32_MIN does not exist; no kernel sends it, a fuzzer does
    out.err = -out.err if out.err > -4096 and out.err <= 0 else EPROTO
    if not h.nlmsg_flags & NLM_F_ACK_TLVS or h.nlmsg_len < 2 * sizeof(nlmsghdr) + 4:
        return True
    request = <const nlmsghdr *>(<const char *>h + sizeof(nlmsghdr) + 4)
    skip = sizeof(nlmsghdr) + 4 + sizeof(nlmsghdr)
    if not h.nlmsg_flags & NLM_F_CAPPED:
        if request.nlmsg_len < sizeof(nlmsghdr):
            return True
        skip = sizeof(nlmsghdr) + 4 + align4(request.nlmsg_len)
    if skip > h.nlmsg_len:
        return True
    c.p = <const char *>h + skip
    c.left = h.nlmsg_len - skip
    while True:
        a = next_attr(&c)
        if a == NULL:
            return True
        if attr_type(a) == NLMSGERR_ATTR_MSG:
            out.text = attr_data(a)
            out.text_len = strnlen(attr_data(a), attr_len(a))
        elif attr_type(a) == NLMSGERR_ATTR_OFFS:
            out.offset = attr_u32(a)


def read_acks(const unsigned char[::1] data not None):
    """Every acknowledgement in a byte string, as (seq, errno, offset, text).

    Stops at the first message whose length cannot be true.
    """
    cdef Cursor c
    cdef const nlmsghdr *h
    cdef Ack ack
    cdef list out = []
    if data.shape[0] == 0:
        return out
    c.p = <const char *>&data[0]
    c.left = <size_t>data.shape[0]
    while True:
        h = next_message(&c)
        if h == NULL:
            return out
        if parse_ack(h, &ack):
            text = PyUnicode_DecodeUTF8(ack.text, <Py_ssize_t>ack.text_len, b"backslashreplace") if ack.text else ""
            out.append((ack.seq, ack.err, ack.offset, text))
