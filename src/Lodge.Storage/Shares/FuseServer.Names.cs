using System.Buffers.Binary;

namespace Lodge.Storage.Shares;

/// <content>What is done with names in folders: look-up, making, removing, renaming.</content>
public sealed partial class FuseServer
{
    /// <summary>A leased node that is given back at the end of a block.</summary>
    private readonly ref struct Lease
    {
        private readonly ShareNodes _nodes;

        public Lease(ShareNodes nodes, ulong id)
        {
            _nodes = nodes;
            Error = nodes.Acquire(id, out ShareNode node);
            Node = node;
        }

        /// <summary>0, or a negated error number: there is no node.</summary>
        public int Error { get; }

        public ShareNode Node { get; }

        public int Descriptor => Node.Descriptor;

        public void Dispose()
        {
            if (Error == 0)
            {
                _nodes.Release(Node);
            }
        }
    }

    private int Lookup(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        int result = body.Name(0, out ReadOnlySpan<byte> name);
        if (result < 0)
        {
            return result;
        }
        using Lease folder = new(_nodes, request.Node);
        return folder.Error != 0 ? folder.Error : Enter(folder.Node, name, work.Output.AsSpan(FuseProtocol.OutHeaderLength));
    }

    /// <summary>Finds a name in a folder, counts the look-up and writes the entry.</summary>
    /// <returns>Bytes written, or a negated error number.</returns>
    private int Enter(ShareNode folder, ReadOnlySpan<byte> name, Span<byte> entry)
    {
        int descriptor = ShareSystemCalls.OpenName(folder.Descriptor, name, ShareSystemCalls.PathOnly);
        return descriptor < 0 ? descriptor : EnterOpened(folder, name, descriptor, entry);
    }

    /// <summary>The same for what is opened already; takes the descriptor over.</summary>
    private int EnterOpened(ShareNode folder, ReadOnlySpan<byte> name, int descriptor, Span<byte> entry)
    {
        int result = ShareSystemCalls.Status(descriptor, out ShareStatus status);
        bool mount = result == 0 && status.Device != folder.Identity.Device;
        if (result == 0 && mount && IsHidden(descriptor))
        {
            result = -ErrorNumber.AccessDenied;
        }
        if (result < 0)
        {
            _ = ShareSystemCalls.Close(descriptor);
            return result;
        }
        result = _nodes.Enter(folder, name, descriptor, status, out ShareNode node);
        if (result < 0)
        {
            return result;
        }
        bool submount = mount && status.Type == ModeBits.Folder && (_features & FuseFeatures.Submounts) != 0;
        WriteEntry(entry, node.Id, status, submount);
        _nodes.Release(node);
        return FuseProtocol.EntryLength;
    }

