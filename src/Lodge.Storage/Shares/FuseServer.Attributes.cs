using System.Buffers.Binary;

namespace Lodge.Storage.Shares;

/// <content>Attributes of files, plain and extended, and of the file system.</content>
public sealed partial class FuseServer
{
    private const long TimeNow = 0x3FFFFFFF, TimeOmitted = 0x3FFFFFFE;      // UTIME_NOW, UTIME_OMIT

    private int GetAttributes(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        Span<byte> reply = work.Output.AsSpan(FuseProtocol.OutHeaderLength);
        if ((body.UInt32(0) & FuseProtocol.GetByHandle) != 0 && _handles.Take(body.UInt64(8), folder: false) is { } handle)
        {
            int result = WriteAttributeReply(handle.Descriptor, reply);
            _handles.GiveBack(handle);
            return result;
        }
        using Lease file = new(_nodes, request.Node);
        return file.Error != 0 ? file.Error : WriteAttributeReply(file.Descriptor, reply);
    }

    private int WriteAttributeReply(int descriptor, Span<byte> reply)
    {
        int result = ShareSystemCalls.Status(descriptor, out ShareStatus status);
        if (result < 0)
        {
            return result;
        }
        BinaryPrimitives.WriteUInt64LittleEndian(reply, _timeout);
        BinaryPrimitives.WriteUInt64LittleEndian(reply[8..], 0);
        WriteAttributes(reply[16..], status);
        return FuseProtocol.AttributeReplyLength;
    }

