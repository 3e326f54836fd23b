using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Virtio.Block;

/// <summary>How a block device is set up.</summary>
/// <param name="Disk">What holds the data. The device does not dispose it.</param>
public sealed record VirtioBlockConfiguration(IDisk Disk)
{
    /// <summary>What the guest reads as the serial number; at most 20 bytes count.</summary>
    public string Serial { get; init; } = "";

    /// <summary>Whether the guest may only read; a disk that is read-only itself makes it so.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>Bytes in a logical block: 512 or 4096. Requests are counted in 512 bytes all the same.</summary>
    public int BlockSize { get; init; } = 512;

    /// <summary>Request queues, 1 to 16: one for each processor is best.</summary>
    public int Queues { get; init; } = 1;

    /// <summary>Whether the guest may discard ranges, when the disk can.</summary>
    public bool Discard { get; init; } = true;

    /// <summary>Told of the first failure of each kind that the disk reports. Any thread.</summary>
    public Action<Exception>? Failed { get; init; }
}
