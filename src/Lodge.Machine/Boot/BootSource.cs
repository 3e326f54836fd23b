using Lodge.Engine.Memory;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Machine.Boot;

/// <summary>A boot image cannot be loaded; the message is one line and names the offending value.</summary>
public sealed class BootException : Exception
{
    /// <summary>Creates the error.</summary>
    public BootException(string message)
        : base(message)
    {
    }
}

/// <summary>
/// Bytes of a kernel or initrd. Untrusted: every read is bounds-checked. Files are read straight into guest memory when loaded, so that no
/// second copy stays in the process.
/// </summary>
public abstract class BootSource
{
    private protected BootSource(string name, long length)
    {
        Name = name;
        Length = length;
    }

    /// <summary>Name for messages and for Multiboot's command line (the path as given).</summary>
    public string Name { get; }

    /// <summary>Bytes.</summary>
    public long Length { get; }

    /// <summary>Opens a file. The file may be replaced by another later, but is read again at each reset of the machine.</summary>
    /// <exception cref="BootException">It cannot be read.</exception>
    public static BootSource FromFile(string path)
    {
        try
        {
            if (Directory.Exists(path))
            {
                throw new BootException($"'{path}' is a directory, not an image file");
            }
            SafeFileHandle handle = File.OpenHandle(path);
            return new FileSource(path, RandomAccess.GetLength(handle), handle);
        }
        catch (FileNotFoundException)
        {
            throw new BootException($"'{path}' does not exist");
        }
        catch (DirectoryNotFoundException)
        {
            throw new BootException($"'{path}' does not exist");
        }
        catch (UnauthorizedAccessException)
        {
            throw new BootException($"'{path}' cannot be read: permission denied");
        }
        catch (Exception e) when (e is IOException or NotSupportedException or ArgumentException)
        {
            throw new BootException($"'{path}' cannot be read: {e.Message}");
        }
    }

    /// <summary>Wraps bytes in memory.</summary>
    public static BootSource FromBytes(string name, ReadOnlyMemory<byte> bytes) => new MemorySource(name, bytes);

    /// <summary>Fills <paramref name="destination"/> from <paramref name="offset"/>.</summary>
    /// <exception cref="BootException">The range lies outside the image.</exception>
    public void Read(ulong offset, Span<byte> destination)
    {
        if (offset > (ulong)Length || (ulong)destination.Length > (ulong)Length - offset)
        {
            throw new BootException($"'{Name}' is truncated: {destination.Length} bytes at offset 0x{offset:X} lie past its end at 0x{Length:X}");
        }
        ReadCore((long)offset, destination);
    }

    /// <summary>Copies a range to guest memory.</summary>
    /// <exception cref="BootException">The range lies outside the image or the target is not RAM.</exception>
    public unsafe void CopyTo(ulong offset, ulong length, GuestMemory memory, ulong address)
    {
        if (offset > (ulong)Length || length > (ulong)Length - offset)
        {
            throw new BootException($"'{Name}' is truncated: 0x{length:X} bytes at offset 0x{offset:X} lie past its end at 0x{Length:X}");
        }
        byte* target = memory.Pointer(address, length);
        if (target == null)
        {
            throw new BootException($"'{Name}' needs RAM at 0x{address:X}-0x{address + length:X}, which the machine does not have; give it more with --memory");
        }
        const int Piece = 1 << 20;
        for (ulong done = 0; done < length;)
        {
            int n = (int)Math.Min(Piece, length - done);
            ReadCore((long)(offset + done), new Span<byte>(target + done, n));
            done += (ulong)n;
        }
        memory.Written(address, length);
    }

    private protected abstract void ReadCore(long offset, Span<byte> destination);

    private sealed class FileSource(string name, long length, SafeFileHandle handle) : BootSource(name, length)
    {
        private protected override void ReadCore(long offset, Span<byte> destination)
        {
            try
            {
                while (!destination.IsEmpty)
                {
                    int n = RandomAccess.Read(handle, destination, offset);
                    if (n == 0)
                    {
                        throw new BootException($"'{Name}' became shorter while it was read");
                    }
                    offset += n;
                    destination = destination[n..];
                }
            }
            catch (IOException e)
            {
                throw new BootException($"'{Name}' cannot be read: {e.Message}");
            }
        }
    }

    private sealed class MemorySource(string name, ReadOnlyMemory<byte> bytes) : BootSource(name, bytes.Length)
    {
        private protected override void ReadCore(long offset, Span<byte> destination) =>
            bytes.Span.Slice((int)offset, destination.Length).CopyTo(destination);
    }
}