    /// <summary>struct fuse_entry_out. Generations are all 0, as numbers of nodes are not used again.</summary>
    private void WriteEntry(Span<byte> entry, ulong node, in ShareStatus status, bool submount)
    {
        entry[..40].Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(entry, node);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[16..], _timeout);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[24..], _timeout);
        WriteAttributes(entry[40..], status);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[(40 + 84)..], submount ? FuseProtocol.AttributeSubmount : 0);
    }

    private int MakeFolder(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        uint mode = body.UInt32(0) & (ModeBits.Permissions & ~(uint)ModeBits.SetUser);
        return Make(request, body, 8, work, (folder, name) => ShareSystemCalls.MakeFolder(folder, name, mode), ModeBits.Folder, mode);
    }

    private int MakeNode(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        uint mode = body.UInt32(0);
        int type = (int)mode & ModeBits.TypeMask;
        if (type is not (ModeBits.Regular or ModeBits.Fifo or ModeBits.Socket))
        {
            return -ErrorNumber.NotPermitted;       // a device would be one of the host's
        }
        mode = FilePermissions(mode);
        return Make(request, body, 16, work, (folder, name) => ShareSystemCalls.MakeNode(folder, name, (uint)type | mode), type, mode);
    }

    private int MakeSymbolicLink(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        int result = body.Text(0, FuseProtocol.MaximumName, out ReadOnlySpan<byte> name);
        if (result < 0)
        {
            return result;
        }
        result = body.Text(name.Length, FuseProtocol.MaximumLink, out ReadOnlySpan<byte> target);
        if (result < 0 || target.Length == 1)
        {
            return result < 0 ? result : -ErrorNumber.NoEntry;
        }
        byte[] copy = target.ToArray();
        return Make(request, body, 0, work, (folder, text) => ShareSystemCalls.MakeLink(copy, folder, text), ModeBits.Link, 0);
    }

    private delegate int Maker(int folder, ReadOnlySpan<byte> name);

    /// <summary>Makes something under a name as the caller, gives it the mode that this process's own mask took from it, and enters it.</summary>
    private int Make(in FuseRequest request, FuseBody body, int nameAt, FuseWorkspace work, Maker make, int type, uint mode)
    {
        int result = body.Name(nameAt, out ReadOnlySpan<byte> name);
        if (result < 0 || _options.ReadOnly)
        {
            return result < 0 ? result : -ErrorNumber.ReadOnlyFileSystem;
        }
        using Lease folder = new(_nodes, request.Node);
        if (folder.Error != 0)
        {
            return folder.Error;
        }
        using (ShareOwners.Scope scope = _owners.Create(request.User, request.Group))
        {
            result = scope.Entered ? make(folder.Descriptor, name) : -ErrorNumber.NotPermitted;
        }
        if (result < 0)
        {
            return result;
        }
        int descriptor = ShareSystemCalls.OpenName(folder.Descriptor, name, ShareSystemCalls.PathOnly);
        if (descriptor < 0)
        {
            return descriptor;
        }
        if (type != ModeBits.Link)
        {
            RestoreMode(descriptor, type, mode);
        }
        return EnterOpened(folder.Node, name, descriptor, work.Output.AsSpan(FuseProtocol.OutHeaderLength));
    }

    /// <summary>Sets mode bits of a new file that this process's mask took away: the caller's own mask was applied in the guest.</summary>
    private void RestoreMode(int descriptor, int type, uint mode)
    {
        uint masked = mode & _umask;
        if (masked != 0 && ShareSystemCalls.Status(descriptor, out ShareStatus status) == 0 && status.Type == type && (status.Mode & masked) != masked)
        {
            _ = ShareSystemCalls.ChangeMode(descriptor, (status.Mode & (uint)ModeBits.Permissions) | masked);
        }
    }

    /// <summary>The mode that a file may have: no bits by which a guest's file would give rights to whoever starts it on the host.</summary>
    private static uint FilePermissions(uint mode) => mode & ModeBits.Permissions & ~(uint)(ModeBits.SetUser | ModeBits.SetGroup);

    private int MakeLink(in FuseRequest request, FuseBody body, FuseWorkspace work)
    {
        int result = body.Name(8, out ReadOnlySpan<byte> name);
        if (result < 0 || _options.ReadOnly)
        {
            return result < 0 ? result : -ErrorNumber.ReadOnlyFileSystem;
        }
        using Lease folder = new(_nodes, request.Node);
        if (folder.Error != 0)
        {
            return folder.Error;
        }
        using Lease file = new(_nodes, body.UInt64(0));
        if (file.Error != 0)
        {
            return file.Error;
        }
        if (file.Node.Type == ModeBits.Folder)
        {
            return -ErrorNumber.NotPermitted;
        }
        result = ShareSystemCalls.LinkDescriptor(file.Descriptor, folder.Descriptor, name);
        return result < 0 ? result : Enter(folder.Node, name, work.Output.AsSpan(FuseProtocol.OutHeaderLength));
    }

    private int Remove(in FuseRequest request, FuseBody body, int flags)
    {
        int result = body.Name(0, out ReadOnlySpan<byte> name);
        if (result < 0 || _options.ReadOnly)
        {
            return result < 0 ? result : -ErrorNumber.ReadOnlyFileSystem;
        }
        using Lease folder = new(_nodes, request.Node);
        return folder.Error != 0 ? folder.Error : ShareSystemCalls.Unlink(folder.Descriptor, name, flags);
    }

    private int Rename(in FuseRequest request, FuseBody body, int fixedLength)
    {
        // fuse_rename_in: newdir; fuse_rename2_in: newdir, flags, padding; then both names.
        uint flags = fixedLength == 16 ? body.UInt32(8) : 0;
        int result = body.Name(fixedLength, out ReadOnlySpan<byte> from);
        if (result < 0)
        {
            return result;
        }
        result = body.Name(fixedLength + from.Length, out ReadOnlySpan<byte> to);
        if (result < 0 || _options.ReadOnly)
        {
            return result < 0 ? result : -ErrorNumber.ReadOnlyFileSystem;
        }
        if ((flags & ~(ShareSystemCalls.NoReplace | ShareSystemCalls.Exchange)) != 0)
        {
            return -ErrorNumber.Invalid;
        }
        using Lease source = new(_nodes, request.Node);
        if (source.Error != 0)
        {
            return source.Error;
        }
        using Lease target = new(_nodes, body.UInt64(0));
        if (target.Error != 0)
        {
            return target.Error;
        }
        result = ShareSystemCalls.Rename(source.Descriptor, from, target.Descriptor, to, flags);
        if (result < 0)
        {
            return result;
        }
        if (ShareSystemCalls.StatusOfName(target.Descriptor, to, out ShareStatus status) == 0)
        {
            _nodes.Moved(status, target.Node, to);
        }
        if ((flags & ShareSystemCalls.Exchange) != 0 && ShareSystemCalls.StatusOfName(source.Descriptor, from, out status) == 0)
        {
            _nodes.Moved(status, source.Node, from);
        }
        return 0;
    }

    private int ReadLink(in FuseRequest request, FuseWorkspace work)
    {
        using Lease link = new(_nodes, request.Node);
        return link.Error != 0 ? link.Error
            : link.Node.Type != ModeBits.Link ? -ErrorNumber.Invalid
            : ShareSystemCalls.ReadLink(link.Descriptor, work.Output.AsSpan(FuseProtocol.OutHeaderLength, FuseProtocol.MaximumLink + 1));
    }
}
