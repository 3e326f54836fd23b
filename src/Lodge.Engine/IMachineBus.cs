namespace Lodge.Engine;

/// <summary>
/// What lies outside the processors and RAM: the port and memory spaces of the machine's devices. Called on vCPU threads, concurrently;
/// never throws whatever the guest does. <c>data</c> has 1, 2, 4 or 8 bytes (8 only for memory), little endian.
/// A read that nobody claims yields all ones; such a write is dropped.
/// </summary>
public interface IMachineBus
{
    /// <summary>IN from a port.</summary>
    void ReadPort(ushort port, Span<byte> data);

    /// <summary>OUT to a port.</summary>
    void WritePort(ushort port, ReadOnlySpan<byte> data);

    /// <summary>Load from guest physical memory that is not RAM.</summary>
    void ReadMemory(ulong address, Span<byte> data);

    /// <summary>Store to guest physical memory that is not RAM.</summary>
    void WriteMemory(ulong address, ReadOnlySpan<byte> data);
}

/// <summary>The 8259 pair as the processor sees it: the source of vectors for ExtINT interrupts.</summary>
public interface IExternalInterruptSource
{
    /// <summary>INTA cycle: returns the vector of the highest pending request and marks it in service (spurious vector if none).</summary>
    byte Acknowledge();
}

/// <summary>The I/O APIC as the local APICs see it: told of every end of interrupt of a level-triggered vector.</summary>
public interface IEndOfInterruptListener
{
    /// <summary>A local APIC finished <paramref name="vector"/>.</summary>
    void EndOfInterrupt(byte vector);
}
