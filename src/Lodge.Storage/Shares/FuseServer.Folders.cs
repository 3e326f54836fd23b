using System.Buffers.Binary;

namespace Lodge.Storage.Shares;

/// <content>Open folders: their entries.</content>
public sealed partial class FuseServer
{
    private const byte TypeFolder = 4;      // DT_DIR

    private int OpenFolder(in FuseRequest request, FuseWorkspace work)
    {
        using Lease folder = new(_nodes, request.Node);
        if (folder.Error != 0)
        {
            return folder.Error;
        }
        if (folder.Node.Type != ModeBits.Folder)
        {
            return -ErrorNumber.NotFolder;
        }
        if (!_handles.HasRoom)
        {
            return -ErrorNumber.TooManyOpen;
        }
        int descriptor = ShareSystemCalls.Reopen(folder.Descriptor, ShareSystemCalls.ReadOnly | ShareSystemCalls.Folder);
        if (descriptor < 0)
        {
            return descriptor;
        }
        ulong number = _handles.Add(new ShareHandle { Descriptor = descriptor, Folder = new FolderStream(descriptor) });
        if (number == 0)
        {
            return -ErrorNumber.TooManyOpen;
        }
        WriteOpen(work.Output.AsSpan(FuseProtocol.OutHeaderLength), number, 0);
        return FuseProtocol.OpenReplyLength;
    }

    private int ReadFolder(in FuseRequest request, FuseBody body, FuseWorkspace work, bool plus)
    {
        // fuse_read_in: fh, offset, size
        long offset = (long)body.UInt64(8);
        uint size = body.UInt32(16);
        uint room = request.Exchange.ReplyCapacity;
        size = Math.Min(Math.Min(size, FuseProtocol.MaximumReply), room < FuseProtocol.OutHeaderLength ? 0 : room - FuseProtocol.OutHeaderLength);
        using Lease folder = new(_nodes, request.Node);
        if (folder.Error != 0)
        {
            return folder.Error;
        }
        if (_handles.Take(body.UInt64(0), folder: true) is not { } handle)
        {
            return -ErrorNumber.BadHandle;
        }
        int result;
        lock (handle.Folder!)
        {
            result = ReadEntries(handle.Folder, folder.Node, offset, work.Output.AsSpan(FuseProtocol.OutHeaderLength, (int)size), plus);
        }
        _handles.GiveBack(handle);
        return result;
    }

    private int ReadEntries(FolderStream stream, ShareNode folder, long position, Span<byte> reply, bool plus)
    {
        int used = 0;
        int head = plus ? FuseProtocol.EntryLength : 0;
        while (true)
        {
            int result = stream.Read(position, out FolderEntry entry);
            if (result <= 0)
            {
                return used != 0 ? used : result;
            }
            // With the zero byte that follows it in the buffer.
            ReadOnlySpan<byte> name = stream.Buffer.Slice(entry.NameStart, entry.NameLength + 1);
            bool dots = name.SequenceEqual(".\0"u8) || name.SequenceEqual("..\0"u8);
            int length = head + FuseProtocol.DirentLength(entry.NameLength);
            if (entry.NameLength > FuseProtocol.MaximumName || length > reply.Length - used)
            {
                if (entry.NameLength <= FuseProtocol.MaximumName)
                {
                    return used != 0 ? used : -ErrorNumber.Invalid;
                }
                stream.Advance(entry);
                position = entry.Next;
                continue;
            }
            Span<byte> record = reply.Slice(used, length);
            record.Clear();
            if (plus && !dots && Enter(folder, name, record) < 0)
            {
                record[..head].Clear();     // gone meanwhile, or not to be known: the guest looks it up itself
            }
            // The folder above the shared one is none of the guest's business.
            ulong inode = name.Length == 3 && dots && folder == _nodes.Root ? folder.Identity.Inode : entry.Inode;
            BinaryPrimitives.WriteUInt64LittleEndian(record[head..], inode);
            BinaryPrimitives.WriteInt64LittleEndian(record[(head + 8)..], entry.Next);
            BinaryPrimitives.WriteInt32LittleEndian(record[(head + 16)..], entry.NameLength);
            BinaryPrimitives.WriteUInt32LittleEndian(record[(head + 20)..], dots ? TypeFolder : entry.Type);
            name[..^1].CopyTo(record[(head + FuseProtocol.DirentHeaderLength)..]);
            used += length;
            stream.Advance(entry);
            position = entry.Next;
        }
    }
}
