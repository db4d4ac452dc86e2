"""Every declaration of the kernel's and the C library's that fastnl uses, in one place.

Numbers come from the headers of the machine that compiles.  Only what headers of 4.18 do not have yet, those of the
images that wheels are built in, is written out here; the kernel ABI fixes these numbers for good.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<sys/types.h>" nogil:
    ctypedef int pid_t

cdef extern from "<linux/netlink.h>" nogil:
    struct nlmsghdr:
        uint32_t nlmsg_len
        uint16_t nlmsg_type
        uint16_t nlmsg_flags
        uint32_t nlmsg_seq
        uint32_t nlmsg_pid
    struct nlattr:
        uint16_t nla_len
        uint16_t nla_type
    struct sockaddr_nl:
        uint16_t nl_family
        uint32_t nl_pid
        uint32_t nl_groups
    enum:
        NETLINK_ROUTE
        NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR
        NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND
        NLM_F_CAPPED, NLM_F_ACK_TLVS
        NLMSG_ERROR, NLMSG_DONE, NLMSG_NOOP, NLMSG_OVERRUN
        NETLINK_CAP_ACK, NETLINK_EXT_ACK
        NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS
        NLA_F_NESTED, NLA_TYPE_MASK

cdef extern from "<linux/rtnetlink.h>" nogil:
    struct ifinfomsg:
        uint8_t ifi_family
        uint16_t ifi_type
        int32_t ifi_index
        uint32_t ifi_flags
        uint32_t ifi_change
    struct rtmsg:
        uint8_t rtm_family, rtm_dst_len, rtm_src_len, rtm_tos
        uint8_t rtm_table, rtm_protocol, rtm_scope, rtm_type
        uint32_t rtm_flags
    struct rtnexthop:
        uint16_t rtnh_len
        uint8_t rtnh_flags, rtnh_hops
        int32_t rtnh_ifindex
    enum:
        RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK
        RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR
        RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE
        RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH
        RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE
        RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS
        RTA_TABLE, RTA_MULTIPATH
        RTN_UNICAST, RTN_UNSPEC
        RT_SCOPE_UNIVERSE, RT_SCOPE_SITE, RT_SCOPE_LINK, RT_SCOPE_HOST, RT_SCOPE_NOWHERE
        RT_TABLE_UNSPEC, RT_TABLE_MAIN, RT_TABLE_COMPAT
        RTPROT_STATIC, RTPROT_KERNEL
        RTNH_F_ONLINK, RTM_F_CLONED
        RTEXT_FILTER_SKIP_STATS

cdef extern from "<linux/if_link.h>" nogil:
    struct rtnl_link_stats64:
        uint64_t rx_packets, tx_packets, rx_bytes, tx_bytes
        uint64_t rx_errors, tx_errors, rx_dropped, tx_dropped
    enum:
        IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_TXQLEN, IFLA_LINKINFO, IFLA_IFALIAS
        IFLA_MASTER, IFLA_VRF_TABLE
        IFLA_OPERSTATE, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_LINK_NETNSID, IFLA_NUM_TX_QUEUES
        IFLA_NUM_RX_QUEUES, IFLA_AF_SPEC, IFLA_STATS64, IFLA_EXT_MASK
        IFLA_INFO_KIND, IFLA_INFO_DATA
        IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE, IN6_ADDR_GEN_MODE_EUI64
        IFLA_VXLAN_ID, IFLA_VXLAN_GROUP, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_TTL
        IFLA_VXLAN_TOS, IFLA_VXLAN_LEARNING, IFLA_VXLAN_AGEING, IFLA_VXLAN_LIMIT
        IFLA_VXLAN_PORT_RANGE, IFLA_VXLAN_PROXY, IFLA_VXLAN_RSC, IFLA_VXLAN_L2MISS
        IFLA_VXLAN_L3MISS, IFLA_VXLAN_PORT, IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6
        IFLA_VXLAN_UDP_CSUM, IFLA_VXLAN_UDP_ZERO_CSUM6_TX, IFLA_VXLAN_UDP_ZERO_CSUM6_RX
        IFLA_VXLAN_REMCSUM_TX, IFLA_VXLAN_REMCSUM_RX, IFLA_VXLAN_GBP
        IFLA_VXLAN_REMCSUM_NOPARTIAL, IFLA_VXLAN_COLLECT_METADATA, IFLA_VXLAN_LABEL
        IFLA_VXLAN_GPE, IFLA_VXLAN_TTL_INHERIT
    struct ifla_vxlan_port_range:
        uint16_t low
        uint16_t high

cdef extern from "<linux/veth.h>" nogil:
    enum:
        VETH_INFO_PEER

cdef extern from "<linux/if_addr.h>" nogil:
    struct ifaddrmsg:
        uint8_t ifa_family, ifa_prefixlen, ifa_flags, ifa_scope
        uint32_t ifa_index
    enum:
        IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS
        IFA_F_NODAD

cdef extern from "<linux/neighbour.h>" nogil:
    struct ndmsg:
        uint8_t ndm_family
        int32_t ndm_ifindex
        uint16_t ndm_state
        uint8_t ndm_flags, ndm_type
    enum:
        NDA_DST, NDA_LLADDR
        NUD_PERMANENT, NUD_REACHABLE, NUD_STALE, NUD_NOARP
        NTF_SELF

cdef extern from "<linux/fib_rules.h>" nogil:
    struct fib_rule_hdr:
        uint8_t family, dst_len, src_len, tos, table, res1, res2, action
        uint32_t flags
    enum:
        FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_PRIORITY, FRA_TABLE, FRA_FWMARK, FRA_FWMASK, FRA_SUPPRESS_PREFIXLEN
        FRA_PROTOCOL, FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE, FRA_PAD
        FR_ACT_TO_TBL, FIB_RULE_INVERT

cdef extern from * nogil:
    """
    #include <linux/if.h>
    #include <linux/nsfs.h>
    #include <sys/vfs.h>
    #define FASTNL_IFLA_NEW_IFINDEX 49       /* include/uapi/linux/if_link.h, Linux 5.13 */
    #define FASTNL_GET_STRICT_CHK 12         /* include/uapi/linux/netlink.h, Linux 4.20 */
    #define FASTNL_VXLAN_DF 29               /* Linux 4.20 */
    #define FASTNL_VXLAN_VNIFILTER 30        /* Linux 5.18 */
    #define FASTNL_VXLAN_LOCALBYPASS 31      /* Linux 6.5 */
    #define FASTNL_FRA_SPORT_MASK 28         /* include/uapi/linux/fib_rules.h, Linux 6.15 */
    #define FASTNL_FRA_DPORT_MASK 29
    #define FASTNL_NSFS_MAGIC 0x6e736673     /* include/uapi/linux/magic.h */
    #define FASTNL_NS_GET_ID _IOR(0xb7, 13, uint64_t)   /* include/uapi/linux/nsfs.h, Linux 6.18 */
    #ifndef SO_NETNS_COOKIE
    #define SO_NETNS_COOKIE 71               /* Linux 5.14 */
    #endif
    """
    enum:
        IFLA_NEW_IFINDEX "FASTNL_IFLA_NEW_IFINDEX"
        NETLINK_GET_STRICT_CHK "FASTNL_GET_STRICT_CHK"
        IFLA_VXLAN_DF "FASTNL_VXLAN_DF"
        IFLA_VXLAN_VNIFILTER "FASTNL_VXLAN_VNIFILTER"
        IFLA_VXLAN_LOCALBYPASS "FASTNL_VXLAN_LOCALBYPASS"
        FRA_SPORT_MASK "FASTNL_FRA_SPORT_MASK"
        FRA_DPORT_MASK "FASTNL_FRA_DPORT_MASK"
        NSFS_MAGIC "FASTNL_NSFS_MAGIC"
        IFF_UP, IFF_RUNNING
        NS_GET_NSTYPE, SO_NETNS_COOKIE
    unsigned long NS_GET_ID "FASTNL_NS_GET_ID"

cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    enum:
        AF_NETLINK, AF_UNSPEC, AF_INET, AF_INET6, SOCK_RAW, SOCK_DGRAM, SOCK_CLOEXEC
        SOL_SOCKET, SOL_NETLINK, SO_SNDBUF, SO_RCVBUF, SO_SNDBUFFORCE, SO_RCVBUFFORCE
        MSG_DONTWAIT, MSG_TRUNC
    int socket(int, int, int)
    int setsockopt(int, int, int, const void *, uint32_t)
    int getsockopt(int, int, int, void *, uint32_t *)
    ssize_t sendmsg(int, const msghdr *, int)
    ssize_t recvmsg(int, msghdr *, int)
    ssize_t recv(int, void *, size_t, int)

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int, const char *, void *)
    const char *inet_ntop(int, const void *, char *, uint32_t)
    uint16_t htons(uint16_t)
    uint32_t htonl(uint32_t)
    uint16_t ntohs(uint16_t)
    uint32_t ntohl(uint32_t)

cdef extern from * nogil:
    """
    #include <sched.h>
    #include <fcntl.h>
    #include <unistd.h>
    #include <pthread.h>
    #include <signal.h>
    #include <sys/stat.h>
    #include <sys/ioctl.h>
    #include <sys/mount.h>
    #include <time.h>
    #include <poll.h>
    """
    enum:
        CLONE_NEWNET, O_RDONLY, O_WRONLY, O_RDWR, O_CLOEXEC, O_PATH, O_NONBLOCK, O_NOCTTY
        MS_BIND
    struct stat_s "stat":
        unsigned long st_dev
        unsigned long st_ino
    struct statfs_s "statfs":
        long f_type
    int setns(int, int)
    int unshare(int)
    int c_open "open"(const char *, int, ...)
    int c_openat "openat"(int, const char *, int, ...)
    int c_close "close"(int)
    ssize_t c_write "write"(int, const void *, size_t)
    ssize_t c_read "read"(int, void *, size_t)
    int c_ioctl "ioctl"(int, unsigned long, ...)
    int c_fstat "fstat"(int, stat_s *)
    int c_stat "stat"(const char *, stat_s *)
    int c_fstatfs "fstatfs"(int, statfs_s *)
    int c_mount "mount"(const char *, const char *, const char *, unsigned long, const void *)
    int gettid()
    int getpid()
    int usleep(unsigned int)
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    ctypedef struct sigset_t:
        pass
    int pthread_create(pthread_t *, pthread_attr_t *, void *(*)(void *) noexcept nogil, void *)
    int pthread_join(pthread_t, void **)
    int pthread_attr_init(pthread_attr_t *)
    int pthread_attr_setstacksize(pthread_attr_t *, size_t)
    int pthread_attr_destroy(pthread_attr_t *)
    int sigfillset(sigset_t *)
    int pthread_sigmask(int, sigset_t *, sigset_t *)
    int SIG_SETMASK
    int fetch_add "__sync_fetch_and_add"(int *, int)

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *, size_t)

cdef extern from * nogil:
    """
    #include <net/if_arp.h>
    #include <netinet/in.h>
    #include <linux/sockios.h>
    /* struct ifreq without the clash of <net/if.h> and <linux/if.h> */
    struct fastnl_ifreq {
        char name[16];
        union { short flags; int number; struct sockaddr_in address; void *data; char room[24]; } u;
    };
    """
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_family
        in_addr sin_addr
    union ifreq_value:
        short flags
        int number
        sockaddr_in address
        void *data
    struct ifreq "fastnl_ifreq":
        char name[16]
        ifreq_value u
    enum:
        SIOCGIFNAME, SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFADDR, SIOCGIFNETMASK, SIOCETHTOOL

cdef extern from "<linux/if_tun.h>" nogil:
    enum:
        IFF_TAP, IFF_NO_PI, IFF_TUN_EXCL
    unsigned long TUNSETIFF, TUNSETIFINDEX, TUNSETPERSIST

cdef extern from "<linux/ethtool.h>" nogil:
    struct ethtool_value:
        uint32_t cmd
        uint32_t data
    enum:
        ETHTOOL_SRXCSUM, ETHTOOL_STXCSUM
