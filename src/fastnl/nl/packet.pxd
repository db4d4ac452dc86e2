"""What the kernel's packet sockets look like, for _afpacket.pyx.  What uapi.pxd has is not repeated."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastnl.nl.uapi cimport msghdr

cdef extern from "<linux/if_packet.h>" nogil:
    struct sockaddr_ll:
        uint16_t sll_family
        uint16_t sll_protocol
        int sll_ifindex
        uint16_t sll_hatype
        uint8_t sll_pkttype
    struct packet_mreq:
        int mr_ifindex
        uint16_t mr_type
    struct tpacket_req3:
        uint32_t tp_block_size, tp_block_nr, tp_frame_size, tp_frame_nr, tp_retire_blk_tov
    struct tpacket_stats_v3:
        uint32_t tp_packets, tp_drops
    struct tpacket_hdr_variant1:
        uint32_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    struct tpacket3_hdr:
        uint32_t tp_next_offset, tp_snaplen, tp_len, tp_status
        uint16_t tp_mac
        tpacket_hdr_variant1 hv1
    struct tpacket_hdr_v1:
        uint32_t block_status, num_pkts, offset_to_first_pkt
    union tpacket_bd_header_u:
        tpacket_hdr_v1 bh1
    struct tpacket_block_desc:
        tpacket_bd_header_u hdr
    enum:
        TPACKET_V3, TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID
        PACKET_VERSION, PACKET_RX_RING, PACKET_VNET_HDR, PACKET_STATISTICS, PACKET_FANOUT, PACKET_ADD_MEMBERSHIP
        PACKET_MR_PROMISC, PACKET_FANOUT_HASH, PACKET_FANOUT_FLAG_UNIQUEID, PACKET_OUTGOING
    size_t TPACKET_ALIGN(size_t)

cdef extern from "<linux/virtio_net.h>" nogil:
    struct virtio_net_hdr:
        uint8_t flags, gso_type
        uint16_t hdr_len, gso_size, csum_start, csum_offset
    enum:
        VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE

cdef extern from * nogil:
    """
    #include <linux/if_ether.h>
    #include <sys/mman.h>
    #include <poll.h>
    #define FASTNL_IGNORE_OUTGOING 23               /* include/uapi/linux/if_packet.h, Linux 4.20 */
    #define FASTNL_FANOUT_IGNORE_OUTGOING 0x4000    /* the same, Linux 5.11 */
    """
    enum:
        PACKET_IGNORE_OUTGOING "FASTNL_IGNORE_OUTGOING"
        PACKET_FANOUT_FLAG_IGNORE_OUTGOING "FASTNL_FANOUT_IGNORE_OUTGOING"
        ETH_P_ALL, ETH_P_8021Q, ETH_ALEN
        ARPHRD_ETHER, ARPHRD_LOOPBACK
        AF_PACKET, SOL_PACKET, SO_ERROR
        POLLIN, POLLOUT, POLLERR
        PROT_READ, PROT_WRITE, MAP_SHARED
    void *MAP_FAILED
    struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd *, unsigned long, int)
    void *mmap(void *, size_t, int, int, int, long)
    int munmap(void *, size_t)
    struct mmsghdr:
        msghdr msg_hdr
    int sendmmsg(int, mmsghdr *, unsigned int, int)
    struct sockaddr:
        pass
    int c_bind "bind"(int, const sockaddr *, uint32_t)
    int getsockname(int, sockaddr *, uint32_t *)
    uint32_t load_acquire "__atomic_load_n"(uint32_t *, int)
    void store_release "__atomic_store_n"(uint32_t *, uint32_t, int)
    int ACQUIRE "__ATOMIC_ACQUIRE"
    int RELEASE "__ATOMIC_RELEASE"
