namespace Lodge.Machine.Buses;

/// <summary>
/// A region's place in an <see cref="AddressSpace"/>: the handle by which it is moved or taken away. All members are written by the address space
/// under its lock.
/// </summary>
public sealed class MappedRegion
{
    internal MappedRegion(RegionClaim claim, bool movable)
    {
        Claim = claim;
        Movable = movable;
        Base = claim.Base;
    }

    /// <summary>What was mapped; its <see cref="RegionClaim.Base"/> is the first one.</summary>
    public RegionClaim Claim { get; }

    /// <summary>Where it is mapped now.</summary>
    public ulong Base { get; internal set; }

    /// <summary>Whether the guest moves it (a BAR); such a region yields to whatever was there before.</summary>
    public bool Movable { get; }

    /// <summary>Whether it is in the space at all, reachable or not.</summary>
    public bool IsMapped { get; internal set; }

    /// <summary>Whether accesses arrive: false while a movable region overlaps something or leaves the space.</summary>
    public bool IsReachable { get; internal set; }
}
