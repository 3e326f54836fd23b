using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Shares;

namespace Lodge.Storage.Tests.Shares;

/// <summary>A request in arrays.</summary>
internal sealed class ArrayExchange(byte[] request, int replyCapacity) : IFuseExchange
{
    private readonly byte[] _reply = new byte[replyCapacity];
    private int _read;
    private int _written;

    public uint Unread => (uint)(request.Length - _read);

    public uint ReplyCapacity => (uint)_reply.Length;

    public int FinishedCount { get; private set; }

    public ReadOnlyMemory<byte> Answer => _reply.AsMemory(0, _written);

    public int Read(Span<byte> destination)
    {
        int count = Math.Min(destination.Length, request.Length - _read);
        request.AsSpan(_read, count).CopyTo(destination);
        _read += count;
        return count;
    }

    public bool TryLendUnread(uint length, out IoVector data)
    {
        bool there = length <= Unread;
        data = there ? request.AsMemory(_read, (int)length) : default;
        return there;
    }

    public bool TryLendReply(uint offset, uint length, out IoVector data)
    {
        bool there = offset <= _reply.Length && length <= _reply.Length - offset;
        data = there ? _reply.AsMemory((int)offset, (int)length) : default;
        return there;
    }

    public void Reply(ReadOnlySpan<byte> bytes)
    {
        bytes.CopyTo(_reply.AsSpan(_written));
        _written += bytes.Length;
    }

    public void Filled(uint count)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((int)count, _reply.Length - _written);
        _written += (int)count;
    }

    public void Finished() => FinishedCount++;
}

/// <summary>What a LOOKUP or its kin gave.</summary>
internal readonly record struct Entry(ulong Node, ulong Inode, ulong Size, uint Mode, uint Links, uint User, uint Group, uint Flags);

/// <summary>A FUSE client as a guest's kernel is one, but which may send anything. Requests are served on the calling thread.</summary>
internal sealed class FuseClient
{
    private readonly FuseServer _server;
    private readonly FuseWorkspace _work = new();
    private ulong _unique;

    public FuseClient(FuseServer server, bool initialize = true)
    {
        _server = server;
        if (initialize)
        {
            (int error, _) = Initialize(7, 36);
            Xunit.Assert.Equal(0, error);
        }
    }

    public uint User { get; set; }

    public uint Group { get; set; }

    public (int Error, byte[] Reply) Initialize(uint major, uint minor, uint flags = uint.MaxValue) =>
        Call(FuseOperation.Initialize, 0, Bytes(major, minor, 131072u, flags));

    /// <summary>Sends a request; returns the error (positive) and what follows the reply's header.</summary>
    public (int Error, byte[] Reply) Call(FuseOperation operation, ulong node, byte[] body, int room = 70000)
    {
        ReadOnlyMemory<byte> answer = Raw(Header(operation, node, body.Length).Concat(body).ToArray(), room);
        if (answer.IsEmpty)
        {
            return (-1, []);
        }
        ReadOnlySpan<byte> header = answer.Span;
        Xunit.Assert.True(header.Length >= 16);
        Xunit.Assert.Equal(header.Length, BinaryPrimitives.ReadInt32LittleEndian(header));
        Xunit.Assert.Equal(_unique, BinaryPrimitives.ReadUInt64LittleEndian(header[8..]));
        int error = -BinaryPrimitives.ReadInt32LittleEndian(header[4..]);
        Xunit.Assert.InRange(error, 0, 4095);
        return (error, answer[16..].ToArray());
    }

    public ReadOnlyMemory<byte> Raw(byte[] request, int room)
    {
        ArrayExchange exchange = new(request, room);
        _server.Serve(exchange, _work);
        Xunit.Assert.Equal(1, exchange.FinishedCount);
        return exchange.Answer;
    }

    public byte[] Header(FuseOperation operation, ulong node, int length) =>
        Bytes(40 + length, (uint)operation, ++_unique, node, User, Group, 1u, 0u);

    public (int Error, Entry Entry) Lookup(ulong folder, string name) => Entered(Call(FuseOperation.Lookup, folder, Text(name)));

