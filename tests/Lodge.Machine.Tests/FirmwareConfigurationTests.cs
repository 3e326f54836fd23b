using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.Memory;
using Lodge.Machine.Devices.Misc.FirmwareConfiguration;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class FirmwareConfigurationTests : IDisposable
{
    private const int Selector = 0x510, Data = 0x511, DmaHigh = 0x514, DmaLow = 0x518;
    private readonly GuestMemory _memory = new(16UL << 20);
    private readonly FirmwareConfiguration _device;

    public FirmwareConfigurationTests()
    {
        FirmwareConfigurationContents contents = FirmwareConfigurationContents.ForMachine(_memory, 3);
        contents.AddFile("opt/test/greeting", "hello"u8.ToArray());
        contents.SetKernel(new byte[] { 1, 2, 3 }, default, "quiet");
        _device = new FirmwareConfiguration(contents, _memory);
    }

    public void Dispose() => _memory.Dispose();

    private byte[] Read(ushort key, int length)
    {
        _device.Out(Selector, key, 2);
        return [.. Enumerable.Range(0, length).Select(_ => (byte)_device.In(Data))];
    }

    private uint Dma(uint control, uint length, ulong address, ulong descriptor = 0x8000)
    {
        byte[] fields = new byte[16];
        BinaryPrimitives.WriteUInt32BigEndian(fields, control);
        BinaryPrimitives.WriteUInt32BigEndian(fields.AsSpan(4), length);
        BinaryPrimitives.WriteUInt64BigEndian(fields.AsSpan(8), address);
        _memory.TryWrite(descriptor, fields);
        _device.Out(DmaHigh, BinaryPrimitives.ReverseEndianness((uint)(descriptor >> 32)), 4);
        _device.Out(DmaLow, BinaryPrimitives.ReverseEndianness((uint)descriptor), 4);
        byte[] result = new byte[4];
        _memory.TryRead(descriptor, result);
        return BinaryPrimitives.ReadUInt32BigEndian(result);
    }

    private ushort FindFile(string name, out uint size)
    {
        int count = BinaryPrimitives.ReadInt32BigEndian(Read(0x19, 4));
        for (int i = 0; i < count; i++)
        {
            byte[] entry = [.. Enumerable.Range(0, 64).Select(_ => (byte)_device.In(Data))];
            if (Encoding.ASCII.GetString(entry, 8, 56).TrimEnd('\0') == name)
            {
                size = BinaryPrimitives.ReadUInt32BigEndian(entry);
                return BinaryPrimitives.ReadUInt16BigEndian(entry.AsSpan(4));
            }
        }
        throw new KeyNotFoundException(name);
    }

    [Fact]
    public void Legacy_keys_tell_of_the_machine()
    {
        Assert.Equal("QEMU"u8.ToArray(), Read(0, 4));
        Assert.Equal([3, 0, 0, 0, 0, 0], Read(1, 6));
        Assert.Equal(16UL << 20, BitConverter.ToUInt64(Read(3, 8)));
        Assert.Equal([1, 0], Read(4, 2));
        Assert.Equal([3, 0], Read(5, 2));
        Assert.Equal([3, 0], Read(0xF, 2));
        Assert.Equal([3, 0, 0, 0], Read(8, 4));
        Assert.Equal([1, 2, 3, 0], Read(0x11, 4));
        Assert.Equal("quiet\0"u8.ToArray(), Read(0x15, 6));
        Assert.Equal([0, 0], Read(0x7777, 2));
    }

    [Fact]
    public void Files_are_found_by_name()
    {
        ushort key = FindFile("opt/test/greeting", out uint size);
        Assert.Equal(5u, size);
        Assert.Equal("hello"u8.ToArray(), Read(key, 5));
        key = FindFile("etc/e820", out size);
        Assert.Equal((uint)MemoryMap.Describe(_memory).Count * 20, size);
        Assert.Equal(0x9FC00UL, BitConverter.ToUInt64(Read(key, 20), 8));
    }

    [Fact]
    public void Dma_reads_selects_and_skips()
    {
        Assert.Equal("QEMU CFG"u8.ToArray(), BitConverter.GetBytes((uint)_device.In(DmaHigh, 4)).Concat(BitConverter.GetBytes((uint)_device.In(DmaLow, 4))).ToArray());
        ushort key = FindFile("opt/test/greeting", out _);
        _memory.TryWrite(0x9000, new byte[] { 9, 9, 9, 9, 9, 9, 9, 9 });
        Assert.Equal(0u, Dma(((uint)key << 16) | 8 | 4, 2, 0));
        Assert.Equal(0u, Dma(2, 5, 0x9000));
        byte[] read = new byte[8];
        _memory.TryRead(0x9000, read);
        Assert.Equal([(byte)'l', (byte)'l', (byte)'o', 0, 0, 9, 9, 9], read);
    }

    [Theory]
    [InlineData(2u, 16u, 0xFFFF_FFF0UL)] // not RAM
    [InlineData(2u, 16u, 0x00FF_FFF8UL)] // beyond RAM's end
    [InlineData(2u, 0xFFFF_FFFFu, 0UL)]
    [InlineData(2u, 16u, 0xFFFF_FFFF_FFFF_FFF8UL)] // wraps
    [InlineData(16u, 1u, 0x9000UL)] // nothing is writable
    public void Bad_dma_fails_and_touches_nothing(uint control, uint length, ulong address)
    {
        _memory.TryWrite(0x9000, 0x11u);
        _device.Out(Selector, 0, 2);
        Assert.Equal(1u, Dma(control, length, address));
        Assert.True(_memory.TryRead(0x9000, out uint value));
        Assert.Equal(0x11u, value);
    }

    [Fact]
    public void A_descriptor_outside_of_ram_is_ignored()
    {
        _device.Out(DmaHigh, 0xFFFF_FFFF, 4);
        _device.Out(DmaLow, 0, 4);
        Assert.Equal("QEMU"u8.ToArray(), Read(0, 4));
    }

    [Fact]
    public void State_survives_saving()
    {
        Read(0, 2);
        var other = new FirmwareConfiguration(FirmwareConfigurationContents.ForMachine(_memory, 1), _memory);
        other.Restore(_device.Saved());
        Assert.Equal('M', (int)other.In(Data));
        other.Restore(_device.Saved());
        Assert.Equal(_device.Saved(), other.Saved());
    }

    [Fact]
    public void File_names_are_checked()
    {
        var contents = new FirmwareConfigurationContents();
        Assert.Throws<ArgumentException>(() => contents.AddFile("", default));
        Assert.Throws<ArgumentException>(() => contents.AddFile(new string('x', 56), default));
        Assert.Throws<ArgumentException>(() => contents.AddFile("é", default));
    }
}
