namespace Lodge.Machine.Devices.Virtio.Block;

/// <summary>Constants of the block device (virtio 1.2, 5.2): features, configuration, requests.</summary>
internal static class VirtioBlockRequests
{
    /// <summary>VIRTIO_BLK_F_SIZE_MAX.</summary>
    public const ulong FeatureSizeMax = 1UL << 1;

    /// <summary>VIRTIO_BLK_F_SEG_MAX.</summary>
    public const ulong FeatureSegMax = 1UL << 2;

    /// <summary>VIRTIO_BLK_F_RO.</summary>
    public const ulong FeatureReadOnly = 1UL << 5;

    /// <summary>VIRTIO_BLK_F_BLK_SIZE.</summary>
    public const ulong FeatureBlockSize = 1UL << 6;

    /// <summary>VIRTIO_BLK_F_FLUSH.</summary>
    public const ulong FeatureFlush = 1UL << 9;

    /// <summary>VIRTIO_BLK_F_TOPOLOGY.</summary>
    public const ulong FeatureTopology = 1UL << 10;

    /// <summary>VIRTIO_BLK_F_CONFIG_WCE.</summary>
    public const ulong FeatureConfigWce = 1UL << 11;

    /// <summary>VIRTIO_BLK_F_MQ.</summary>
    public const ulong FeatureMultiQueue = 1UL << 12;

    /// <summary>VIRTIO_BLK_F_DISCARD.</summary>
    public const ulong FeatureDiscard = 1UL << 13;

    /// <summary>VIRTIO_BLK_F_WRITE_ZEROES.</summary>
    public const ulong FeatureWriteZeroes = 1UL << 14;

    /// <summary>Configuration: capacity, le64, in sectors.</summary>
    public const int Capacity = 0;

    /// <summary>Configuration: size_max, le32.</summary>
    public const int SizeMax = 8;

    /// <summary>Configuration: seg_max, le32.</summary>
    public const int SegMax = 12;

    /// <summary>Configuration: blk_size, le32. At 16 lies the geometry, of a feature that is not offered.</summary>
    public const int BlockSize = 20;

    /// <summary>Configuration: topology.physical_block_exp, u8.</summary>
    public const int PhysicalBlockExponent = 24;

    /// <summary>Configuration: topology.min_io_size, le16, in logical blocks.</summary>
    public const int MinimumIoSize = 26;

    /// <summary>Configuration: writeback, u8; the driver writes it.</summary>
    public const int Writeback = 32;

    /// <summary>Configuration: num_queues, le16.</summary>
    public const int QueueCount = 34;

    /// <summary>Configuration: max_discard_sectors, le32.</summary>
    public const int MaximumDiscardSectors = 36;

    /// <summary>Configuration: max_discard_seg, le32.</summary>
    public const int MaximumDiscardSegments = 40;

    /// <summary>Configuration: discard_sector_alignment, le32.</summary>
    public const int DiscardSectorAlignment = 44;

    /// <summary>Configuration: max_write_zeroes_sectors, le32.</summary>
    public const int MaximumWriteZeroesSectors = 48;

    /// <summary>Configuration: max_write_zeroes_seg, le32.</summary>
    public const int MaximumWriteZeroesSegments = 52;

    /// <summary>Configuration: write_zeroes_may_unmap, u8.</summary>
    public const int WriteZeroesMayUnmap = 56;

    /// <summary>Bytes of configuration.</summary>
    public const int ConfigurationLength = 60;

    /// <summary>VIRTIO_BLK_T_IN.</summary>
    public const uint In = 0;

    /// <summary>VIRTIO_BLK_T_OUT.</summary>
    public const uint Out = 1;

    /// <summary>VIRTIO_BLK_T_FLUSH.</summary>
    public const uint Flush = 4;

    /// <summary>VIRTIO_BLK_T_GET_ID.</summary>
    public const uint GetId = 8;

    /// <summary>VIRTIO_BLK_T_DISCARD.</summary>
    public const uint Discard = 11;

    /// <summary>VIRTIO_BLK_T_WRITE_ZEROES.</summary>
    public const uint WriteZeroes = 13;

    /// <summary>VIRTIO_BLK_S_OK.</summary>
    public const byte StatusOk = 0;

    /// <summary>VIRTIO_BLK_S_IOERR.</summary>
    public const byte StatusIoError = 1;

    /// <summary>VIRTIO_BLK_S_UNSUPP.</summary>
    public const byte StatusUnsupported = 2;

    /// <summary>Bytes that a sector number counts, whatever the block size.</summary>
    public const int SectorSize = 512;

    /// <summary>Bytes of a request before its data: type le32, reserved le32, sector le64.</summary>
    public const int HeaderLength = 16;

    /// <summary>Bytes of the serial number (VIRTIO_BLK_ID_BYTES).</summary>
    public const int IdLength = 20;

    /// <summary>Bytes of a discard or write zeroes range: sector le64, num_sectors le32, flags le32 (bit 0: unmap).</summary>
    public const int RangeLength = 16;

    /// <summary>Flag of a range: it may be deallocated.</summary>
    public const uint RangeUnmap = 1;

    /// <summary>Descriptors of a queue: a request of 1 MiB in single pages fits.</summary>
    public const ushort QueueSize = 512;

    /// <summary>Most request queues.</summary>
    public const int MaximumQueues = 16;

    /// <summary>Buffers of a request beside header and status.</summary>
    public const uint MaximumSegments = QueueSize - 2;

    /// <summary>Bytes of one buffer.</summary>
    public const uint MaximumSegmentSize = 128 << 10;

    /// <summary>Bytes of data that a request may have; drivers that keep to seg_max and size_max stay below.</summary>
    public const uint MaximumTransfer = 64 << 20;

    /// <summary>Bytes in flight from which no further request is begun: disks that must buffer do so within bounds.</summary>
    public const long MaximumBytesInFlight = 256 << 20;

    /// <summary>Sectors in a range to be discarded or made zero (1 GiB).</summary>
    public const uint MaximumRangeSectors = 1 << 21;

    /// <summary>Ranges in a discard or write zeroes request.</summary>
    public const uint MaximumRanges = 16;
}
