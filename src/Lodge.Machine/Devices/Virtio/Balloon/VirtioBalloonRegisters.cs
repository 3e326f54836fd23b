namespace Lodge.Machine.Devices.Virtio.Balloon;

/// <summary>Constants of the balloon device (virtio 1.2, 5.5).</summary>
internal static class VirtioBalloonRegisters
{
    /// <summary>VIRTIO_BALLOON_F_STATS_VQ.</summary>
    public const ulong FeatureStatistics = 1UL << 1;

    /// <summary>VIRTIO_BALLOON_F_DEFLATE_ON_OOM.</summary>
    public const ulong FeatureDeflateOnOom = 1UL << 2;

    /// <summary>VIRTIO_BALLOON_F_PAGE_POISON.</summary>
    public const ulong FeaturePagePoison = 1UL << 4;

    /// <summary>VIRTIO_BALLOON_F_PAGE_REPORTING.</summary>
    public const ulong FeatureReporting = 1UL << 5;

    /// <summary>Configuration: num_pages, le32, pages wanted in the balloon.</summary>
    public const int NumPages = 0;

    /// <summary>Configuration: actual, le32, pages in the balloon; the driver writes it.</summary>
    public const int Actual = 4;

    /// <summary>Configuration: poison_val, le32; the driver writes it. At 8 lies free_page_hint_cmd_id, of a feature that is not offered.</summary>
    public const int PoisonValue = 12;

    /// <summary>Bytes of configuration.</summary>
    public const int ConfigurationLength = 16;

    /// <summary>Shift of a page frame number, whatever the guest's page size.</summary>
    public const int PageShift = 12;

    public const int InflateQueue = 0;
    public const int DeflateQueue = 1;
    public const ushort QueueSize = 128;

    /// <summary>Most bytes of page frame numbers in one request; drivers send 256 or 1024 numbers.</summary>
    public const uint MaximumRequest = 4096 * sizeof(uint);

    /// <summary>Bytes of an entry in the statistics buffer: tag le16, value le64.</summary>
    public const int StatisticLength = 10;

    /// <summary>Entries of the statistics buffer that are looked at.</summary>
    public const int MaximumStatistics = 64;
}
