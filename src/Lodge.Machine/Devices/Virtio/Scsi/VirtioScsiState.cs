using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Virtio.Scsi;

/// <summary>Saved state of a target's unit.</summary>
/// <param name="Target">Number of the target.</param>
/// <param name="CdRom">What it is.</param>
/// <param name="Attention">Pending unit attention: sense key, code and qualifier in 24 bits.</param>
/// <param name="Flags">Disk: bit 0 write cache. CD-ROM: bit 1 tray open, bit 2 locked.</param>
public sealed record ScsiUnitState(int Target, bool CdRom, uint Attention, byte Flags) : ISavedState<ScsiUnitState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, (ulong)Target);
        writer.Bool(2, CdRom);
        writer.UInt64(3, Attention);
        writer.UInt64(4, Flags);
    }

    /// <inheritdoc/>
    public static ScsiUnitState Read(StateReader reader) =>
        new(reader.Int32(1, 0, VirtioScsiRequests.MaximumTargets - 1), reader.Bool(2), reader.UInt32(3, 0, 0xFF_FFFF), reader.UInt8(4, 0, 7));
}

/// <summary>Saved state of a SCSI controller beside its queues. No command is in flight when it is taken.</summary>
/// <param name="SenseSize">sense_size.</param>
/// <param name="CdbSize">cdb_size.</param>
/// <param name="Missed">Whether events were lost for want of buffers.</param>
/// <param name="Events">Events not told yet, four numbers each: event, target, reason, 0.</param>
/// <param name="Units">The targets' units.</param>
public sealed record VirtioScsiState(int SenseSize, int CdbSize, bool Missed, IReadOnlyList<ulong> Events, IReadOnlyList<ScsiUnitState> Units) : ISavedState<VirtioScsiState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <summary>The state after power-on.</summary>
    public static VirtioScsiState PowerOn { get; } = new(VirtioScsiRequests.MaximumSenseSize, VirtioScsiRequests.MaximumCdbSize, false, [], []);

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, (ulong)SenseSize);
        writer.UInt64(2, (ulong)CdbSize);
        writer.Bool(3, Missed);
        writer.UInt64(4, (ulong)Events.Count);
        writer.UInt64Array(5, [.. Events]);
        foreach (ScsiUnitState unit in Units)
        {
            writer.Nested(6, unit);
        }
    }

    /// <inheritdoc/>
    public static VirtioScsiState Read(StateReader reader) => new(
        reader.Int32(1, VirtioScsiRequests.MaximumSenseSize, VirtioScsiRequests.MaximumSenseSize),
        reader.Int32(2, VirtioScsiRequests.MaximumCdbSize, VirtioScsiRequests.MaximumCdbSize),
        reader.Bool(3),
        reader.UInt64Array(5, reader.Int32(4, 0, VirtioScsiRequests.MaximumEvents * 4)),
        reader.NestedList<ScsiUnitState>(6, VirtioScsiRequests.MaximumTargets));
}
