namespace Lodge.Storage.Tests.Kill;

/// <summary>
/// What a disk may hold after its writer was killed, from the messages that came: of each sector the content that was surely kept, or any that was written later.
/// </summary>
public sealed class KillModel(KillPlan plan, int seed, byte[] initial, long initialLength)
{
    private const int Sector = 512;
    private readonly Dictionary<long, List<Version>> _sectors = [];
    private readonly HashSet<long> _unsettled = [];
    private readonly List<(long Length, int End)> _lengths = [(initialLength, 0)];
    private readonly Dictionary<int, Snapshot> _snapshots = [];
    private readonly Dictionary<(int Worker, int Number), (KillOperation Operation, int Begun, List<Version> Versions)> _running = [];
    private int _record;

    /// <summary>Sizes that the disk may have.</summary>
    public IEnumerable<long> Lengths => _lengths.Select(length => length.Length);

    /// <summary>Requests that were acknowledged.</summary>
    public int Completed { get; private set; }

    /// <summary>Flushes and what else makes durable that were acknowledged.</summary>
    public int Flushes { get; private set; }

    /// <summary>Takes all messages of a writer, in their order.</summary>
    public void Take(IEnumerable<KillRecord> records)
    {
        var workers = Enumerable.Range(0, plan.Workers).Select(worker => plan.Of(worker).GetEnumerator()).ToArray();
        var closing = 0;
        foreach (var record in records)
        {
            _record++;
            switch (record.Event)
            {
                case KillEvent.Begin:
                    workers[record.Worker].MoveNext();
                    Begin(record.Worker, workers[record.Worker].Current);
                    break;
                case KillEvent.End:
                    End(record.Worker, record.Number);
                    break;
                case KillEvent.CloseBegin:
                    closing = _record;
                    break;
                case KillEvent.CloseEnd:
                    Settle(closing);
                    break;
            }
        }
    }

    /// <summary>Compares a disk that was read whole, but for a range; null, or what is wrong.</summary>
    public string? Compare(ReadOnlySpan<byte> content, long except = -1, int exceptLength = 0)
    {
        for (long sector = 0; (sector + 1) * Sector <= content.Length; sector++)
        {
            if (sector * Sector < except + exceptLength && (sector + 1) * Sector > except)
            {
                continue;
            }

            var found = content.Slice((int)(sector * Sector), Sector);
            if (!_sectors.TryGetValue(sector, out var versions))
            {
                if (!found.SequenceEqual(Initial(sector)))
                {
                    return $"sector {sector} was never written and has changed";
                }
            }
            else if (Explain(sector, found, versions) is { } wrong)
            {
                return wrong;
            }
        }

        return null;
    }

    /// <summary>Compares the sectors that were written, by a function that reads one or gives null for one that does not matter.</summary>
    public async Task<string?> CompareAsync(Func<long, Task<byte[]?>> read)
    {
        foreach (var (sector, versions) in _sectors)
        {
            if (await read(sector) is { } found && Explain(sector, found, versions) is { } wrong)
            {
                return wrong;
            }
        }

        return null;
    }

    /// <summary>The snapshots that must be there, and those that may.</summary>
    public (HashSet<string> Must, HashSet<string> May) SnapshotNames() =>
        ([.. _snapshots.Where(pair => pair.Value.Made && !pair.Value.Going).Select(pair => $"s{pair.Key}")], [.. _snapshots.Where(pair => !pair.Value.Gone).Select(pair => $"s{pair.Key}")]);

    /// <summary>Compares a snapshot; null, or what is wrong.</summary>
    public string? CompareSnapshot(string name, ReadOnlySpan<byte> content)
    {
        var snapshot = _snapshots[int.Parse(name.AsSpan(1))];
        if (content.Length != snapshot.Length)
        {
            return $"the snapshot {name} has {content.Length} bytes, not {snapshot.Length}";
        }

        for (long sector = 0; (sector + 1) * Sector <= content.Length; sector++)
        {
            var expected = snapshot.Content.TryGetValue(sector, out var bytes) ? bytes : Initial(sector).ToArray();
            if (!content.Slice((int)(sector * Sector), Sector).SequenceEqual(expected))
            {
                return $"sector {sector} of the snapshot {name} is wrong";
            }
        }

        return null;
    }

    private ReadOnlySpan<byte> Initial(long sector) => (sector + 1) * Sector <= Math.Min(initial.Length, initialLength) ? initial.AsSpan((int)(sector * Sector), Sector) : Zero;

    private static ReadOnlySpan<byte> Zero => ZeroSector;

    private static readonly byte[] ZeroSector = new byte[Sector];

    private string? Explain(long sector, ReadOnlySpan<byte> found, List<Version> versions)
    {
        foreach (var version in versions)
        {
            if (found.SequenceEqual(version.Content))
            {
                return null;
            }
        }

        var what = !found.ContainsAnyExcept((byte)0) ? "is zero" : found.SequenceEqual(Initial(sector)) ? "has the first content" : "has a content that it never had";
        return $"sector {sector} {what}; it was to have that of {string.Join(" or ", versions.Select(version => version.Origin))}";
    }