    public Entry Find(string path)
    {
        Entry entry = new(1, 0, 0, 0, 0, 0, 0, 0);
        foreach (string name in path.Split('/'))
        {
            (int error, entry) = Lookup(entry.Node, name);
            Xunit.Assert.Equal(0, error);
        }
        return entry;
    }

    public (int Error, Entry Entry) MakeFolder(ulong folder, string name, uint mode = 0x1ED) =>
        Entered(Call(FuseOperation.MakeFolder, folder, [.. Bytes(mode, 0u), .. Text(name)]));

    public (int Error, Entry Entry) MakeNode(ulong folder, string name, uint mode) =>
        Entered(Call(FuseOperation.MakeNode, folder, [.. Bytes(mode, 0x103u, 0u, 0u), .. Text(name)]));

    public (int Error, Entry Entry) MakeLink(ulong folder, string name, string target) =>
        Entered(Call(FuseOperation.SymbolicLink, folder, [.. Text(name), .. Text(target)]));

    public (int Error, Entry Entry) HardLink(ulong node, ulong folder, string name) =>
        Entered(Call(FuseOperation.Link, folder, [.. Bytes(node), .. Text(name)]));

    public (int Error, Entry Entry, ulong Handle) Create(ulong folder, string name, int flags = 2, uint mode = 0x1A4)
    {
        (int error, byte[] reply) = Call(FuseOperation.Create, folder, [.. Bytes(flags | 0x40, mode, 0u, 0u), .. Text(name)]);
        return error != 0 ? (error, default, 0) : (0, ParseEntry(reply), BinaryPrimitives.ReadUInt64LittleEndian(reply.AsSpan(128)));
    }

    public (int Error, ulong Handle, uint Flags) Open(ulong node, int flags = 0, bool folder = false)
    {
        (int error, byte[] reply) = Call(folder ? FuseOperation.OpenFolder : FuseOperation.Open, node, Bytes(flags, 0u));
        return error != 0 ? (error, 0, 0) : (0, BinaryPrimitives.ReadUInt64LittleEndian(reply), BinaryPrimitives.ReadUInt32LittleEndian(reply.AsSpan(8)));
    }

    public int Release(ulong handle, bool folder = false) =>
        Call(folder ? FuseOperation.ReleaseFolder : FuseOperation.Release, 1, Bytes(handle, 0u, 0u, 0ul)).Error;

    public (int Error, byte[] Data) Read(ulong handle, ulong offset, uint size, int room = 1 << 20) =>
        Call(FuseOperation.Read, 1, Bytes(handle, offset, size, 0u, 0ul, 0u, 0u), room);

    public (int Error, uint Written) Write(ulong handle, ulong offset, ReadOnlySpan<byte> data, uint flags = 0, uint? size = null)
    {
        (int error, byte[] reply) = Call(FuseOperation.Write, 1, [.. Bytes(handle, offset, size ?? (uint)data.Length, flags, 0ul, 0u, 0u), .. data]);
        return (error, error != 0 ? 0 : BinaryPrimitives.ReadUInt32LittleEndian(reply));
    }

    public int Unlink(ulong folder, string name) => Call(FuseOperation.Unlink, folder, Text(name)).Error;

    public int RemoveFolder(ulong folder, string name) => Call(FuseOperation.RemoveFolder, folder, Text(name)).Error;

    public int Rename(ulong from, string name, ulong to, string newName, uint flags = 0) =>
        Call(FuseOperation.Rename2, from, [.. Bytes(to, flags, 0u), .. Text(name), .. Text(newName)]).Error;

    public void Forget(ulong node, ulong count) => Xunit.Assert.Equal(-1, Call(FuseOperation.Forget, node, Bytes(count), 0).Error);

    public (int Error, Entry Entry) GetAttributes(ulong node)
    {
        (int error, byte[] reply) = Call(FuseOperation.GetAttributes, node, Bytes(0u, 0u, 0ul));
        return (error, error != 0 ? default : ParseAttributes(0, reply.AsSpan(16)));
    }

