namespace Lodge.Cli.Run;

/// <summary>What the default system needs for the disks of a machine.</summary>
/// <param name="Count">Disks that will appear.</param>
/// <param name="Modules">Kernel modules that drive them; those that are built in do not count.</param>
internal sealed record DiskNeeds(int Count, IReadOnlyList<string> Modules)
{
    /// <summary>What the given disks need.</summary>
    public static DiskNeeds Of(IReadOnlyList<DiskOption> disks) => new(disks.Count(disk => !disk.IsPlace), [.. disks.Where(disk => !disk.IsPlace).SelectMany(Drivers).Distinct()]);

    private static IEnumerable<string> Drivers(DiskOption disk) => disk.Bus switch
    {
        DiskBus.Nvme => ["nvme"],
        DiskBus.Scsi => disk.CdRom ? ["virtio_scsi", "sr_mod", "isofs"] : ["virtio_scsi", "sd_mod"],
        _ => ["virtio_blk"],
    };
}
