namespace Lodge.Machine.Buses;

/// <summary>
/// The ports or the physical memory of a machine, and who answers where.
/// <para>
/// Look-up takes no lock: it searches an immutable sorted table that every change replaces as a whole. An access that another thread's change
/// overtakes may still arrive at the region's former place.
/// </para>
/// <para>
/// Lock order: a device's lock, then this space's lock (taken by <see cref="Map"/>, <see cref="MapMovable"/>, <see cref="Remap"/> and
/// <see cref="Unmap"/> only). No lock is held while a handler runs, so that a handler may change the map and may defer.
/// </para>
/// <para>
/// Fixed regions (chipset) must not overlap each other: that is a fault of the machine's builder and throws. Movable regions (PCI BARs) are
/// placed by the guest, never throw, and are unreachable as a whole while they overlap a fixed region or a movable region that was placed
/// earlier, or reach beyond the space; they become reachable as soon as the obstacle goes.
/// </para>
/// </summary>
public sealed class AddressSpace
{
    private readonly Lock _gate = new();
    private readonly List<MappedRegion> _fixed = [];
    private readonly List<MappedRegion> _movable = []; // in the order in which they were placed
    private readonly RegionSpace _space;
    private readonly ulong _last;
    private Entry[] _table = [];

    /// <summary>Creates an empty space.</summary>
    /// <param name="space">Which of the two spaces it is; claims for the other are refused.</param>
    public AddressSpace(RegionSpace space)
    {
        _space = space;
        _last = space == RegionSpace.Port ? 0xFFFF : ulong.MaxValue;
    }

    /// <summary>The regions that can be reached now, by address.</summary>
    public IReadOnlyList<(ulong Base, RegionClaim Claim)> Regions =>
        Array.ConvertAll(Volatile.Read(ref _table), entry => (entry.Base, entry.Region.Claim));

    /// <summary>Maps a fixed region.</summary>
    /// <exception cref="ArgumentException">It is empty, lies outside the space, is meant for the other space or overlaps a fixed region.</exception>
    public MappedRegion Map(RegionClaim claim)
    {
        MappedRegion region = Create(claim, movable: false);
        lock (_gate)
        {
            if (!Fits(region))
            {
                throw new ArgumentException($"{claim.Name}: region at {claim.Base:x} of length {claim.Length:x} does not fit the space");
            }
            foreach (MappedRegion other in _fixed)
            {
                if (claim.Base <= Last(other) && other.Base <= Last(region))
                {
                    throw new ArgumentException($"{claim.Name} at {claim.Base:x} overlaps {other.Claim.Name} at {other.Base:x}");
                }
            }
            _fixed.Add(region);
            region.IsMapped = true;
            Rebuild();
        }
        return region;
    }

    /// <summary>Maps a region whose place the guest chooses.</summary>
    /// <exception cref="ArgumentException">It is empty or meant for the other space.</exception>
    public MappedRegion MapMovable(RegionClaim claim)
    {
        MappedRegion region = Create(claim, movable: true);
        lock (_gate)
        {
            _movable.Add(region);
            region.IsMapped = true;
            Rebuild();
        }
        return region;
    }

    /// <summary>Moves a movable region of this space, mapping it again if it was unmapped.</summary>
    /// <exception cref="ArgumentException">The region is a fixed one.</exception>
    public void Remap(MappedRegion region, ulong newBase)
    {
        if (!region.Movable)
        {
            throw new ArgumentException($"{region.Claim.Name} is a fixed region");
        }
        lock (_gate)
        {
            if (region.IsMapped && region.Base == newBase)
            {
                return;
            }
            _movable.Remove(region); // the newcomer yields: it goes to the end of the order
            _movable.Add(region);
            region.Base = newBase;
            region.IsMapped = true;
            Rebuild();
        }
    }

    /// <summary>Takes a region away; nothing happens when it is not mapped.</summary>
    public void Unmap(MappedRegion region)
    {
        lock (_gate)
        {
            if (region.IsMapped)
            {
                (region.Movable ? _movable : _fixed).Remove(region);
                region.IsMapped = false;
                region.IsReachable = false;
                Rebuild();
            }
        }
    }

