namespace Lodge.Machine.Devices.Virtio.Network;

/// <summary>Features, configuration and control commands of the network device (virtio 1.2, 5.1; USO: virtio 1.3, 5.1).</summary>
internal static class VirtioNetworkRegisters
{
    /// <summary>VIRTIO_NET_F_CSUM: the device takes frames with a partial checksum.</summary>
    public const ulong FeatureChecksum = 1UL << 0;

    /// <summary>VIRTIO_NET_F_GUEST_CSUM: the driver takes frames with a partial checksum.</summary>
    public const ulong FeatureGuestChecksum = 1UL << 1;

    /// <summary>VIRTIO_NET_F_CTRL_GUEST_OFFLOADS.</summary>
    public const ulong FeatureControlGuestOffloads = 1UL << 2;

    /// <summary>VIRTIO_NET_F_MTU.</summary>
    public const ulong FeatureMtu = 1UL << 3;

    /// <summary>VIRTIO_NET_F_MAC.</summary>
    public const ulong FeatureMac = 1UL << 5;

    /// <summary>VIRTIO_NET_F_GUEST_TSO4.</summary>
    public const ulong FeatureGuestTso4 = 1UL << 7;

    /// <summary>VIRTIO_NET_F_GUEST_TSO6.</summary>
    public const ulong FeatureGuestTso6 = 1UL << 8;

    /// <summary>VIRTIO_NET_F_GUEST_ECN.</summary>
    public const ulong FeatureGuestEcn = 1UL << 9;

    /// <summary>VIRTIO_NET_F_HOST_TSO4.</summary>
    public const ulong FeatureHostTso4 = 1UL << 11;

    /// <summary>VIRTIO_NET_F_HOST_TSO6.</summary>
    public const ulong FeatureHostTso6 = 1UL << 12;

    /// <summary>VIRTIO_NET_F_HOST_ECN.</summary>
    public const ulong FeatureHostEcn = 1UL << 13;

    /// <summary>VIRTIO_NET_F_MRG_RXBUF.</summary>
    public const ulong FeatureMergeableBuffers = 1UL << 15;

    /// <summary>VIRTIO_NET_F_STATUS.</summary>
    public const ulong FeatureStatus = 1UL << 16;

    /// <summary>VIRTIO_NET_F_CTRL_VQ.</summary>
    public const ulong FeatureControlQueue = 1UL << 17;

    /// <summary>VIRTIO_NET_F_CTRL_RX.</summary>
    public const ulong FeatureControlReceive = 1UL << 18;

    /// <summary>VIRTIO_NET_F_CTRL_VLAN.</summary>
    public const ulong FeatureControlVlan = 1UL << 19;

    /// <summary>VIRTIO_NET_F_CTRL_RX_EXTRA.</summary>
    public const ulong FeatureControlReceiveExtra = 1UL << 20;

    /// <summary>VIRTIO_NET_F_GUEST_ANNOUNCE.</summary>
    public const ulong FeatureGuestAnnounce = 1UL << 21;

    /// <summary>VIRTIO_NET_F_MQ.</summary>
    public const ulong FeatureMultiQueue = 1UL << 22;

    /// <summary>VIRTIO_NET_F_CTRL_MAC_ADDR.</summary>
    public const ulong FeatureControlMac = 1UL << 23;

    /// <summary>VIRTIO_NET_F_GUEST_USO4.</summary>
    public const ulong FeatureGuestUso4 = 1UL << 54;

    /// <summary>VIRTIO_NET_F_GUEST_USO6.</summary>
    public const ulong FeatureGuestUso6 = 1UL << 55;

    /// <summary>VIRTIO_NET_F_HOST_USO.</summary>
    public const ulong FeatureHostUso = 1UL << 56;

    /// <summary>VIRTIO_NET_F_SPEED_DUPLEX.</summary>
    public const ulong FeatureSpeedDuplex = 1UL << 63;

    /// <summary>What the driver accepts on frames that it receives; the bits of VIRTIO_NET_CTRL_GUEST_OFFLOADS are the same (5.1.6.5.8.1).</summary>
    public const ulong GuestOffloads =
        FeatureGuestChecksum | FeatureGuestTso4 | FeatureGuestTso6 | FeatureGuestEcn | FeatureGuestUso4 | FeatureGuestUso6;

    /// <summary>Configuration: mac, 6 bytes.</summary>
    public const int Mac = 0;

    /// <summary>Configuration: status, le16.</summary>
    public const int Status = 6;

    /// <summary>Configuration: max_virtqueue_pairs, le16.</summary>
    public const int MaximumPairs = 8;

    /// <summary>Configuration: mtu, le16.</summary>
    public const int Mtu = 10;

    /// <summary>Configuration: speed, le32, in megabits per second.</summary>
    public const int Speed = 12;

    /// <summary>Configuration: duplex, u8 (1: full).</summary>
    public const int Duplex = 16;

    /// <summary>Bytes of configuration; the fields of RSS behind the duplex read as 0.</summary>
    public const int ConfigurationLength = 24;

    /// <summary>VIRTIO_NET_S_LINK_UP.</summary>
    public const ushort StatusLinkUp = 1;

    /// <summary>VIRTIO_NET_S_ANNOUNCE.</summary>
    public const ushort StatusAnnounce = 2;

    /// <summary>VIRTIO_NET_OK.</summary>
    public const byte Ok = 0;

    /// <summary>VIRTIO_NET_ERR.</summary>
    public const byte Error = 1;

    /// <summary>VIRTIO_NET_CTRL_RX: receive modes, each with a byte, on or off.</summary>
    public const byte ControlReceive = 0;

    /// <summary>VIRTIO_NET_CTRL_MAC.</summary>
    public const byte ControlMac = 1;

    /// <summary>VIRTIO_NET_CTRL_MAC_TABLE_SET.</summary>
    public const byte MacTableSet = 0;

    /// <summary>VIRTIO_NET_CTRL_MAC_ADDR_SET.</summary>
    public const byte MacAddressSet = 1;

    /// <summary>VIRTIO_NET_CTRL_VLAN.</summary>
    public const byte ControlVlan = 2;

    /// <summary>VIRTIO_NET_CTRL_VLAN_ADD.</summary>
    public const byte VlanAdd = 0;

    /// <summary>VIRTIO_NET_CTRL_VLAN_DEL.</summary>
    public const byte VlanDelete = 1;

    /// <summary>VIRTIO_NET_CTRL_ANNOUNCE.</summary>
    public const byte ControlAnnounce = 3;

    /// <summary>VIRTIO_NET_CTRL_ANNOUNCE_ACK.</summary>
    public const byte AnnounceAcknowledge = 0;

    /// <summary>VIRTIO_NET_CTRL_MQ.</summary>
    public const byte ControlMultiQueue = 4;

    /// <summary>VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET.</summary>
    public const byte PairsSet = 0;

    /// <summary>VIRTIO_NET_CTRL_GUEST_OFFLOADS.</summary>
    public const byte ControlGuestOffloads = 5;

    /// <summary>VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET.</summary>
    public const byte GuestOffloadsSet = 0;

    /// <summary>Descriptors of the control queue.</summary>
    public const ushort ControlQueueSize = 64;

    /// <summary>Most pairs: with the control queue they are within what a device may have.</summary>
    public const int MaximumQueuePairs = 31;

    /// <summary>Longest frame: a packet of 65,536 bytes and its Ethernet header (5.1.6.3.1, whose 65,562 counts the packet header too).</summary>
    public const int MaximumFrame = 65_550;

    /// <summary>Bytes of an Ethernet header: two addresses and the type.</summary>
    public const int EthernetHeader = 14;
}
