# The reader: walks messages and attributes and never looks past the end that it was given.

cdef struct Cursor:
    const char *p
    size_t left


cdef inline const nlmsghdr *next_message(Cursor *c) noexcept nogil:
    """The next whole message, or NULL at the end or where the length cannot be true."""
    cdef const nlmsghdr *h = <const nlmsghdr *>c.p
    cdef size_t n
    if c.left < sizeof(nlmsghdr) or h.nlmsg_len < sizeof(nlmsghdr) or h.nlmsg_len > c.left:
        return NULL
    n = align4(h.nlmsg_len)
    if n > c.left:              # the padding of the last message may be missing
        n = c.left
    c.p += n
    c.left -= n
    return h


cdef inline const nlattr *next_attr(Cursor *c) noexcept nogil:
    cdef const nlattr *a = <const nlattr *>c.p
    cdef size_t n
    if c.left < sizeof(nlattr) or a.nla_len < sizeof(nlattr) or a.nla_len > c.left:
        return NULL
    n = align4(a.nla_len)
    if n > c.left:
        n = c.left
    c.p += n
    c.left -= n
    return a


cdef inline uint16_t attr_type(const nlattr *a) noexcept nogil:
    return a.nla_type & NLA_TYPE_MASK


cdef inline const char *attr_data(const nlattr *a) noexcept nogil:
    return <const char *>a + sizeof(nlattr)


cdef inline size_t attr_len(const nlattr *a) noexcept nogil:
    return a.nla_len - sizeof(nlattr)


cdef inline uint32_t attr_u32(const nlattr *a) noexcept nogil:
    """A number of one, two or four bytes in host order; 0 for any other length."""
    cdef uint32_t v = 0
    cdef uint16_t w = 0
    if attr_len(a) >= 4:
        memcpy(&v, attr_data(a), 4)
    elif attr_len(a) >= 2:
        memcpy(&w, attr_data(a), 2)
        v = w
    elif attr_len(a) == 1:
        v = (<const uint8_t *>attr_data(a))[0]
    return v


cdef str attr_str(const nlattr *a):
    """The text up to the first NUL or the attribute's end, whichever comes first."""
    cdef size_t n = strnlen(attr_data(a), attr_len(a))
    return PyUnicode_DecodeUTF8(attr_data(a), <Py_ssize_t>n, b"backslashreplace")


cdef inline Cursor attrs_after(const nlmsghdr *h, size_t head_len) noexcept nogil:
    """The attributes behind a family header; none if the message is too short to have it."""
    cdef Cursor c
    cdef size_t skip = sizeof(nlmsghdr) + align4(head_len)
    if h.nlmsg_len < skip:
        c.p = NULL
        c.left = 0
    else:
        c.p = <const char *>h + skip
        c.left = h.nlmsg_len - skip
    return c


cdef inline Cursor attrs_within(const nlattr *a) noexcept nogil:
    cdef Cursor c
    c.p = attr_data(a)
    c.left = attr_len(a)
    return c


cdef str ip_text(const nlattr *a):
    cdef char text[64]
    if attr_len(a) == 4:
        inet_ntop(AF_INET, attr_data(a), text, 64)
    elif attr_len(a) == 16:
        inet_ntop(AF_INET6, attr_data(a), text, 64)
    else:
        return ""
    return text.decode("ascii")


cdef str mac_text(const nlattr *a):
    if attr_len(a) == 0 or attr_len(a) > 32:
        return ""
    return attr_data(a)[:attr_len(a)].hex(":")
