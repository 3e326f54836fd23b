using System.Buffers.Binary;
using System.Diagnostics;

namespace Lodge.Storage.Shares;

/// <summary>
/// Shares a folder of the host by the FUSE protocol (Linux's <c>include/uapi/linux/fuse.h</c>, 7.31 and later). Nothing that the client sends reaches a file outside
/// the folder: it names files by numbers that it was given, and new ones by single names, which the kernel resolves in a folder held open, following no link
/// (<c>openat2</c> with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS). Devices, pipes and sockets are never opened.
/// </summary>
public sealed partial class FuseServer : IDisposable
{
    /// <summary>Most files and folders that are open: each folder has a buffer.</summary>
    private const int MostOpen = 1 << 14;

    private const int NoReply = int.MinValue;
    private const int Replied = int.MinValue + 1;

    private readonly ShareOptions _options;
    private readonly ShareNodes _nodes;
    private readonly ShareHandles _handles;
    private readonly ShareOwners _owners;
    private readonly ShareThreads _threads;
    private readonly int _root;             // the folder opened for reading, for syncfs; -1: it cannot be read
    private readonly uint _umask = ReadUmask();
    private readonly ulong _timeout;
    private volatile FuseFeatures _features;
    private volatile bool _initialized;
    private int _closing;           // 1: a thread will close what is not needed

    /// <summary>Shares a folder.</summary>
    /// <param name="path">The folder; a link to one is followed.</param>
    /// <param name="options">How.</param>
    /// <exception cref="ShareException">It cannot be shared.</exception>
    public FuseServer(string path, ShareOptions options)
    {
        _options = options;
        if (!ShareSystemCalls.HasProc)
        {
            throw new ShareException("folders can be shared only where /proc is mounted");
        }
        int root = ShareSystemCalls.OpenRoot(path);
        if (root < 0)
        {
            throw new ShareException(root switch
            {
                -ErrorNumber.NoEntry => $"folder '{path}' does not exist",
                -ErrorNumber.NotFolder => $"'{path}' is not a folder",
                -ErrorNumber.AccessDenied => $"folder '{path}' may not be opened",
                _ => $"folder '{path}' cannot be opened: error {-root}",
            });
        }
        int probe = ShareSystemCalls.OpenName(root, ".\0"u8, ShareSystemCalls.PathOnly);
        int result = probe < 0 ? probe : ShareSystemCalls.Status(root, out ShareStatus status);
        _ = probe >= 0 ? ShareSystemCalls.Close(probe) : 0;
        if (result < 0 || IsHidden(root))
        {
            _ = ShareSystemCalls.Close(root);
            throw new ShareException(probe == -ErrorNumber.NotImplemented
                ? "folders can be shared only with Linux 5.6 or later, outside of a sandbox that hides openat2"
                : result < 0 ? $"folder '{path}' cannot be used: error {-result}" : $"folder '{path}' shows processes of the host and cannot be shared");
        }
        _ = ShareSystemCalls.Status(root, out status);
        int descriptors = options.MaximumDescriptors > 0 ? options.MaximumDescriptors : (int)Math.Clamp(ShareSystemCalls.DescriptorLimit() / (8 * Math.Max(1, options.Among)), 32, 1 << 16);
        _nodes = new ShareNodes(root, status, Math.Max(options.MaximumNodes, 16), descriptors);
        _handles = new ShareHandles(Math.Min(descriptors, MostOpen));
        _owners = new ShareOwners(options.Owner, status);
        _threads = new ShareThreads(Math.Clamp(options.Threads, 1, 64), ServeOrClose);
        _root = Math.Max(-1, ShareSystemCalls.Reopen(root, ShareSystemCalls.ReadOnly | ShareSystemCalls.Folder));
        _timeout = options.Cache switch
        {
            ShareCache.None => 0,
            ShareCache.Always => 86400,
            _ => 1,
        };
    }

    /// <summary>Whether a client has set up a session, and not ended it.</summary>
    public bool InSession => _initialized;

