"""fastnl-afpacket: joins pairs of host interfaces, frame by frame, through AF_PACKET sockets."""
