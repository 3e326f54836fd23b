using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage.Nvme;

/// <summary>How an NVMe controller with one namespace is set up.</summary>
/// <param name="Disk">What holds the namespace's data. The controller does not dispose it.</param>
public sealed record NvmeConfiguration(IDisk Disk)
{
    /// <summary>Serial number (SN); at most 20 ASCII characters count. The namespace's identifiers are derived from it.</summary>
    public string Serial { get; init; } = "";

    /// <summary>Whether the guest may only read; a disk that is read-only itself makes it so.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>Bytes in a logical block: 512 or 4096.</summary>
    public int BlockSize { get; init; } = 512;

    /// <summary>Pairs of I/O queues, 1 to 32: one for each processor is best.</summary>
    public int Queues { get; init; } = 1;

    /// <summary>Whether the guest may deallocate ranges, when the disk can.</summary>
    public bool Discard { get; init; } = true;

    /// <summary>Told of the first failure of each kind that the disk reports. Any thread.</summary>
    public Action<Exception>? Failed { get; init; }
}