    /// <summary>Files and folders that the client knows, with the shared folder itself.</summary>
    public int NodeCount => _nodes.Count;

    /// <summary>Files and folders that the client has open.</summary>
    public int OpenCount => _handles.Count;

    /// <summary>Descriptors held for what the client knows.</summary>
    internal int NodeDescriptors => _nodes.Descriptors;

    /// <summary>Serves a request on one of the share's threads; the exchange is told when it is done.</summary>
    public void Submit(IFuseExchange exchange) => _threads.Queue(exchange);

    /// <summary>Serves a request of the high-priority queue at once: FORGET and INTERRUPT, which do not wait for the host's file system. Others fail.</summary>
    public void ServePriority(IFuseExchange exchange)
    {
        Span<byte> header = stackalloc byte[FuseProtocol.InHeaderLength];
        if (exchange.Read(header) == header.Length)
        {
            FuseRequest request = new(header, exchange);
            switch (request.Operation)
            {
                case FuseOperation.Forget or FuseOperation.BatchForget:
                    Forget(request, stackalloc byte[1024]);
                    break;
                case FuseOperation.Interrupt:
                    break;          // no request waits for anything but the host's file system, which cannot be interrupted
                default:
                    ReplyError(request, ErrorNumber.NotImplemented);
                    break;
            }
        }
        exchange.Finished();
        if (_nodes.HasUnused && Interlocked.Exchange(ref _closing, 1) == 0)
        {
            _threads.Queue(null);
        }
    }

    /// <summary>Forgets the client: what it knew and had open. No request is being served.</summary>
    public void Reset()
    {
        _initialized = false;
        _features = 0;
        _handles.Clear();
        _nodes.Clear();
    }

    /// <summary>Closes everything. No request is being served.</summary>
    public void Dispose()
    {
        Reset();
        _nodes.Dispose();
        if (_root >= 0)
        {
            _ = ShareSystemCalls.Close(_root);
        }
    }

    /// <summary>Serves one request on the calling thread.</summary>
    internal void Serve(IFuseExchange exchange, FuseWorkspace work)
    {
        try
        {
            Span<byte> header = work.Output.AsSpan(0, FuseProtocol.InHeaderLength);
            if (exchange.Read(header) == header.Length)
            {
                FuseRequest request = new(header, exchange);
                int result = Dispatch(request, work);
                if (result is >= 0)
                {
                    Reply(request, work.Output, result);
                }
                else if (result is not (NoReply or Replied))
                {
                    ReplyError(request, -result);
                }
            }
        }
        catch (Exception e)
        {
            // Nothing is expected; a request without a reply, an error to the guest, is better than a machine that ends.
            Debug.Fail(e.ToString());
        }
        exchange.Finished();
        _nodes.CloseUnused();
    }

    private void ServeOrClose(IFuseExchange? exchange, FuseWorkspace work)
    {
        if (exchange is null)
        {
            Volatile.Write(ref _closing, 0);
            _nodes.CloseUnused();
            return;
        }
        Serve(exchange, work);
    }