    /// <summary>struct fuse_attr.</summary>
    private void WriteAttributes(Span<byte> reply, in ShareStatus status)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(reply, status.Inode);
        BinaryPrimitives.WriteUInt64LittleEndian(reply[8..], status.Size);
        BinaryPrimitives.WriteUInt64LittleEndian(reply[16..], status.Blocks);
        BinaryPrimitives.WriteInt64LittleEndian(reply[24..], status.Access.Seconds);
        BinaryPrimitives.WriteInt64LittleEndian(reply[32..], status.Modification.Seconds);
        BinaryPrimitives.WriteInt64LittleEndian(reply[40..], status.Change.Seconds);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[48..], status.Access.Nanoseconds);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[52..], status.Modification.Nanoseconds);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[56..], status.Change.Nanoseconds);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[60..], status.Mode);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[64..], status.Links);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[68..], _owners.ToGuestUser(status.User));
        BinaryPrimitives.WriteUInt32LittleEndian(reply[72..], _owners.ToGuestGroup(status.Group));
        // Linux's 32-bit form of a device number.
        BinaryPrimitives.WriteUInt32LittleEndian(reply[76..], (status.SpecialMinor & 0xFF) | (status.SpecialMajor << 8) | ((status.SpecialMinor & ~0xFFU) << 12));
        BinaryPrimitives.WriteUInt32LittleEndian(reply[80..], status.BlockSize);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[84..], 0);
    }

    private int SetAttributes(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        if (_options.ReadOnly)
        {
            return -ErrorNumber.ReadOnlyFileSystem;
        }
        // fuse_setattr_in: valid, padding, fh, size, lock_owner, atime, mtime, ctime, three times nanoseconds, mode, unused, uid, gid
        uint valid = body.UInt32(0);
        using Lease file = new(_nodes, request.Node);
        if (file.Error != 0)
        {
            return file.Error;
        }
        int result = 0;
        if ((valid & FuseProtocol.SetMode) != 0)
        {
            uint mode = body.UInt32(68) & ModeBits.Permissions;
            mode = file.Node.Type == ModeBits.Folder ? mode & ~(uint)ModeBits.SetUser : FilePermissions(mode);
            result = ShareSystemCalls.ChangeMode(file.Descriptor, mode);
        }
        if (result >= 0 && (valid & (FuseProtocol.SetUser | FuseProtocol.SetGroup)) != 0)
        {
            result = ChangeOwner(file.Descriptor, valid, body.UInt32(76), body.UInt32(80));
        }
        if (result >= 0 && (valid & FuseProtocol.SetSize) != 0)
        {
            ulong size = body.UInt64(16);
            using ShareOwners.Scope scope = _owners.DropSetId((valid & FuseProtocol.SetKillPrivileges) != 0);
            result = size > long.MaxValue ? -ErrorNumber.Invalid
                : ChangeLength(file.Node, (valid & FuseProtocol.SetByHandle) != 0 ? body.UInt64(8) : 0, (long)size);
        }
        if (result >= 0 && (valid & (FuseProtocol.SetAccessTime | FuseProtocol.SetModificationTime)) != 0)
        {
            Span<long> times = stackalloc long[4];
            (times[0], times[1]) = Time(valid, FuseProtocol.SetAccessTime, FuseProtocol.SetAccessTimeNow, body.UInt64(32), body.UInt32(56));
            (times[2], times[3]) = Time(valid, FuseProtocol.SetModificationTime, FuseProtocol.SetModificationTimeNow, body.UInt64(40), body.UInt32(60));
            result = ShareSystemCalls.ChangeTimes(file.Descriptor, times);
        }
        return result < 0 ? result : WriteAttributeReply(file.Descriptor, work.Output.AsSpan(FuseProtocol.OutHeaderLength));
    }

    private static (long Seconds, long Nanoseconds) Time(uint valid, uint set, uint now, ulong seconds, uint nanoseconds) =>
        (valid & set) == 0 ? (0, TimeOmitted)
        : (valid & now) != 0 ? (0, TimeNow)
        : ((long)seconds, Math.Min(nanoseconds, 999_999_999));

    private int ChangeOwner(int descriptor, uint valid, uint user, uint group)
    {
        uint hostUser = uint.MaxValue, hostGroup = uint.MaxValue;
        if ((valid & FuseProtocol.SetUser) != 0 && !_owners.TryToHostUser(user, out hostUser))
        {
            return -ErrorNumber.NotPermitted;
        }
        if ((valid & FuseProtocol.SetGroup) != 0 && !_owners.TryToHostGroup(group, out hostGroup))
        {
            return -ErrorNumber.NotPermitted;
        }
        return ShareSystemCalls.ChangeOwner(descriptor, hostUser, hostGroup);
    }

    private int ChangeLength(ShareNode node, ulong handleNumber, long size)
    {
        if (handleNumber != 0 && _handles.Take(handleNumber, folder: false) is { } handle)
        {
            int result = ShareSystemCalls.ChangeLength(handle.Descriptor, size);
            _handles.GiveBack(handle);
            return result;
        }
        if (node.Type != ModeBits.Regular)
        {
            return node.Type == ModeBits.Folder ? -ErrorNumber.IsFolder : -ErrorNumber.Invalid;
        }
        int opened = ShareSystemCalls.Reopen(node.Descriptor, ShareSystemCalls.WriteOnly | ShareSystemCalls.NonBlocking);
        if (opened < 0)
        {
            return opened;
        }
        int changed = ShareSystemCalls.ChangeLength(opened, size);
        _ = ShareSystemCalls.Close(opened);
        return changed;
    }

    private int StatFileSystem(in FuseRequest request, FuseWorkspace work)
    {
        using Lease file = new(_nodes, request.Node);
        if (file.Error != 0)
        {
            return file.Error;
        }
        Span<long> numbers = stackalloc long[10];
        int result = ShareSystemCalls.StatFileSystem(file.Descriptor, numbers);
        if (result < 0)
        {
            return result;
        }
        Span<byte> reply = work.Output.AsSpan(FuseProtocol.OutHeaderLength, FuseProtocol.StatReplyLength);
        reply.Clear();
        for (int i = 0; i < 5; i++)
        {
            BinaryPrimitives.WriteInt64LittleEndian(reply[(i * 8)..], numbers[2 + i]);      // blocks, free, available, files, free files
        }
        BinaryPrimitives.WriteUInt32LittleEndian(reply[40..], (uint)numbers[1]);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[44..], (uint)Math.Min(numbers[8], FuseProtocol.MaximumName));
        BinaryPrimitives.WriteUInt32LittleEndian(reply[48..], (uint)numbers[9]);
        return reply.Length;
    }

    private int GetExtendedAttribute(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        int result = AttributeName(body, 8, out ReadOnlySpan<byte> name);
        if (result < 0)
        {
            return result == -ErrorNumber.Unsupported ? -ErrorNumber.NoData : result;
        }
        using Lease file = new(_nodes, request.Node);
        if (file.Error != 0)
        {
            return file.Error;
        }
        result = ShareSystemCalls.GetAttribute(file.Descriptor, name, work.Scratch.AsSpan(0, FuseProtocol.MaximumAttributeValue));
        return result < 0 ? result : ReplyAttribute(work, result, body.UInt32(0));
    }

    private int ListExtendedAttributes(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        using Lease file = new(_nodes, request.Node);
        if (file.Error != 0)
        {
            return file.Error;
        }
        int result = ShareSystemCalls.ListAttributes(file.Descriptor, work.Scratch.AsSpan(0, FuseProtocol.MaximumAttributeValue));
        if (result < 0)
        {
            return result;
        }
        int kept = 0;
        for (int at = 0; at < result;)
        {
            int end = work.Scratch.AsSpan(at, result - at).IndexOf((byte)0);
            int length = (end < 0 ? result - at : end + 1);
            if (IsShared(work.Scratch.AsSpan(at, length)))
            {
                work.Scratch.AsSpan(at, length).CopyTo(work.Scratch.AsSpan(kept));
                kept += length;
            }
            at += length;
        }
        return ReplyAttribute(work, kept, body.UInt32(0));
    }

    /// <summary>The value in the scratch buffer, or with no room given only its length.</summary>
    private static int ReplyAttribute(FuseWorkspace work, int length, uint room)
    {
        Span<byte> reply = work.Output.AsSpan(FuseProtocol.OutHeaderLength);
        if (room == 0)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(reply, (uint)length);
            return 8;
        }
        if (length > room)
        {
            return -ErrorNumber.Range;
        }
        work.Scratch.AsSpan(0, length).CopyTo(reply);
        return length;
    }

    private int SetExtendedAttribute(in FuseRequest request, FuseBody body)
    {
        // fuse_setxattr_in without FUSE_SETXATTR_EXT: size, flags; then name and value.
        int result = AttributeName(body, 8, out ReadOnlySpan<byte> name);
        if (result < 0 || _options.ReadOnly)
        {
            return result < 0 ? result : -ErrorNumber.ReadOnlyFileSystem;
        }
        uint size = body.UInt32(0), flags = body.UInt32(4);
        ReadOnlySpan<byte> value = body.From(8 + name.Length);
        if (size > value.Length || flags > 3)
        {
            return size > FuseProtocol.MaximumAttributeValue ? -ErrorNumber.TooBig : -ErrorNumber.Invalid;
        }
        using Lease file = new(_nodes, request.Node);
        return file.Error != 0 ? file.Error : ShareSystemCalls.SetAttribute(file.Descriptor, name, value[..(int)size], (int)flags);
    }

    private int RemoveExtendedAttribute(in FuseRequest request, FuseBody body)
    {
        int result = AttributeName(body, 0, out ReadOnlySpan<byte> name);
        if (result < 0 || _options.ReadOnly)
        {
            return result < 0 ? result : -ErrorNumber.ReadOnlyFileSystem;
        }
        using Lease file = new(_nodes, request.Node);
        return file.Error != 0 ? file.Error : ShareSystemCalls.RemoveAttribute(file.Descriptor, name);
    }

    private static int AttributeName(FuseBody body, int offset, out ReadOnlySpan<byte> name)
    {
        int result = body.Text(offset, FuseProtocol.MaximumName, out name);
        return result < 0 ? (result == -ErrorNumber.NameTooLong ? -ErrorNumber.Range : result) : IsShared(name) ? 0 : -ErrorNumber.Unsupported;
    }

    /// <summary>Only attributes without meaning to the host's kernel are shared: no capabilities, labels or access lists.</summary>
    private static bool IsShared(ReadOnlySpan<byte> name) => name.StartsWith("user."u8);
}
