using System.Text;

namespace Lodge.Cli.DefaultSystem;

/// <summary>
/// Writes a cpio archive in the "newc" format that Linux unpacks as an initramfs (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
/// Every entry belongs to root and has time 0, so that equal contents give equal archives.
/// </summary>
internal sealed class CpioWriter(Stream output)
{
    private const uint TypeDirectory = 0x4000;
    private const uint TypeCharacterDevice = 0x2000;
    private const uint TypeFile = 0x8000;
    private const uint TypeLink = 0xA000;
    private uint _inode;
    private long _position;

    /// <summary>Adds a directory; parents first.</summary>
    public void Directory(string path, uint mode = 0x1ED) => Entry(path, TypeDirectory | mode, [], 0, 0); // 0755

    /// <summary>Adds a file.</summary>
    public void File(string path, ReadOnlySpan<byte> contents, bool executable = false) =>
        Entry(path, TypeFile | (executable ? 0x1EDu : 0x1A4u), contents, 0, 0); // 0755 or 0644

    /// <summary>Adds a symbolic link.</summary>
    public void Link(string path, string target) => Entry(path, TypeLink | 0x1FF, Encoding.UTF8.GetBytes(target), 0, 0);

    /// <summary>Adds a character device.</summary>
    public void CharacterDevice(string path, uint major, uint minor, uint mode) => Entry(path, TypeCharacterDevice | mode, [], major, minor);

    /// <summary>Writes the trailer and pads to 512 bytes.</summary>
    public void Finish()
    {
        Entry("TRAILER!!!", 0, [], 0, 0);
        Pad(512);
        output.Flush();
    }

    private void Entry(string path, uint mode, ReadOnlySpan<byte> contents, uint major, uint minor)
    {
        byte[] name = Encoding.UTF8.GetBytes(path);
        bool trailer = mode == 0;
        uint[] fields =
        [
            trailer ? 0 : ++_inode, mode, 0, 0, (mode & 0xF000) == TypeDirectory ? 2u : 1u, 0, (uint)contents.Length,
            0, 0, major, minor, (uint)name.Length + 1, 0,
        ];
        StringBuilder header = new("070701", 110);
        foreach (uint field in fields)
        {
            header.Append(field.ToString("X8", System.Globalization.CultureInfo.InvariantCulture));
        }
        Write(Encoding.ASCII.GetBytes(header.ToString()));
        Write(name);
        Write([0]);
        Pad(4);
        Write(contents);
        Pad(4);
    }

    private void Write(ReadOnlySpan<byte> data)
    {
        output.Write(data);
        _position += data.Length;
    }

    private void Pad(int alignment)
    {
        Span<byte> zeros = stackalloc byte[512];
        zeros.Clear();
        Write(zeros[..(int)((alignment - (_position % alignment)) % alignment)]);
    }
}