    private int Dispatch(in FuseRequest request, FuseWorkspace work)
    {
        switch (request.Operation)
        {
            case FuseOperation.Forget or FuseOperation.BatchForget:
                Forget(request, work.Input);
                return NoReply;
            case FuseOperation.Interrupt:
                return NoReply;
            case FuseOperation.Write when _initialized:
                return Write(request, work);
        }
        int length = request.Exchange.Read(work.Input);
        if (length > FuseProtocol.MaximumBody)
        {
            return -ErrorNumber.TooBig;
        }
        FuseBody body = new(work.Input.AsSpan(0, length));
        if (request.Operation == FuseOperation.Initialize)
        {
            return Initialize(body, work.Output);
        }
        if (!_initialized)
        {
            return -ErrorNumber.InputOutput;
        }
        return request.Operation switch
        {
            FuseOperation.Lookup => Lookup(request, body, work),
            FuseOperation.GetAttributes => GetAttributes(request, body, work),
            FuseOperation.SetAttributes => SetAttributes(request, body, work),
            FuseOperation.ReadLink => ReadLink(request, work),
            FuseOperation.SymbolicLink => MakeSymbolicLink(request, body, work),
            FuseOperation.MakeNode => MakeNode(request, body, work),
            FuseOperation.MakeFolder => MakeFolder(request, body, work),
            FuseOperation.Unlink => Remove(request, body, 0),
            FuseOperation.RemoveFolder => Remove(request, body, ShareSystemCalls.RemoveFolder),
            FuseOperation.Rename => Rename(request, body, 8),
            FuseOperation.Rename2 => Rename(request, body, 16),
            FuseOperation.Link => MakeLink(request, body, work),
            FuseOperation.Open => Open(request, body, work),
            FuseOperation.Create => Create(request, body, work),
            FuseOperation.Read => Read(request, body, work),
            FuseOperation.Release => _handles.Release(body.UInt64(0), folder: false) ? 0 : -ErrorNumber.BadHandle,
            FuseOperation.Synchronize => Synchronize(body, folder: false),
            FuseOperation.Allocate => Allocate(body),
            FuseOperation.Seek => Seek(body, work),
            FuseOperation.CopyFileRange => CopyRange(body, work),
            FuseOperation.OpenFolder => OpenFolder(request, work),
            FuseOperation.ReadFolder => ReadFolder(request, body, work, plus: false),
            FuseOperation.ReadFolderPlus => ReadFolder(request, body, work, plus: true),
            FuseOperation.ReleaseFolder => _handles.Release(body.UInt64(0), folder: true) ? 0 : -ErrorNumber.BadHandle,
            FuseOperation.SynchronizeFolder => Synchronize(body, folder: true),
            FuseOperation.StatFileSystem => StatFileSystem(request, work),
            FuseOperation.SynchronizeFileSystem => _options.ReadOnly || _root < 0 ? 0 : ShareSystemCalls.SynchronizeFileSystem(_root),
            FuseOperation.GetExtendedAttribute => GetExtendedAttribute(request, body, work),
            FuseOperation.ListExtendedAttributes => ListExtendedAttributes(request, body, work),
            FuseOperation.SetExtendedAttribute => SetExtendedAttribute(request, body),
            FuseOperation.RemoveExtendedAttribute => RemoveExtendedAttribute(request, body),
            FuseOperation.Destroy => Destroy(),
            // ACCESS and FLUSH among them: the client's kernel checks permissions, and takes this once for "there is nothing to do". Locks are the client's own.
            _ => -ErrorNumber.NotImplemented,
        };
    }

