using Lodge.Machine.Buses;

namespace Lodge.Machine.Pci;

/// <summary>Kind of a base address register.</summary>
public enum PciBarKind
{
    /// <summary>I/O ports.</summary>
    Io,

    /// <summary>Memory below 4 GiB.</summary>
    Memory32,

    /// <summary>Memory anywhere; takes two registers.</summary>
    Memory64,
}

/// <summary>A base address register (PCI Local Bus 3.0, 6.2.5.1) and the region behind it.</summary>
public sealed class PciBar
{
    private MappedRegion? _region;

    internal PciBar(string name, int index, PciBarKind kind, ulong length, bool prefetchable, IIoHandler handler)
    {
        Index = index;
        Kind = kind;
        Length = length;
        Prefetchable = prefetchable;
        Claim = new RegionClaim(name, kind == PciBarKind.Io ? RegionSpace.Port : RegionSpace.Memory, 0, length, handler);
    }

    /// <summary>Number of the (first) register, 0 to 5.</summary>
    public int Index { get; }

    /// <summary>Kind.</summary>
    public PciBarKind Kind { get; }

    /// <summary>Bytes; a power of two.</summary>
    public ulong Length { get; }

    /// <summary>Whether reads have no side effects.</summary>
    public bool Prefetchable { get; }

    /// <summary>Handler and space of the region.</summary>
    public RegionClaim Claim { get; }

    /// <summary>Where the region is mapped; null while it is not decoded.</summary>
    public ulong? MappedAt => _region is { IsMapped: true } region ? region.Base : null;

    internal int Register => PciRegisters.BaseAddress0 + (Index * 4);

    internal uint TypeBits => (Kind switch
    {
        PciBarKind.Io => PciRegisters.BarIo,
        PciBarKind.Memory64 => PciRegisters.BarMemory64,
        _ => 0,
    }) | (Prefetchable ? PciRegisters.BarPrefetchable : 0);

    internal void Define(PciConfigurationSpace space)
    {
        ulong mask = ~(Length - 1);
        uint low = Kind == PciBarKind.Io ? (uint)mask & 0xFFFF : (uint)mask;
        space.Define32(Register, TypeBits, low);
        if (Kind == PciBarKind.Memory64)
        {
            space.Define32(Register + 4, 0, (uint)(mask >> 32));
        }
    }

    internal ulong Address(PciConfigurationSpace space)
    {
        uint low = space.UInt32(Register);
        return Kind switch
        {
            PciBarKind.Io => low & ~3U,
            PciBarKind.Memory32 => low & ~15U,
            _ => (low & ~15U) | ((ulong)space.UInt32(Register + 4) << 32),
        };
    }

    internal void Assign(PciConfigurationSpace space, ulong address)
    {
        space.Set32(Register, (uint)address | TypeBits);
        if (Kind == PciBarKind.Memory64)
        {
            space.Set32(Register + 4, (uint)(address >> 32));
        }
    }

    /// <summary>Moves the region to an address, or takes it away when null.</summary>
    internal void Place(AddressSpace space, ulong? address)
    {
        if (address is not { } at)
        {
            if (_region is { } mapped)
            {
                space.Unmap(mapped);
            }
        }
        else if (_region is { } region)
        {
            space.Remap(region, at);
        }
        else
        {
            _region = space.MapMovable(Claim with { Base = at });
        }
    }
}
