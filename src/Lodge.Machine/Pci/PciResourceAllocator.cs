namespace Lodge.Machine.Pci;

/// <summary>
/// Chooses BAR addresses as firmware would: naturally aligned, first fit, 64-bit BARs above RAM when there is a window, everything else below 4 GiB.
/// What is once given stays until the function is removed, so that a rebooted machine looks the same.
/// </summary>
internal sealed class PciResourceAllocator(PciBusConfiguration configuration)
{
    private const ulong Page = 4096;
    private readonly Dictionary<PciFunction, ulong[]> _assigned = [];
    private readonly Lock _gate = new();

    /// <summary>Addresses by position in <see cref="PciFunction.Bars"/>.</summary>
    /// <exception cref="InvalidOperationException">A window is too small.</exception>
    public ulong[] Assign(PciFunction function)
    {
        lock (_gate)
        {
            if (_assigned.TryGetValue(function, out ulong[]? addresses))
            {
                return addresses;
            }
            addresses = new ulong[function.Bars.Count];
            for (int i = 0; i < addresses.Length; i++)
            {
                addresses[i] = Find(function.Bars[i], function, addresses.AsSpan(0, i))
                    ?? throw new InvalidOperationException($"no room for BAR {function.Bars[i].Index} of {function.Name}");
            }
            _assigned[function] = addresses;
            return addresses;
        }
    }

    /// <summary>What was assigned before, or null.</summary>
    public ulong[]? Assigned(PciFunction function)
    {
        lock (_gate)
        {
            return _assigned.GetValueOrDefault(function);
        }
    }

    /// <summary>Gives the addresses of a removed function back.</summary>
    public void Release(PciFunction function)
    {
        lock (_gate)
        {
            _assigned.Remove(function);
        }
    }

    private ulong? Find(PciBar bar, PciFunction function, ReadOnlySpan<ulong> earlier)
    {
        if (bar.Kind == PciBarKind.Io)
        {
            return FindIn(configuration.Ports, bar, bar.Length, function, earlier);
        }
        ulong alignment = Math.Max(bar.Length, Page);   // a page for each BAR: what a guest maps for one shows nothing of another
        if (bar.Kind == PciBarKind.Memory64 && FindIn(configuration.HighMemory, bar, alignment, function, earlier) is { } high)
        {
            return high;
        }
        foreach (PciWindow window in configuration.LowMemory)
        {
            if (FindIn(window, bar, alignment, function, earlier) is { } low)
            {
                return low;
            }
        }
        return null;
    }

    private ulong? FindIn(PciWindow window, PciBar bar, ulong alignment, PciFunction function, ReadOnlySpan<ulong> earlier)
    {
        ulong at = Align(window.Base, alignment);
        while (at >= window.Base && at - window.Base < window.Length && bar.Length <= window.Length - (at - window.Base))
        {
            ulong? obstacle = ObstacleEnd(bar, at, function, earlier);
            if (obstacle is not { } end)
            {
                return at;
            }
            at = Align(end, alignment);
        }
        return null;
    }

    private ulong? ObstacleEnd(PciBar bar, ulong at, PciFunction function, ReadOnlySpan<ulong> earlier)
    {
        for (int i = 0; i < earlier.Length; i++)
        {
            if (Overlaps(bar, at, function.Bars[i], earlier[i]))
            {
                return earlier[i] + function.Bars[i].Length;
            }
        }
        foreach ((PciFunction other, ulong[] addresses) in _assigned)
        {
            for (int i = 0; i < addresses.Length; i++)
            {
                if (Overlaps(bar, at, other.Bars[i], addresses[i]))
                {
                    return addresses[i] + other.Bars[i].Length;
                }
                if (other.Bars[i].MappedAt is { } moved && Overlaps(bar, at, other.Bars[i], moved))
                {
                    return moved + other.Bars[i].Length; // where the guest has put it, perhaps before a restore
                }
            }
        }
        return null;
    }

    private static bool Overlaps(PciBar bar, ulong at, PciBar other, ulong otherAt) =>
        bar.Claim.Space == other.Claim.Space && at < otherAt + other.Length && otherAt < at + bar.Length;

    private static ulong Align(ulong value, ulong alignment) => (value + alignment - 1) & ~(alignment - 1);
}
