using System.Buffers.Binary;

namespace Lodge.Storage.Shares;

/// <summary>An entry of a folder as the host lists it.</summary>
/// <param name="Inode">Its inode.</param>
/// <param name="Next">Where the list continues behind it.</param>
/// <param name="Type">DT_* of readdir(3).</param>
/// <param name="NameStart">Place of the name in the stream's buffer.</param>
/// <param name="NameLength">Bytes of the name, without the zero byte that follows it.</param>
internal readonly record struct FolderEntry(ulong Inode, long Next, byte Type, int NameStart, int NameLength);

/// <summary>Reads an open folder from any place that it gave before. Used under its own lock.</summary>
internal sealed class FolderStream(int descriptor)
{
    // struct linux_dirent64: d_ino (8), d_off (8), d_reclen (2), d_type (1), d_name.
    private const int Header = 19;
    private byte[] _buffer = [];
    private long _position = -1;    // of the entry at _start; -1: unknown
    private int _start;
    private int _end;

    /// <summary>The buffer that names lie in, until the next read.</summary>
    public ReadOnlySpan<byte> Buffer => _buffer;

    /// <summary>The entry at <paramref name="position"/>.</summary>
    /// <returns>1; 0 at the end; or a negated error number.</returns>
    public int Read(long position, out FolderEntry entry)
    {
        entry = default;
        if (position != _position || _start == _end)
        {
            if (position != _position || position == 0)
            {
                _position = -1;
                long moved = ShareSystemCalls.Seek(descriptor, position, 0);
                if (moved < 0)
                {
                    return (int)moved;
                }
            }
            _start = _end = 0;
            if (_buffer.Length == 0)
            {
                _buffer = new byte[8192];
            }
            int result = ShareSystemCalls.ReadFolder(descriptor, _buffer);
            if (result <= 0)
            {
                _position = -1;
                return result;
            }
            (_position, _end) = (position, result);
        }
        ReadOnlySpan<byte> raw = _buffer.AsSpan(_start, _end - _start);
        int length = raw.Length < Header ? 0 : BinaryPrimitives.ReadUInt16LittleEndian(raw[16..]);
        if (length < Header || length > raw.Length)
        {
            _position = -1;
            return -ErrorNumber.InputOutput;
        }
        int name = raw[Header..length].IndexOf((byte)0);
        if (name <= 0)
        {
            _position = -1;
            return -ErrorNumber.InputOutput;
        }
        entry = new FolderEntry(BinaryPrimitives.ReadUInt64LittleEndian(raw), BinaryPrimitives.ReadInt64LittleEndian(raw[8..]), raw[18], _start + Header, name);
        return 1;
    }

    /// <summary>The entry last read was taken; the next read is from behind it.</summary>
    public void Advance(in FolderEntry entry)
    {
        _start += BinaryPrimitives.ReadUInt16LittleEndian(_buffer.AsSpan(_start + 16));
        _position = entry.Next;
    }
}
