using Lodge.Engine;

namespace Lodge.Machine.Buses;

/// <summary>The bus that an engine sees: the machine's ports and everything in its physical memory that is not RAM.</summary>
public sealed class MachineBus : IMachineBus
{
    /// <summary>I/O ports 0 to 0xFFFF.</summary>
    public AddressSpace Ports { get; } = new(RegionSpace.Port);

    /// <summary>Guest physical addresses. RAM is not in it: the engine looks there first.</summary>
    public AddressSpace Memory { get; } = new(RegionSpace.Memory);

    /// <summary>Maps everything that a device claims.</summary>
    /// <exception cref="ArgumentException">A claim overlaps another device's.</exception>
    public void Attach(IDevice device)
    {
        foreach (RegionClaim claim in device.Claims)
        {
            Space(claim.Space).Map(claim);
        }
    }

    /// <summary>The space by its kind.</summary>
    public AddressSpace Space(RegionSpace space) => space == RegionSpace.Port ? Ports : Memory;

    /// <inheritdoc/>
    public void ReadPort(ushort port, Span<byte> data) => Ports.Read(port, data);

    /// <inheritdoc/>
    public void WritePort(ushort port, ReadOnlySpan<byte> data) => Ports.Write(port, data);

    /// <inheritdoc/>
    public void ReadMemory(ulong address, Span<byte> data) => Memory.Read(address, data);

    /// <inheritdoc/>
    public void WriteMemory(ulong address, ReadOnlySpan<byte> data) => Memory.Write(address, data);
}
