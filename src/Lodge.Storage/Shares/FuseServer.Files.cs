using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Shares;

/// <content>Open files: their content.</content>
public sealed partial class FuseServer
{
    /// <summary>Most bytes that one COPY_FILE_RANGE copies; the client asks for the rest.</summary>
    private const ulong MaximumCopy = 64 << 20;

    /// <summary>A file whose last change is younger may change again without a new time of change (the tick of the host's clock, or of a file server's).</summary>
    private const long SettledMilliseconds = 2_000;

    private const int KeepSize = 1, PunchHole = 2, ZeroRange = 0x10;

    private int Open(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        int flags = (int)body.UInt32(0);
        using Lease file = new(_nodes, request.Node);
        if (file.Error != 0)
        {
            return file.Error;
        }
        int result = CheckOpen(file.Node.Type, flags);
        if (result < 0)
        {
            return result;
        }
        using (ShareOwners.Scope scope = _owners.DropSetId((body.UInt32(4) & FuseProtocol.OpenKillPrivileges) != 0))
        {
            result = ShareSystemCalls.Reopen(file.Descriptor, HostFlags(flags));
        }
        return result < 0 ? result : AddHandle(result, flags, file.Node, work.Output.AsSpan(FuseProtocol.OutHeaderLength));
    }

    private int Create(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        // fuse_create_in: flags, mode, umask, open_flags; then the name.
        int flags = (int)body.UInt32(0);
        uint mode = FilePermissions(body.UInt32(4));
        int result = body.Name(16, out ReadOnlySpan<byte> name);
        if (result < 0 || _options.ReadOnly)
        {
            return result < 0 ? result : -ErrorNumber.ReadOnlyFileSystem;
        }
        if (!_handles.HasRoom)
        {
            return -ErrorNumber.TooManyOpen;
        }
        using Lease folder = new(_nodes, request.Node);
        if (folder.Error != 0)
        {
            return folder.Error;
        }
        for (int tries = 0; ; tries++)
        {
            using (ShareOwners.Scope scope = _owners.Create(request.User, request.Group))
            {
                result = !scope.Entered ? -ErrorNumber.NotPermitted
                    : ShareSystemCalls.OpenName(folder.Descriptor, name, HostFlags(flags) | ShareSystemCalls.Create | ShareSystemCalls.Exclusive, mode);
            }
            if (result >= 0)
            {
                RestoreMode(result, ModeBits.Regular, mode);
                break;
            }
            if (result != -ErrorNumber.Exists || (flags & ShareSystemCalls.Exclusive) != 0)
            {
                return result;
            }
            // It came into being on the host since the guest looked: opened as any other, after its type was seen.
            result = OpenExisting(folder.Descriptor, name, flags);
            if (result >= 0)
            {
                break;
            }
            if (result != -ErrorNumber.NoEntry || tries == 3)
            {
                return result;
            }
        }
        int descriptor = result;
        int path = ShareSystemCalls.Reopen(descriptor, ShareSystemCalls.PathOnly);
        Span<byte> reply = work.Output.AsSpan(FuseProtocol.OutHeaderLength);
        result = path < 0 ? path : EnterOpened(folder.Node, name, path, reply);
        if (result < 0)
        {
            _ = ShareSystemCalls.Close(descriptor);
            return result;
        }
        ulong node = BinaryPrimitives.ReadUInt64LittleEndian(reply);
        int opened = AddHandle(descriptor, flags, null, reply[result..]);
        if (opened < 0)
        {
            _nodes.Forget(node, 1);
            return opened;
        }
        return result + opened;
    }

    private int OpenExisting(int folder, ReadOnlySpan<byte> name, int flags)
    {
        int path = ShareSystemCalls.OpenName(folder, name, ShareSystemCalls.PathOnly);
        if (path < 0)
        {
            return path;
        }
        int result = ShareSystemCalls.Status(path, out ShareStatus status);
        result = result < 0 ? result : CheckOpen(status.Type, flags);
        result = result < 0 ? result : ShareSystemCalls.Reopen(path, HostFlags(flags));
        _ = ShareSystemCalls.Close(path);
        return result;
    }

    /// <summary>Only regular files are opened: what devices, pipes and sockets do is the business of the guest's own kernel.</summary>
    private int CheckOpen(int type, int flags)
    {
        bool write = (flags & ShareSystemCalls.AccessModeMask) != ShareSystemCalls.ReadOnly || (flags & ShareSystemCalls.Truncate) != 0;
        return type == ModeBits.Folder ? -ErrorNumber.IsFolder
            : type != ModeBits.Regular ? -ErrorNumber.Invalid
            : write && _options.ReadOnly ? -ErrorNumber.ReadOnlyFileSystem
            : _handles.HasRoom ? 0 : -ErrorNumber.TooManyOpen;
    }

