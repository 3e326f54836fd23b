using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.Memory;
using Lodge.Machine.Boot;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>Hand-made kernels for the loader tests.</summary>
internal static class BootImages
{
    public static void U16(byte[] image, int at, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(at), value);

    public static void U32(byte[] image, int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(at), value);

    public static void U64(byte[] image, int at, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(at), value);

    /// <summary>A bzImage with four setup sectors and a payload that counts upwards.</summary>
    public static byte[] BzImage(ushort version = 0x20F, byte xloadflags = 1, ulong prefAddress = 0x100_0000, uint initSize = 0x20_0000, uint initrdMax = 0x7FFF_FFFF, bool relocatable = true)
    {
        byte[] image = new byte[(5 * 512) + 4096];
        image[0x1F1] = 4;
        U16(image, 0x1FE, 0xAA55);
        image[0x201] = 0x6A;
        "HdrS"u8.CopyTo(image.AsSpan(0x202));
        U16(image, 0x206, version);
        image[0x211] = 1;
        U32(image, 0x22C, initrdMax);
        U32(image, 0x230, 0x20_0000);
        image[0x234] = relocatable ? (byte)1 : (byte)0;
        image[0x236] = xloadflags;
        U32(image, 0x238, 2047);
        U64(image, 0x258, prefAddress);
        U32(image, 0x260, initSize);
        for (int i = 0; i < 4096; i++)
        {
            image[(5 * 512) + i] = (byte)(i * 7);
        }
        return image;
    }

    /// <summary>An ELF file with one PT_LOAD of 256 file bytes and, when asked, a Xen note and a Multiboot header inside the load.</summary>
    public static byte[] Elf(bool is64, uint address = 0x20_0000, uint memorySize = 0x1000, bool note = false, bool multiboot = false, ulong virtualOffset = 0)
    {
        byte[] image = new byte[0x1100];
        image[0] = 0x7F;
        "ELF"u8.CopyTo(image.AsSpan(1));
        image[4] = is64 ? (byte)2 : (byte)1;
        image[5] = 1;
        U16(image, 18, is64 ? (ushort)62 : (ushort)3);
        int rows = note ? 2 : 1;
        const int Data = 0x1000, Notes = 0x800;
        if (is64)
        {
            U64(image, 24, address + virtualOffset + 0x20);
            U64(image, 32, 64);
            U16(image, 54, 56);
            U16(image, 56, (ushort)rows);
            Row64(64, 1, Data, address + virtualOffset, address, 0x100, memorySize);
            Row64(120, 4, Notes, 0, 0, 20, 20);
        }
        else
        {
            U32(image, 24, (uint)(address + virtualOffset + 0x20));
            U32(image, 28, 52);
            U16(image, 42, 32);
            U16(image, 44, (ushort)rows);
            Row32(52, 1, Data, (uint)(address + virtualOffset), address, 0x100, memorySize);
            Row32(84, 4, Notes, 0, 0, 20, 20);
        }
        if (note)
        {
            U32(image, Notes, 4);
            U32(image, Notes + 4, 4);
            U32(image, Notes + 8, 18);
            "Xen"u8.CopyTo(image.AsSpan(Notes + 12));
            U32(image, Notes + 16, address + 0x10);
        }
        if (multiboot)
        {
            MultibootHeader(image, Data, 3);
        }
        for (int i = 0x40; i < 0x100; i++)
        {
            image[Data + i] = (byte)i;
        }
        return image;

        void Row64(int at, uint type, ulong offset, ulong v, ulong p, ulong size, ulong memory)
        {
            U32(image, at, type);
            U64(image, at + 8, offset);
            U64(image, at + 16, v);
            U64(image, at + 24, p);
            U64(image, at + 32, size);
            U64(image, at + 40, memory);
        }

        void Row32(int at, uint type, uint offset, uint v, uint p, uint size, uint memory)
        {
            U32(image, at, type);
            U32(image, at + 4, offset);
            U32(image, at + 8, v);
            U32(image, at + 12, p);
            U32(image, at + 16, size);
            U32(image, at + 20, memory);
        }
    }

    public static void MultibootHeader(byte[] image, int at, uint flags)
    {
        U32(image, at, 0x1BAD_B002);
        U32(image, at + 4, flags);
        U32(image, at + 8, unchecked(0u - 0x1BAD_B002 - flags));
    }

    public static BootOptions Options(byte[] kernel, string commandLine = "", params (string Text, byte[] Bytes)[] modules) => new(
        BootSource.FromBytes("kernel", kernel),
        [.. modules.Select(m => new BootModule(BootSource.FromBytes(m.Text, m.Bytes), m.Text))],
        commandLine,
        0xE_0000);

    public static byte[] Bytes(GuestMemory memory, ulong address, int length)
    {
        byte[] data = new byte[length];
        Assert.True(memory.TryRead(address, data));
        return data;
    }

    public static uint U32(GuestMemory memory, ulong address)
    {
        Assert.True(memory.TryRead(address, out uint value));
        return value;
    }

    public static ulong U64(GuestMemory memory, ulong address)
    {
        Assert.True(memory.TryRead(address, out ulong value));
        return value;
    }

    public static string Text(GuestMemory memory, ulong address)
    {
        byte[] data = Bytes(memory, address, 256);
        return Encoding.UTF8.GetString(data, 0, Array.IndexOf(data, (byte)0));
    }
}
