using System.Collections;

namespace Lodge.Storage.Disks;

/// <summary>
/// Shows faults as a failing drive does. An unreadable sector fails its read after the sectors before it were transferred, and is healed by writing it, as
/// drives then take a spare one (where it fails always, and in ranges up to 8 GiB). A write that fails has written the sectors before the bad one. A torn write
/// succeeds, but its last sectors keep their old content; a single sector is never torn. Random decisions follow from the seed and the order of requests.
/// </summary>
public sealed class FaultInjectingDisk : FilterDisk
{
    private const int Sector = DiskFault.SectorLength;
    private const long MostHealed = (8L << 30) / Sector;
    private readonly Lock _gate = new();
    private readonly Random _random;
    private readonly Fault[] _faults;
    private readonly TimeProvider _time;

    /// <summary>Takes ownership of <paramref name="inner"/>.</summary>
    public FaultInjectingDisk(IDisk inner, IEnumerable<DiskFault> faults, int seed = 1, TimeProvider? time = null)
        : base(inner)
    {
        _random = new Random(seed);
        _faults = [.. faults.Select(fault => new Fault(fault))];
        _time = time ?? TimeProvider.System;
    }

    /// <inheritdoc/>
    public override async ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        await DelayAsync(offset, destination.Length, cancellation).ConfigureAwait(false);
        var bad = FindBad(DiskFaultKind.ReadError, offset, destination.Length);
        if (bad < 0)
        {
            await Inner.ReadAsync(offset, destination, cancellation).ConfigureAwait(false);
            return;
        }

        await Inner.ReadAsync(offset, destination.Slice(0, Math.Max(0, (bad * Sector) - offset)), cancellation).ConfigureAwait(false);
        throw new DiskException(DiskError.InputOutput, $"injected fault: sector {bad} cannot be read");
    }

    /// <inheritdoc/>
    public override async ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, source.Length);
        await DelayAsync(offset, source.Length, cancellation).ConfigureAwait(false);
        var bad = FindBad(DiskFaultKind.WriteError, offset, source.Length);
        var arrives = bad >= 0 ? Math.Max(0, (bad * Sector) - offset) : Tear(offset, source.Length);
        await Inner.WriteAsync(offset, source.Slice(0, arrives), options, cancellation).ConfigureAwait(false);
        Heal(offset, arrives);
        if (bad >= 0)
        {
            throw new DiskException(DiskError.InputOutput, $"injected fault: sector {bad} cannot be written");
        }
    }

    /// <inheritdoc/>
    public override async ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        await DelayAsync(offset, length, cancellation).ConfigureAwait(false);
        var bad = FindBad(DiskFaultKind.WriteError, offset, length);
        var arrives = bad >= 0 ? Math.Max(0, (bad * Sector) - offset) : Tear(offset, length);
        await Inner.ZeroAsync(offset, arrives, options, cancellation).ConfigureAwait(false);
        Heal(offset, arrives);
        if (bad >= 0)
        {
            throw new DiskException(DiskError.InputOutput, $"injected fault: sector {bad} cannot be written");
        }
    }

    /// <inheritdoc/>
    public override async ValueTask FlushAsync(CancellationToken cancellation = default)
    {
        await DelayAsync(0, long.MaxValue, cancellation).ConfigureAwait(false);
        if (FindBad(DiskFaultKind.FlushError, 0, long.MaxValue) >= 0)
        {
            throw new DiskException(DiskError.InputOutput, "injected fault: the flush fails");
        }

        await Inner.FlushAsync(cancellation).ConfigureAwait(false);
    }

    // Flushes have no place: only delays of the whole disk concern them.
    private async ValueTask DelayAsync(long offset, long length, CancellationToken cancellation)
    {
        var time = TimeSpan.Zero;
        foreach (var fault in _faults)
        {
            if (fault.What.Kind == DiskFaultKind.Delay && (length != long.MaxValue || fault.What.IsEverywhere) && Touches(fault.What, offset, length) && Strikes(fault.What))
            {
                time += fault.What.Time;
            }
        }

        if (time > TimeSpan.Zero)
        {
            await Task.Delay(time, _time, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>The first sector of the range that fails, or -1.</summary>
    private long FindBad(DiskFaultKind kind, long offset, long length)
    {
        var found = -1L;
        foreach (var fault in _faults)
        {
            if (fault.What.Kind != kind || length == 0 || !Touches(fault.What, offset, length) || !Strikes(fault.What))
            {
                continue;
            }

            var first = Math.Max(offset / Sector, fault.What.FirstSector);
            var last = Math.Min((offset + length - 1) / Sector, fault.What.LastSector);
            var bad = fault.What.IsEverywhere && length != long.MaxValue ? Pick(first, last) : fault.FirstUnhealed(first, last, _gate);
            found = bad >= 0 && (found < 0 || bad < found) ? bad : found;
        }

        return found;
    }

    private long Pick(long first, long last)
    {
        lock (_gate)
        {
            return _random.NextInt64(first, last + 1);
        }
    }

    /// <summary>Bytes of a write that arrive.</summary>
    private long Tear(long offset, long length)
    {
        var firstWhole = (offset + Sector) / Sector;
        var lastEnd = (offset + length - 1) / Sector;
        foreach (var fault in _faults)
        {
            if (fault.What.Kind == DiskFaultKind.TornWrite && length > 0 && firstWhole <= lastEnd && Touches(fault.What, offset, length) && Strikes(fault.What))
            {
                return (Pick(firstWhole, lastEnd) * Sector) - offset;
            }
        }

        return length;
    }

    private void Heal(long offset, long length)
    {
        foreach (var fault in _faults)
        {
            if (fault.What is { Kind: DiskFaultKind.ReadError, Rate: 1, IsEverywhere: false })
            {
                fault.Heal((offset + Sector - 1) / Sector, ((offset + length) / Sector) - 1, _gate);
            }
        }
    }

    private bool Strikes(DiskFault fault)
    {
        if (fault.Rate >= 1)
        {
            return true;
        }

        lock (_gate)
        {
            return _random.NextDouble() < fault.Rate;
        }
    }

    private static bool Touches(DiskFault fault, long offset, long length) =>
        length > 0 && offset / Sector <= fault.LastSector && (offset + length - 1) / Sector >= fault.FirstSector;

    private sealed class Fault(DiskFault what)
    {
        private BitArray? _healed;

        public DiskFault What => what;

        public long FirstUnhealed(long first, long last, Lock gate)
        {
            lock (gate)
            {
                for (var sector = first; sector <= last && _healed is not null; sector++)
                {
                    if (!_healed[(int)(sector - what.FirstSector)])
                    {
                        return sector;
                    }
                }

                return _healed is null ? first : -1;
            }
        }

        public void Heal(long first, long last, Lock gate)
        {
            var sectors = what.LastSector - what.FirstSector + 1;
            (first, last) = (Math.Max(first, what.FirstSector), Math.Min(last, what.LastSector));
            if (first > last || sectors > MostHealed)
            {
                return;
            }

            lock (gate)
            {
                _healed ??= new BitArray((int)sectors);
                for (var sector = first; sector <= last; sector++)
                {
                    _healed[(int)(sector - what.FirstSector)] = true;
                }
            }
        }
    }
}
