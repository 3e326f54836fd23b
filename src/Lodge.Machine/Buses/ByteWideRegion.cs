namespace Lodge.Machine.Buses;

/// <summary>A device with 8-bit registers only, as those of the original PC.</summary>
public interface IByteWideDevice
{
    /// <summary>Loads the register at <paramref name="offset"/>.</summary>
    byte ReadByte(ulong offset);

    /// <summary>Stores to the register at <paramref name="offset"/>.</summary>
    void WriteByte(ulong offset, byte value);
}

/// <summary>
/// Answers wide accesses to an 8-bit device as the ISA bus does: as byte accesses to consecutive addresses, lowest first.
/// </summary>
/// <param name="device">The device.</param>
/// <param name="firstOffset">Offset, as the device sees it, of the region's first byte.</param>
public sealed class ByteWideRegion(IByteWideDevice device, ulong firstOffset = 0) : IIoHandler
{
    /// <inheritdoc/>
    public IoResult Read(ulong offset, Span<byte> data)
    {
        for (int i = 0; i < data.Length; i++)
        {
            data[i] = device.ReadByte(firstOffset + offset + (ulong)i);
        }
        return IoResult.Done;
    }

    /// <inheritdoc/>
    public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
    {
        for (int i = 0; i < data.Length; i++)
        {
            device.WriteByte(firstOffset + offset + (ulong)i, data[i]);
        }
        return IoResult.Done;
    }
}