    private int Initialize(FuseBody body, byte[] output)
    {
        // fuse_init_in: major, minor, max_readahead, flags
        uint major = body.UInt32(0), minor = body.UInt32(4), readahead = body.UInt32(8);
        FuseFeatures offered = (FuseFeatures)body.UInt32(12);
        if (body.Length < 16 || major < FuseProtocol.Major || (major == FuseProtocol.Major && minor < FuseProtocol.OldestMinor))
        {
            return -ErrorNumber.Protocol;
        }
        Span<byte> reply = output.AsSpan(FuseProtocol.OutHeaderLength, FuseProtocol.InitReplyLength);
        reply.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(reply, FuseProtocol.Major);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[4..], FuseProtocol.Minor);
        if (major > FuseProtocol.Major)
        {
            return reply.Length;        // the client asks again with a version that both know
        }
        Reset();
        FuseFeatures wanted = FuseFeatures.AsynchronousRead | FuseFeatures.AtomicTruncate | FuseFeatures.BigWrites | FuseFeatures.AutomaticInvalidation
            | FuseFeatures.ReadFolderPlus | FuseFeatures.ReadFolderPlusAutomatic | FuseFeatures.AsynchronousDirectIo | FuseFeatures.ParallelFolderOperations
            | FuseFeatures.MaximumPages | FuseFeatures.Submounts | FuseFeatures.KillPrivileges2;
        if (_options.Cache == ShareCache.Always)
        {
            wanted |= FuseFeatures.CacheSymbolicLinks;
        }
        _features = wanted & offered;
        BinaryPrimitives.WriteUInt32LittleEndian(reply[8..], Math.Min(readahead, FuseProtocol.MaximumTransfer));
        BinaryPrimitives.WriteUInt32LittleEndian(reply[12..], (uint)_features);
        BinaryPrimitives.WriteUInt16LittleEndian(reply[16..], 64);      // max_background
        BinaryPrimitives.WriteUInt16LittleEndian(reply[18..], 48);      // congestion_threshold
        BinaryPrimitives.WriteUInt32LittleEndian(reply[20..], FuseProtocol.MaximumTransfer);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[24..], 1);       // time_gran: nanoseconds
        BinaryPrimitives.WriteUInt16LittleEndian(reply[28..], FuseProtocol.MaximumTransfer / 4096);
        _initialized = true;
        return reply.Length;
    }

    private int Destroy()
    {
        Reset();
        return 0;
    }

    private void Forget(in FuseRequest request, Span<byte> buffer)
    {
        Span<byte> head = stackalloc byte[8];
        if (request.Exchange.Read(head) != head.Length)
        {
            return;
        }
        if (request.Operation == FuseOperation.Forget)
        {
            _nodes.Forget(request.Node, BinaryPrimitives.ReadUInt64LittleEndian(head));
            return;
        }
        // fuse_batch_forget_in: count, padding; then nodeid and nlookup of each. The request's own length bounds it.
        uint count = BinaryPrimitives.ReadUInt32LittleEndian(head);
        buffer = buffer[..(Math.Min(buffer.Length, 4096) & ~15)];
        while (count != 0)
        {
            int got = request.Exchange.Read(buffer) / 16;
            for (int i = 0; i < got && count != 0; i++, count--)
            {
                _nodes.Forget(BinaryPrimitives.ReadUInt64LittleEndian(buffer[(i * 16)..]), BinaryPrimitives.ReadUInt64LittleEndian(buffer[((i * 16) + 8)..]));
            }
            if (got < buffer.Length / 16)
            {
                return;
            }
        }
    }

    private static void Reply(in FuseRequest request, byte[] output, int payload)
    {
        int length = FuseProtocol.OutHeaderLength + payload;
        if (length > request.Exchange.ReplyCapacity)
        {
            ReplyError(request, ErrorNumber.InputOutput);
            return;
        }
        WriteHeader(output, (uint)length, 0, request.Unique);
        request.Exchange.Reply(output.AsSpan(0, length));
    }

    private static void ReplyError(in FuseRequest request, int error)
    {
        if (request.Exchange.ReplyCapacity < FuseProtocol.OutHeaderLength)
        {
            return;
        }
        Span<byte> header = stackalloc byte[FuseProtocol.OutHeaderLength];
        WriteHeader(header, FuseProtocol.OutHeaderLength, -error, request.Unique);
        request.Exchange.Reply(header);
    }

    private static void WriteHeader(Span<byte> header, uint length, int error, ulong unique)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(header, length);
        BinaryPrimitives.WriteInt32LittleEndian(header[4..], error);
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], unique);
    }

    /// <summary>File systems that lead out of themselves: a process's memory and open files.</summary>
    private static bool IsHidden(int descriptor)
    {
        Span<long> numbers = stackalloc long[10];
        return ShareSystemCalls.StatFileSystem(descriptor, numbers) == 0 && numbers[0] == ShareSystemCalls.ProcFileSystem;
    }

    /// <summary>This process's file mode creation mask, which cannot be asked for without changing it.</summary>
    private static uint ReadUmask()
    {
        try
        {
            foreach (string line in File.ReadLines("/proc/self/status"))
            {
                if (line.StartsWith("Umask:", StringComparison.Ordinal))
                {
                    return Convert.ToUInt32(line[6..].Trim(), 8);
                }
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException)
        {
            // As if every bit were masked: modes are then always set.
        }
        return 0x1FF;
    }
}
