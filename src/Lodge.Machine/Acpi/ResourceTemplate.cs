using System.Buffers.Binary;

namespace Lodge.Machine.Acpi;

/// <summary>A resource template, the value of <c>_CRS</c> (ACPI 6.5, 6.4).</summary>
internal sealed class ResourceTemplate
{
    private const byte TypeMemory = 0;
    private const byte TypeIo = 1;
    private const byte TypeBus = 2;
    private const byte MinimumAndMaximumFixed = 0x0C;
    private const byte EntireRange = 0x03;
    private const byte ReadWrite = 0x01;
    private const byte Prefetchable = 0x06;

    private readonly List<byte> _bytes = [];

    /// <summary>Fixed I/O ports, 16-bit decoded.</summary>
    public ResourceTemplate Io(ushort port, byte length)
    {
        _bytes.AddRange([0x47, 0x01]);
        Add16(port);
        Add16(port);
        _bytes.AddRange([0x01, length]);
        return this;
    }

    /// <summary>An ISA interrupt: edge-triggered, active high, exclusive.</summary>
    public ResourceTemplate Irq(int number)
    {
        _bytes.Add(0x22);
        Add16((ushort)(1 << number));
        return this;
    }

    /// <summary>A fixed range of memory below 4 GiB.</summary>
    public ResourceTemplate Memory(ulong address, ulong length)
    {
        _bytes.AddRange([0x86, 0x09, 0x00, ReadWrite]);
        Add32((uint)address);
        Add32(checked((uint)length));
        return this;
    }

    /// <summary>Bus numbers that a host bridge produces.</summary>
    public ResourceTemplate BusNumbers(int first, int last)
    {
        _bytes.AddRange([0x88, 0x0D, 0x00, TypeBus, MinimumAndMaximumFixed, 0x00]);
        foreach (int value in (ReadOnlySpan<int>)[0, first, last, 0, last - first + 1])
        {
            Add16((ushort)value);
        }
        return this;
    }

    /// <summary>Ports that a host bridge passes on.</summary>
    public ResourceTemplate IoWindow(ushort first, ushort last)
    {
        _bytes.AddRange([0x88, 0x0D, 0x00, TypeIo, MinimumAndMaximumFixed, EntireRange]);
        foreach (int value in (ReadOnlySpan<int>)[0, first, last, 0, last - first + 1])
        {
            Add16((ushort)value);
        }
        return this;
    }

    /// <summary>Memory below 4 GiB that a host bridge passes on.</summary>
    public ResourceTemplate MemoryWindow(ulong address, ulong length)
    {
        _bytes.AddRange([0x87, 0x17, 0x00, TypeMemory, MinimumAndMaximumFixed, ReadWrite]);
        foreach (ulong value in (ReadOnlySpan<ulong>)[0, address, address + length - 1, 0, length])
        {
            Add32((uint)value);
        }
        return this;
    }

    /// <summary>Memory anywhere that a host bridge passes on, prefetchable.</summary>
    public ResourceTemplate HighMemoryWindow(ulong address, ulong length)
    {
        _bytes.AddRange([0x8A, 0x2B, 0x00, TypeMemory, MinimumAndMaximumFixed, ReadWrite | Prefetchable]);
        Span<byte> word = stackalloc byte[8];
        foreach (ulong value in (ReadOnlySpan<ulong>)[0, address, address + length - 1, 0, length])
        {
            BinaryPrimitives.WriteUInt64LittleEndian(word, value);
            _bytes.AddRange(word);
        }
        return this;
    }

    /// <summary>The template as an AML buffer, with its end tag.</summary>
    public byte[] ToBuffer() => Aml.Buffer([.. _bytes, 0x79, 0x00]);

    private void Add16(ushort value) => _bytes.AddRange([(byte)value, (byte)(value >> 8)]);

    private void Add32(uint value)
    {
        Add16((ushort)value);
        Add16((ushort)(value >> 16));
    }
}