    /// <summary>What of a guest's flags counts on the host. O_DIRECT does not: the guest's own cache is passed by without it.</summary>
    private static int HostFlags(int flags)
    {
        int mode = flags & ShareSystemCalls.AccessModeMask;
        return (mode == ShareSystemCalls.AccessModeMask ? ShareSystemCalls.ReadWrite : mode)
            | (flags & (ShareSystemCalls.Truncate | ShareSystemCalls.FullSync | ShareSystemCalls.DataSync)) | ShareSystemCalls.NonBlocking;
    }

    /// <summary>struct fuse_open_out.</summary>
    private int AddHandle(int descriptor, int flags, ShareNode? node, Span<byte> reply)
    {
        bool keep = node is not null && (_options.Cache == ShareCache.Always || (_options.Cache == ShareCache.Auto && Unchanged(node, descriptor)));
        ulong number = _handles.Add(new ShareHandle { Descriptor = descriptor, Append = (flags & ShareSystemCalls.Append) != 0 });
        if (number == 0)
        {
            return -ErrorNumber.TooManyOpen;
        }
        WriteOpen(reply, number, keep ? FuseProtocol.OpenKeepCache : 0);
        return FuseProtocol.OpenReplyLength;
    }

    private static void WriteOpen(Span<byte> reply, ulong number, uint flags)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(reply, number);
        BinaryPrimitives.WriteUInt64LittleEndian(reply[8..], flags);
    }

    /// <summary>Whether the file is as it was when the guest last opened it, so that what the guest has cached of it is still right.</summary>
    private static bool Unchanged(ShareNode node, int descriptor)
    {
        if (ShareSystemCalls.Status(descriptor, out ShareStatus status) < 0)
        {
            return false;
        }
        long age = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds() - (status.Change.Seconds * 1000) - (status.Change.Nanoseconds / 1_000_000);
        lock (node)
        {
            bool same = node.OpenedSettled && Same(node.OpenedChange, status.Change) && Same(node.OpenedModification, status.Modification);
            (node.OpenedChange, node.OpenedModification, node.OpenedSettled) = (status.Change, status.Modification, age >= SettledMilliseconds);
            return same;
        }
    }

    private static bool Same(in ShareTime one, in ShareTime other) => one.Seconds == other.Seconds && one.Nanoseconds == other.Nanoseconds;

    private int Read(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        // fuse_read_in: fh, offset, size, ...
        ulong offset = body.UInt64(8);
        uint size = Math.Min(body.UInt32(16), FuseProtocol.MaximumTransfer);
        uint room = request.Exchange.ReplyCapacity;
        if (room < FuseProtocol.OutHeaderLength || offset > long.MaxValue)
        {
            return -ErrorNumber.Invalid;
        }
        size = Math.Min(size, room - FuseProtocol.OutHeaderLength);
        if (_handles.Take(body.UInt64(0), folder: false) is not { } handle)
        {
            return -ErrorNumber.BadHandle;
        }
        int total = 0, result = 0;
        while (total < size)
        {
            if (!request.Exchange.TryLendReply(FuseProtocol.OutHeaderLength + (uint)total, size - (uint)total, out IoVector data))
            {
                result = -ErrorNumber.InputOutput;
                break;
            }
            result = ShareSystemCalls.Transfer(handle.Descriptor, write: false, (long)offset + total, data, 0);
            if (result <= 0)
            {
                break;
            }
            total += result;
        }
        _handles.GiveBack(handle);
        if (result < 0 && total == 0)
        {
            return result;
        }
        WriteHeader(work.Output, (uint)(FuseProtocol.OutHeaderLength + total), 0, request.Unique);
        request.Exchange.Reply(work.Output.AsSpan(0, FuseProtocol.OutHeaderLength));
        request.Exchange.Filled((uint)total);
        return Replied;
    }

    private int Write(in FuseRequest request, FuseWorkspace work)
    {
        // fuse_write_in: fh, offset, size, write_flags, lock_owner, flags, padding
        Span<byte> head = work.Input.AsSpan(0, 40);
        if (request.Exchange.Read(head) != head.Length)
        {
            return -ErrorNumber.Invalid;
        }
        FuseBody body = new(head);
        ulong offset = body.UInt64(8);
        uint size = body.UInt32(16), writeFlags = body.UInt32(20);
        if (_options.ReadOnly)
        {
            return -ErrorNumber.ReadOnlyFileSystem;
        }
        if (size > FuseProtocol.MaximumTransfer || size > request.Exchange.Unread || offset > (ulong)long.MaxValue - size
            || !request.Exchange.TryLendUnread(size, out IoVector data))
        {
            return -ErrorNumber.Invalid;
        }
        if (_handles.Take(body.UInt64(0), folder: false) is not { } handle)
        {
            return -ErrorNumber.BadHandle;
        }
        int flags = handle.Append && (writeFlags & FuseProtocol.WriteFromCache) == 0 ? ShareSystemCalls.WriteAppend : 0;
        int total = 0, result = 0;
        using (ShareOwners.Scope scope = _owners.DropSetId((writeFlags & FuseProtocol.WriteKillPrivileges) != 0))
        {
            while (total < size)
            {
                result = ShareSystemCalls.Transfer(handle.Descriptor, write: true, (long)offset + total, data.Slice(total, size - total), flags);
                if (result <= 0)
                {
                    break;
                }
                total += result;
            }
        }
        _handles.GiveBack(handle);
        if (result < 0 && total == 0)
        {
            return result;
        }
        BinaryPrimitives.WriteUInt64LittleEndian(work.Output.AsSpan(FuseProtocol.OutHeaderLength), (uint)total);
        return 8;
    }

    private int Synchronize(FuseBody body, bool folder)
    {
        if (_handles.Take(body.UInt64(0), folder) is not { } handle)
        {
            return -ErrorNumber.BadHandle;
        }
        int result = ShareSystemCalls.Synchronize(handle.Descriptor, (body.UInt32(8) & FuseProtocol.SynchronizeDataOnly) != 0);
        _handles.GiveBack(handle);
        return result;
    }

    private int Allocate(FuseBody body)
    {
        // fuse_fallocate_in: fh, offset, length, mode
        ulong offset = body.UInt64(8), length = body.UInt64(16);
        uint mode = body.UInt32(24);
        if (_options.ReadOnly)
        {
            return -ErrorNumber.ReadOnlyFileSystem;
        }
        if (offset > long.MaxValue || length > long.MaxValue)
        {
            return -ErrorNumber.Invalid;
        }
        if ((mode & ~(uint)(KeepSize | PunchHole | ZeroRange)) != 0)
        {
            return -ErrorNumber.Unsupported;
        }
        if (_handles.Take(body.UInt64(0), folder: false) is not { } handle)
        {
            return -ErrorNumber.BadHandle;
        }
        int result = ShareSystemCalls.Allocate(handle.Descriptor, (int)mode, (long)offset, (long)length);
        _handles.GiveBack(handle);
        return result;
    }

    private int Seek(FuseBody body, FuseWorkspace work)
    {
        // fuse_lseek_in: fh, offset, whence. Only SEEK_DATA (3) and SEEK_HOLE (4) need the host.
        uint whence = body.UInt32(16);
        if (whence is not (3 or 4) || body.UInt64(8) > long.MaxValue)
        {
            return -ErrorNumber.Invalid;
        }
        if (_handles.Take(body.UInt64(0), folder: false) is not { } handle)
        {
            return -ErrorNumber.BadHandle;
        }
        long result = ShareSystemCalls.Seek(handle.Descriptor, (long)body.UInt64(8), (int)whence);
        _handles.GiveBack(handle);
        if (result < 0)
        {
            return (int)result;
        }
        BinaryPrimitives.WriteInt64LittleEndian(work.Output.AsSpan(FuseProtocol.OutHeaderLength), result);
        return 8;
    }

    private int CopyRange(FuseBody body, FuseWorkspace work)
    {
        // fuse_copy_file_range_in: fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
        ulong from = body.UInt64(8), to = body.UInt64(32), length = Math.Min(body.UInt64(40), MaximumCopy);
        if (_options.ReadOnly)
        {
            return -ErrorNumber.ReadOnlyFileSystem;
        }
        if (from > long.MaxValue || to > long.MaxValue || body.UInt64(48) != 0)
        {
            return -ErrorNumber.Invalid;
        }
        if (_handles.Take(body.UInt64(0), folder: false) is not { } source)
        {
            return -ErrorNumber.BadHandle;
        }
        long result = -ErrorNumber.BadHandle;
        if (_handles.Take(body.UInt64(24), folder: false) is { } target)
        {
            result = ShareSystemCalls.CopyRange(source.Descriptor, (long)from, target.Descriptor, (long)to, length);
            _handles.GiveBack(target);
        }
        _handles.GiveBack(source);
        if (result < 0)
        {
            return (int)result;
        }
        BinaryPrimitives.WriteInt64LittleEndian(work.Output.AsSpan(FuseProtocol.OutHeaderLength), result);
        return 8;
    }
}
