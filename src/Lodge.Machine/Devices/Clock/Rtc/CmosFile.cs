using System.Buffers.Binary;

namespace Lodge.Machine.Devices.Clock.Rtc;

/// <summary>
/// The battery-backed memory between runs: 128 bytes of CMOS, then the clock's offset from the host's time as a little-endian count of 100 ns
/// units in 8 bytes. A file of just 128 bytes is taken as well.
/// </summary>
internal static class CmosFile
{
    private const int Length = RtcRegister.Size + 8;

    /// <summary>Reads the file; null when there is none.</summary>
    /// <exception cref="IOException">It cannot be read or has another size.</exception>
    public static (byte[] Cmos, long OffsetTicks)? Load(string path)
    {
        if (!File.Exists(path))
        {
            return null;
        }
        using FileStream stream = File.OpenRead(path);
        if (stream.Length is not (RtcRegister.Size or Length))
        {
            throw new IOException($"{path}: {stream.Length} bytes is no CMOS image");
        }
        byte[] bytes = new byte[Length];
        stream.ReadExactly(bytes, 0, (int)stream.Length);
        return (bytes[..RtcRegister.Size], BinaryPrimitives.ReadInt64LittleEndian(bytes.AsSpan(RtcRegister.Size)));
    }

    /// <summary>Replaces the file in one step, so that a crash leaves the old or the new one.</summary>
    public static void Store(string path, ReadOnlySpan<byte> cmos, long offsetTicks)
    {
        byte[] bytes = new byte[Length];
        cmos.CopyTo(bytes);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(RtcRegister.Size), offsetTicks);
        string temporary = path + ".new";
        using (FileStream stream = new(temporary, FileMode.Create, FileAccess.Write, FileShare.None))
        {
            stream.Write(bytes);
            stream.Flush(flushToDisk: true);
        }
        File.Move(temporary, path, overwrite: true);
    }
}
