# The writer: one growing buffer of netlink messages.
#
# A message or nest is begun, filled and ended; its length is patched at the end.  The first failure
# sticks in Buf.err and is looked at once, when the message is complete.

cdef struct Buf:
    char *data
    size_t len
    size_t cap
    int err             # errno of the first failure: ENOMEM, or EMSGSIZE for an attribute over 65535 bytes


cdef inline size_t align4(size_t n) noexcept nogil:
    # NLMSG_ALIGN and RTA_ALIGN: (len + 3) & ~3
    return (n + 3) & ~(<size_t>3)


cdef inline char *buf_room(Buf *b, size_t n) noexcept nogil:
    """n zeroed bytes at the end, or NULL with b.err set."""
    cdef size_t cap
    cdef char *p
    if b.err:
        return NULL
    if b.len + n > b.cap:
        cap = b.cap * 2 if b.cap else 512      # a visit for one connection needs 200
        while cap < b.len + n:
            cap *= 2
        p = <char *>realloc(b.data, cap)
        if p == NULL:
            b.err = ENOMEM
            return NULL
        b.data = p
        b.cap = cap
    p = b.data + b.len
    memset(p, 0, n)
    b.len += n
    return p


cdef inline size_t msg_begin(Buf *b, uint16_t kind, uint16_t flags, const void *head, size_t head_len) noexcept nogil:
    """Starts a message with its family header; the place goes back to msg_end."""
    cdef size_t at = b.len
    cdef nlmsghdr *h = <nlmsghdr *>buf_room(b, sizeof(nlmsghdr) + align4(head_len))
    if h != NULL:
        h.nlmsg_type = kind
        h.nlmsg_flags = NLM_F_REQUEST | flags
        memcpy(<char *>h + sizeof(nlmsghdr), head, head_len)
    return at


cdef inline void msg_end(Buf *b, size_t at) noexcept nogil:
    if not b.err:
        (<nlmsghdr *>(b.data + at)).nlmsg_len = <uint32_t>(b.len - at)


cdef inline void put(Buf *b, uint16_t kind, const void *data, size_t n) noexcept nogil:
    cdef nlattr *a
    if n > 65531:               # nla_len is 16 bits wide and counts its own header
        if not b.err:
            b.err = EMSGSIZE
        return
    a = <nlattr *>buf_room(b, sizeof(nlattr) + align4(n))
    if a != NULL:
        a.nla_type = kind
        a.nla_len = <uint16_t>(sizeof(nlattr) + n)
        if n:                   # a flag has no data, and memcpy wants no NULL
            memcpy(<char *>a + sizeof(nlattr), data, n)


cdef inline void put_u8(Buf *b, uint16_t kind, uint8_t v) noexcept nogil:
    put(b, kind, &v, 1)


cdef inline void put_u16(Buf *b, uint16_t kind, uint16_t v) noexcept nogil:
    put(b, kind, &v, 2)


cdef inline void put_u32(Buf *b, uint16_t kind, uint32_t v) noexcept nogil:
    put(b, kind, &v, 4)


cdef inline size_t nest_begin(Buf *b, uint16_t kind) noexcept nogil:
    cdef size_t at = b.len
    cdef nlattr *a = <nlattr *>buf_room(b, sizeof(nlattr))
    if a != NULL:
        a.nla_type = kind | NLA_F_NESTED
    return at


cdef inline void nest_end(Buf *b, size_t at) noexcept nogil:
    if b.err:
        return
    if b.len - at > 65535:
        b.err = EMSGSIZE
        return
    (<nlattr *>(b.data + at)).nla_len = <uint16_t>(b.len - at)


cdef inline int put_str(Buf *b, uint16_t kind, str s) except -1:
    """A NUL-terminated string, as IFLA_IFNAME and IFLA_IFALIAS take it."""
    cdef Py_ssize_t n
    cdef const char *p = PyUnicode_AsUTF8AndSize(s, &n)
    put(b, kind, p, <size_t>n + 1)
    return 0