    /// <summary>
    /// Load of 1, 2, 4 or 8 bytes. What nobody claims reads as ones. An access that is not within one region is split into bytes.
    /// </summary>
    public void Read(ulong address, Span<byte> data)
    {
        Entry[] table = Volatile.Read(ref _table);
        int index = Find(table, address);
        if (index >= 0 && (ulong)(data.Length - 1) <= table[index].Last - address)
        {
            Read(table[index], address, data);
            return;
        }
        if (index < 0 && !AnyWithin(table, address, data.Length))
        {
            data.Fill(0xFF);
            return;
        }
        for (int i = 0; i < data.Length; i++)
        {
            Span<byte> one = data.Slice(i, 1);
            index = (ulong)i <= _last - address ? Find(table, address + (ulong)i) : -1;
            if (index >= 0)
            {
                Read(table[index], address + (ulong)i, one);
            }
            else
            {
                one[0] = 0xFF;
            }
        }
    }

    /// <summary>Store of 1, 2, 4 or 8 bytes; dropped where nobody claims it. Split as in <see cref="Read(ulong, Span{byte})"/>.</summary>
    public void Write(ulong address, ReadOnlySpan<byte> data)
    {
        Entry[] table = Volatile.Read(ref _table);
        int index = Find(table, address);
        if (index >= 0 && (ulong)(data.Length - 1) <= table[index].Last - address)
        {
            Write(table[index], address, data);
            return;
        }
        if (index < 0 && !AnyWithin(table, address, data.Length))
        {
            return;
        }
        for (int i = 0; i < data.Length && (ulong)i <= _last - address; i++)
        {
            index = Find(table, address + (ulong)i);
            if (index >= 0)
            {
                Write(table[index], address + (ulong)i, data.Slice(i, 1));
            }
        }
    }

    private static void Read(in Entry entry, ulong address, Span<byte> data)
    {
        DeferredAccess.Forget();
        IoResult result = entry.Region.Claim.Handler.Read(address - entry.Base, data);
        if (result == IoResult.Done)
        {
            return;
        }
        if (result == IoResult.Deferred && DeferredAccess.Take() is { } deferred)
        {
            deferred.Wait(data);
            return;
        }
        data.Fill(0xFF);
    }

    private static void Write(in Entry entry, ulong address, ReadOnlySpan<byte> data)
    {
        DeferredAccess.Forget();
        if (entry.Region.Claim.Handler.Write(address - entry.Base, data) == IoResult.Deferred)
        {
            DeferredAccess.Take()?.Wait([]);
        }
    }

    /// <summary>Index of the entry that holds the address, or the complement of the index of the first entry above it.</summary>
    private static int Find(Entry[] table, ulong address)
    {
        int low = 0;
        int high = table.Length - 1;
        while (low <= high)
        {
            int middle = (low + high) >>> 1;
            ref readonly Entry entry = ref table[middle];
            if (address < entry.Base)
            {
                high = middle - 1;
            }
            else if (address > entry.Last)
            {
                low = middle + 1;
            }
            else
            {
                return middle;
            }
        }
        return ~low;
    }

    private static bool AnyWithin(Entry[] table, ulong address, int length)
    {
        int above = ~Find(table, address);
        return above < table.Length && table[above].Base - address < (ulong)length;
    }

    private MappedRegion Create(RegionClaim claim, bool movable)
    {
        if (claim.Space != _space || claim.Length == 0)
        {
            throw new ArgumentException($"{claim.Name}: {(claim.Length == 0 ? "empty region" : "region of the other space")}");
        }
        return new MappedRegion(claim, movable);
    }

    private bool Fits(MappedRegion region) => region.Base <= _last && region.Claim.Length - 1 <= _last - region.Base;

    private static ulong Last(MappedRegion region) => region.Base + (region.Claim.Length - 1);

    private void Rebuild()
    {
        var entries = new List<Entry>(_fixed.Count + _movable.Count);
        foreach (MappedRegion region in _fixed)
        {
            entries.Add(new Entry(region.Base, Last(region), region));
            region.IsReachable = true;
        }
        entries.Sort(static (a, b) => a.Base.CompareTo(b.Base));
        foreach (MappedRegion region in _movable)
        {
            int at = Fits(region) ? FirstAtOrAbove(entries, region.Base) : -1;
            region.IsReachable = at >= 0
                && (at == 0 || entries[at - 1].Last < region.Base)
                && (at == entries.Count || Last(region) < entries[at].Base);
            if (region.IsReachable)
            {
                entries.Insert(at, new Entry(region.Base, Last(region), region));
            }
        }
        Volatile.Write(ref _table, [.. entries]);
    }

    private static int FirstAtOrAbove(List<Entry> entries, ulong address)
    {
        int low = 0;
        int high = entries.Count;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (entries[middle].Base < address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }
        return low;
    }

    private readonly record struct Entry(ulong Base, ulong Last, MappedRegion Region);
}