    public (int Error, Entry Entry) SetAttributes(ulong node, uint valid, ulong size = 0, uint mode = 0, uint user = 0, uint group = 0, ulong handle = 0, ulong seconds = 0)
    {
        (int error, byte[] reply) = Call(FuseOperation.SetAttributes, node, Bytes(
            valid, 0u, handle, size, 0ul, seconds, seconds, seconds, 5u, 6u, 7u, mode, 0u, user, group, 0u));
        return (error, error != 0 ? default : ParseAttributes(0, reply.AsSpan(16)));
    }

    public string ReadLink(ulong node)
    {
        (int error, byte[] reply) = Call(FuseOperation.ReadLink, node, []);
        Xunit.Assert.Equal(0, error);
        return Encoding.UTF8.GetString(reply);
    }

    /// <summary>All entries of a folder, read in replies of <paramref name="size"/> bytes.</summary>
    public List<(string Name, ulong Node, uint Type)> List(ulong node, int size = 4096, bool plus = false)
    {
        (int error, ulong handle, _) = Open(node, 0, folder: true);
        Xunit.Assert.Equal(0, error);
        List<(string, ulong, uint)> all = [];
        for (ulong offset = 0; ;)
        {
            (error, byte[] reply) = Call(plus ? FuseOperation.ReadFolderPlus : FuseOperation.ReadFolder, node, Bytes(handle, offset, (uint)size, 0u, 0ul, 0u, 0u), size + 16);
            Xunit.Assert.Equal(0, error);
            if (reply.Length == 0)
            {
                break;
            }
            for (int at = 0; at < reply.Length;)
            {
                ulong found = plus ? BinaryPrimitives.ReadUInt64LittleEndian(reply.AsSpan(at)) : 0;
                at += plus ? 128 : 0;
                int length = BinaryPrimitives.ReadInt32LittleEndian(reply.AsSpan(at + 16));
                offset = BinaryPrimitives.ReadUInt64LittleEndian(reply.AsSpan(at + 8));
                all.Add((Encoding.UTF8.GetString(reply, at + 24, length), found, BinaryPrimitives.ReadUInt32LittleEndian(reply.AsSpan(at + 20))));
                at += (24 + length + 7) & ~7;
            }
        }
        Xunit.Assert.Equal(0, Release(handle, folder: true));
        return all;
    }

    /// <summary>Numbers, little-endian, one after the other.</summary>
    public static byte[] Bytes(params ReadOnlySpan<object> values)
    {
        List<byte> bytes = [];
        foreach (object value in values)
        {
            bytes.AddRange(value switch
            {
                int number => BitConverter.GetBytes(number),
                uint number => BitConverter.GetBytes(number),
                ulong number => BitConverter.GetBytes(number),
                _ => throw new ArgumentException(value.GetType().Name),
            });
        }
        return [.. bytes];
    }

    public static byte[] Text(string text) => Encoding.UTF8.GetBytes(text + "\0");

    private static (int Error, Entry Entry) Entered((int Error, byte[] Reply) result) => (result.Error, result.Error != 0 ? default : ParseEntry(result.Reply));

    private static Entry ParseEntry(byte[] reply) => ParseAttributes(BinaryPrimitives.ReadUInt64LittleEndian(reply), reply.AsSpan(40));

    private static Entry ParseAttributes(ulong node, ReadOnlySpan<byte> attributes) => new(
        node,
        BinaryPrimitives.ReadUInt64LittleEndian(attributes),
        BinaryPrimitives.ReadUInt64LittleEndian(attributes[8..]),
        BinaryPrimitives.ReadUInt32LittleEndian(attributes[60..]),
        BinaryPrimitives.ReadUInt32LittleEndian(attributes[64..]),
        BinaryPrimitives.ReadUInt32LittleEndian(attributes[68..]),
        BinaryPrimitives.ReadUInt32LittleEndian(attributes[72..]),
        BinaryPrimitives.ReadUInt32LittleEndian(attributes[84..]));
}
