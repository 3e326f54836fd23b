using System.Buffers.Binary;

namespace Lodge.Machine.Pci;

/// <summary>
/// The configuration space of one function: 256 bytes, of which the guest changes the bits that the mask allows. The extended space of PCI
/// Express reads as zero, which says that there is no extended capability. Not synchronized; <see cref="PciFunction"/> holds its lock.
/// </summary>
public sealed class PciConfigurationSpace
{
    /// <summary>Bytes that exist.</summary>
    public const int Length = 256;

    private const int FirstCapability = 0x40;
    private readonly byte[] _values = new byte[Length];
    private readonly byte[] _writable = new byte[Length];
    private int _lastCapability;
    private int _end = FirstCapability;

    /// <summary>The bytes.</summary>
    public ReadOnlySpan<byte> Values => _values;

    /// <summary>Loads; bytes beyond the space are zero.</summary>
    public void Read(int offset, Span<byte> data)
    {
        for (int i = 0; i < data.Length; i++)
        {
            data[i] = (uint)(offset + i) < Length ? _values[offset + i] : (byte)0;
        }
    }

    /// <summary>Stores the writable bits; bytes beyond the space are dropped.</summary>
    public void Write(int offset, ReadOnlySpan<byte> data)
    {
        for (int i = 0; i < data.Length; i++)
        {
            int at = offset + i;
            if ((uint)at < Length)
            {
                _values[at] = (byte)((_values[at] & ~_writable[at]) | (data[i] & _writable[at]));
            }
        }
    }

    /// <summary>16-bit register.</summary>
    public ushort UInt16(int offset) => BinaryPrimitives.ReadUInt16LittleEndian(_values.AsSpan(offset));

    /// <summary>32-bit register.</summary>
    public uint UInt32(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(_values.AsSpan(offset));

    /// <summary>Sets a byte regardless of the mask, and which bits the guest may change.</summary>
    public void Define8(int offset, byte value, byte writable = 0)
    {
        _values[offset] = value;
        _writable[offset] = writable;
    }

    /// <summary>Sets a 16-bit register regardless of the mask, and which bits the guest may change.</summary>
    public void Define16(int offset, ushort value, ushort writable = 0)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(_values.AsSpan(offset), value);
        BinaryPrimitives.WriteUInt16LittleEndian(_writable.AsSpan(offset), writable);
    }

    /// <summary>Sets a 32-bit register regardless of the mask, and which bits the guest may change.</summary>
    public void Define32(int offset, uint value, uint writable = 0)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(_values.AsSpan(offset), value);
        BinaryPrimitives.WriteUInt32LittleEndian(_writable.AsSpan(offset), writable);
    }

    /// <summary>Sets the value of a 32-bit register and leaves its mask.</summary>
    public void Set32(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(_values.AsSpan(offset), value);

    /// <summary>Sets or clears bits of a 16-bit register regardless of the mask.</summary>
    public void SetBits16(int offset, ushort bits, bool set)
    {
        ushort value = UInt16(offset);
        BinaryPrimitives.WriteUInt16LittleEndian(_values.AsSpan(offset), (ushort)(set ? value | bits : value & ~bits));
    }

    /// <summary>
    /// Appends a capability (PCI Local Bus 3.0, 6.7): <paramref name="body"/> follows ID and next pointer, <paramref name="writable"/> is as long
    /// as the body or empty. Returns its offset, a multiple of 4.
    /// </summary>
    /// <exception cref="InvalidOperationException">The space is full.</exception>
    public int AddCapability(byte id, ReadOnlySpan<byte> body, ReadOnlySpan<byte> writable = default)
    {
        int offset = _end;
        if (offset + 2 + body.Length > Length)
        {
            throw new InvalidOperationException("no room for another capability");
        }
        _values[offset] = id;
        body.CopyTo(_values.AsSpan(offset + 2));
        writable.CopyTo(_writable.AsSpan(offset + 2));
        _values[_lastCapability == 0 ? PciRegisters.CapabilitiesPointer : _lastCapability + 1] = (byte)offset;
        SetBits16(PciRegisters.Status, PciRegisters.StatusCapabilities, true);
        _lastCapability = offset;
        _end = (offset + 2 + body.Length + 3) & ~3;
        return offset;
    }

    /// <summary>Takes the writable bits of a saved copy; the rest is what this function defines.</summary>
    public void Restore(ReadOnlySpan<byte> saved) => Write(0, saved[..Math.Min(saved.Length, Length)]);
}
