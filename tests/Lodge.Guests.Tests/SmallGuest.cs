using System.Buffers.Binary;
using Iced.Intel;

namespace Lodge.Guests.Tests;

/// <summary>A Multiboot kernel of a few instructions in 32-bit protected mode, in a file.</summary>
internal sealed class SmallGuest : IDisposable
{
    private const uint Base = 0x10_0000, Length = 0x1000;

    public SmallGuest(Action<Assembler> program)
    {
        byte[] image = new byte[Length];
        // Multiboot specification 0.6.96, 3.1.1 to 3.1.3: magic, flags (the addresses here are valid), checksum, then the addresses.
        uint[] header = [0x1BADB002, 0x10000, unchecked(0 - 0x1BADB002u - 0x10000u), Base, Base, Base + Length, Base + Length, Base + 0x40];
        for (int i = 0; i < header.Length; i++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(i * 4), header[i]);
        }
        var assembler = new Assembler(32);
        program(assembler);
        using var code = new MemoryStream(image, 0x40, image.Length - 0x40);
        assembler.Assemble(new StreamCodeWriter(code), Base + 0x40);
        Path = System.IO.Path.GetTempFileName();
        File.WriteAllBytes(Path, image);
    }

    public string Path { get; }

    public void Dispose() => File.Delete(Path);
}
