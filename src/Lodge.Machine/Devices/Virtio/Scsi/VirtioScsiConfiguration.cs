using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Virtio.Scsi;

/// <summary>A target of a SCSI controller: one logical unit.</summary>
/// <param name="Disk">What holds the data; null only for a CD-ROM drive: it is empty. The device does not dispose it.</param>
/// <param name="CdRom">A CD-ROM drive; else a disk.</param>
public sealed record ScsiTargetConfiguration(IDisk? Disk, bool CdRom = false)
{
    /// <summary>Serial number; the unit's identifier is derived from it.</summary>
    public string Serial { get; init; } = "";

    /// <summary>Whether the guest may only read; a disk that is read-only itself makes it so.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>Bytes in a logical block of a disk: 512 or 4096.</summary>
    public int BlockSize { get; init; } = 512;

    /// <summary>Whether the guest may unmap ranges, when the disk can.</summary>
    public bool Discard { get; init; } = true;
}

/// <summary>How a SCSI controller is set up.</summary>
/// <param name="Targets">Targets 0, 1, ... at power-on, at most 255.</param>
public sealed record VirtioScsiConfiguration(IReadOnlyList<ScsiTargetConfiguration> Targets)
{
    /// <summary>Request queues, 1 to 16: one for each processor is best.</summary>
    public int Queues { get; init; } = 1;

    /// <summary>Told of the first failure of each kind that a disk reports. Any thread.</summary>
    public Action<Exception>? Failed { get; init; }
}