    private void Begin(int worker, KillOperation operation)
    {
        var versions = new List<Version>();
        _running[(worker, operation.Number)] = (operation, _record, versions);
        var origin = $"{operation.Action} {operation.Number} of {worker} at {operation.Offset}, {operation.Length} bytes";
        switch (operation.Action)
        {
            case KillAction.Write or KillAction.WriteThrough or KillAction.Compressed or KillAction.Zero or KillAction.ZeroKeeping or KillAction.Discard:
                var bytes = new byte[operation.Length];
                if (operation.Action is KillAction.Write or KillAction.WriteThrough or KillAction.Compressed)
                {
                    KillPlan.Fill(bytes, seed, worker, operation);
                }

                for (var at = operation.Offset; at < operation.Offset + operation.Length;)
                {
                    var sector = at / Sector;
                    var within = (int)(at % Sector);
                    var part = (int)Math.Min(Sector - within, operation.Offset + operation.Length - at);
                    var content = part == Sector ? new byte[Sector] : Latest(sector).ToArray();
                    bytes.AsSpan((int)(at - operation.Offset), part).CopyTo(content.AsSpan(within));
                    Add(sector, new Version(content, origin, operation.Action == KillAction.Discard), versions);
                    at += part;
                }

                break;
            case KillAction.CreateSnapshot:
                _snapshots[operation.Snapshot] = new Snapshot(_sectors.ToDictionary(pair => pair.Key, pair => pair.Value[^1].Content), _lengths[^1].Length);
                break;
            case KillAction.ApplySnapshot:
                var applied = _snapshots[operation.Snapshot];
                foreach (var sector in _sectors.Keys.ToArray())
                {
                    Add(sector, new Version(applied.Content.TryGetValue(sector, out var kept) ? kept : Initial(sector).ToArray(), origin, false), versions);
                }

                _lengths.Add((applied.Length, -1));
                break;
            case KillAction.DeleteSnapshot:
                _snapshots[operation.Snapshot].Going = true;
                break;
            case KillAction.Resize:
                // What is cut off comes back as zeroes, and so does what is added over a parent.
                var (from, to) = (Math.Min(operation.Offset, _lengths[^1].Length) / Sector, Math.Max(operation.Offset, _lengths[^1].Length) / Sector);
                for (var sector = from; sector < to; sector++)
                {
                    Add(sector, new Version(ZeroSector, origin, false), versions);
                }

                _lengths.Add((operation.Offset, -1));
                break;
        }
    }

    private void End(int worker, int number)
    {
        var (operation, begun, versions) = _running[(worker, number)];
        _running.Remove((worker, number));
        Completed++;
        versions.ForEach(version => version.End = _record);
        switch (operation.Action)
        {
            case KillAction.Flush:
                Settle(begun);
                break;
            case KillAction.WriteThrough:
                // Its own bytes are durable.
                Flushes++;
                for (var sector = operation.Offset / Sector; sector * Sector < operation.Offset + operation.Length; sector++)
                {
                    Prune(sector, _record);
                }

                break;
            case KillAction.CreateSnapshot:
                _snapshots[operation.Snapshot].Made = true;
                Settle(begun);
                break;
            case KillAction.DeleteSnapshot:
                _snapshots[operation.Snapshot].Gone = true;
                break;
            case KillAction.ApplySnapshot or KillAction.Resize:
                // Durable by itself.
                _lengths[^1] = _lengths[^1] with { End = _record };
                Settle(_record);
                break;
        }
    }

    private void Add(long sector, Version version, List<Version> versions)
    {
        if (!_sectors.TryGetValue(sector, out var known))
        {
            _sectors[sector] = known = [new Version(Initial(sector).ToArray(), "the first content", false) { End = 0 }];
        }

        known.Add(version);
        versions.Add(version);
        _unsettled.Add(sector);
    }

    private ReadOnlySpan<byte> Latest(long sector) => _sectors.TryGetValue(sector, out var versions) ? versions[^1].Content : Initial(sector);

    /// <summary>All that ended before message <paramref name="before"/> is durable.</summary>
    private void Settle(int before)
    {
        Flushes++;
        _unsettled.RemoveWhere(sector => Prune(sector, before));
        var last = _lengths.FindLastIndex(length => length.End >= 0 && length.End <= before);
        _lengths.RemoveRange(0, last);
    }

    private bool Prune(long sector, int before)
    {
        var versions = _sectors[sector];
        var last = versions.FindLastIndex(version => version.End >= 0 && version.End <= before);

        // A discard leaves the old or zeroes: what was before it stays possible.
        while (last > 0 && versions[last].Weak)
        {
            last--;
        }

        versions.RemoveRange(0, Math.Max(last, 0));
        return versions.Count == 1;
    }

    /// <summary>A content of a sector.</summary>
    private sealed class Version(byte[] content, string origin, bool weak)
    {
        public byte[] Content => content;

        public string Origin => origin;

        public bool Weak => weak;

        /// <summary>The message that acknowledged it, or -1.</summary>
        public int End { get; set; } = -1;
    }

    private sealed class Snapshot(Dictionary<long, byte[]> content, long length)
    {
        public Dictionary<long, byte[]> Content => content;

        public long Length => length;

        public bool Made { get; set; }

        public bool Going { get; set; }

        public bool Gone { get; set; }
    }
}
