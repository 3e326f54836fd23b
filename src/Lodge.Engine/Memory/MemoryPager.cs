using System.Runtime.InteropServices;
using Lodge.Engine.Memory.Code;

namespace Lodge.Engine.Memory;

/// <summary>
/// Reads RAM in while the guest runs, by userfaultfd (Linux Documentation/admin-guide/mm/userfaultfd.rst): whoever touches a page that is not there waits for its chunk,
/// system calls of devices as well. When all is there, RAM is ordinary memory again. The work is done by machine code (pager.s) on one thread: a thread that waits for
/// a page may hold up a garbage collection, so nobody who must answer it may be managed.
/// </summary>
public sealed unsafe partial class MemoryPager
{
    private const int CloseOnExec = 0x80000, NonBlocking = 0x800, ReadWriteCloseOnExec = 0x80002;
    private const nuint NewDescriptor = 0xAA00, Api = 0xC018AA3F, Register = 0xC020AA00;
    private const ulong ApiVersion = 0xAA, MissingInShared = 1 << 5, MissingPages = 1, CopyAndZero = (1 << 3) | (1 << 4);
    private const int EventCloseOnExec = 0x80000;
    private const int Damaged = -74;
    private const long UserFaultCall = 323;

    private readonly TaskCompletionSource _completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _gate = new();
    private readonly PagedSource _source;
    private readonly Action<string> _failed;
    private readonly long _total;
    private PagerBlock* _block;
    private long _loaded;

    private MemoryPager(PagedSource source, Action<string> failed)
    {
        _source = source;
        _failed = failed;
        _total = source.Chunks.Length;
    }

    /// <summary>Completes when all of RAM is there or loading was cancelled; fails with <see cref="IOException"/> when a chunk could not be read.</summary>
    public Task Completion => _completion.Task;

    /// <summary>Chunks that are in memory, of those that are not zero.</summary>
    public (long Loaded, long Total) Progress
    {
        get
        {
            lock (_gate)
            {
                return (_block != null ? Volatile.Read(ref _block->Loaded) : _loaded, _total);
            }
        }
    }

    /// <summary>Whether RAM is ordinary memory again.</summary>
    public bool Ended => _completion.Task.IsCompleted;

    /// <summary>Waits for the end; does not throw.</summary>
    public void Finish() => ((IAsyncResult)_completion.Task).AsyncWaitHandle.WaitOne();

    /// <summary>Ends it early, for RAM that nobody needs any more; waits for that.</summary>
    public void Cancel()
    {
        lock (_gate)
        {
            if (_block != null)
            {
                Volatile.Write(ref _block->Cancel, 1);
            }
        }
        Finish();
    }

    internal static MemoryPager? TryStart(GuestMemory memory, PagedSource source, Action<string> failed, out string? reason)
    {
        int fault = Open(out reason);
        if (fault < 0)
        {
            return null;
        }
        ulong* api = stackalloc ulong[3] { ApiVersion, memory.FileDescriptor >= 0 ? MissingInShared : 0, 0 };
        if (ioctl(fault, Api, api) != 0)
        {
            reason = $"userfaultfd of this kernel cannot do it: error {Marshal.GetLastPInvokeError()}";
            close(fault);
            return null;
        }
        int notify = eventfd(0, EventCloseOnExec), acknowledged = eventfd(0, EventCloseOnExec);
        if (notify < 0 || acknowledged < 0)
        {
            reason = $"no eventfd: error {Marshal.GetLastPInvokeError()}";
            Close(fault, notify, acknowledged);
            return null;
        }
        delegate* unmanaged<PagerBlock*, long> code;
        try
        {
            code = HostCode.PageIn;
        }
        catch (IOException e)
        {
            reason = e.Message;
            Close(fault, notify, acknowledged);
            return null;
        }
        var pager = new MemoryPager(source, failed);
        pager.Start(memory, fault, notify, acknowledged, code);
        return pager.RegisterAll(memory, fault, out reason) ? pager : null;
    }

    private void Start(GuestMemory memory, int fault, int notify, int acknowledged, delegate* unmanaged<PagerBlock*, long> code)
    {
        ulong chunk = 1UL << _source.ChunkShift;
        ulong chunks = (memory.Size + chunk - 1) >> _source.ChunkShift;
        uint longest = _source.Chunks.Length == 0 ? 1 : _source.Chunks.Max(static c => c.Length);
        var entries = (PagedChunk*)NativeMemory.Alloc((nuint)Math.Max(1, _source.Chunks.Length), (nuint)sizeof(PagedChunk));
        _source.Chunks.CopyTo(new Span<PagedChunk>(entries, _source.Chunks.Length));
        var table = (uint*)NativeMemory.AllocZeroed((nuint)chunks, sizeof(uint));
        for (int i = 0; i < _source.Chunks.Length; i++)
        {
            if (_source.Chunks[i].Chunk >= chunks)
            {
                throw new ArgumentException("a chunk lies outside RAM");
            }
            table[_source.Chunks[i].Chunk] = (uint)i + 1;
        }
        _block = (PagerBlock*)NativeMemory.AllocZeroed((nuint)sizeof(PagerBlock));
        *_block = new PagerBlock
        {
            UserFault = fault,
            Base = memory.HostBase,
            Size = memory.Size,
            Entries = entries,
            Count = (ulong)_source.Chunks.Length,
            Table = table,
            File = _source.File,
            Packed = (byte*)NativeMemory.Alloc(longest),
            Plain = (byte*)NativeMemory.AlignedAlloc((nuint)chunk, GuestMemory.PageSize),
            Shift = _source.ChunkShift,
            Function = _source.Function,
            Context = _source.Context,
            Notify = notify,
            Acknowledged = acknowledged,
            Events = 1,
            One = 1,
        };
        var watch = new Thread(() => Watch(notify, acknowledged)) { IsBackground = true, Name = "paging-watch" };
        watch.Start();
        new Thread(() => Run(code, watch)) { IsBackground = true, Name = "paging" }.Start();
        // From here on nothing that the code needs is managed.
        while (Volatile.Read(ref _block->Running) == 0)
        {
            Thread.Sleep(0);
        }
    }

    private bool RegisterAll(GuestMemory memory, int fault, out string? reason)
    {
        ulong chunk = 1UL << _source.ChunkShift;
        var ranges = new List<BackingRange>(_source.Chunks.Length);
        foreach (PagedChunk entry in _source.Chunks)
        {
            ulong start = (ulong)entry.Chunk << _source.ChunkShift;
            ranges.Add(new BackingRange(start, Math.Min(memory.Size, start + chunk)));
        }
        ulong* register = stackalloc ulong[4];
        foreach (BackingRange area in GuestMemory.Areas(ranges))
        {
            register[0] = (ulong)memory.HostBase + area.Start;
            register[1] = area.End - area.Start;
            register[2] = MissingPages;
            register[3] = 0;
            if (ioctl(fault, Register, register) != 0 || (register[3] & CopyAndZero) != CopyAndZero)
            {
                reason = $"userfaultfd cannot watch guest memory: error {Marshal.GetLastPInvokeError()}";
                Cancel();
                return false;
            }
        }
        reason = null;
        Volatile.Write(ref _block->Go, 1);
        return true;
    }

    private void Run(delegate* unmanaged<PagerBlock*, long> code, Thread watch)
    {
        long result = code(_block);
        if (result >= 0)
        {
            ulong over = 1UL << 32;
            _ = write((int)_block->Notify, &over, 8);
        }
        watch.Join();
        PagerBlock* block;
        lock (_gate)
        {
            block = _block;
            _loaded = block->Loaded;
            _block = null;
        }
        string text = Explain(result, block->Failed);
        Close((int)block->UserFault, (int)block->Notify, block->Acknowledged);
        NativeMemory.Free(block->Entries);
        NativeMemory.Free(block->Table);
        NativeMemory.Free(block->Packed);
        NativeMemory.AlignedFree(block->Plain);
        NativeMemory.Free(block);
        if (result >= 0)
        {
            _completion.SetResult();
        }
        else
        {
            _completion.SetException(new IOException(text));
            _ = _completion.Task.Exception; // whoever does not look has been told
        }
    }

    /// <summary>Waits for the word that the code has failed, or is over.</summary>
    private void Watch(int notify, int acknowledged)
    {
        ulong value = 0;
        while (read(notify, &value, 8) != 8)
        {
        }
        if (value >= 1UL << 32)
        {
            return;
        }
        try
        {
            _failed(Explain(Volatile.Read(ref _block->Length), _block->Failed));
        }
        finally
        {
            ulong one = 1;
            _ = write(acknowledged, &one, 8);
        }
    }

    private string Explain(long result, uint entry)
    {
        uint chunk = entry < _source.Chunks.Length ? _source.Chunks[entry].Chunk : 0;
        string where = $"guest memory at {(ulong)chunk << _source.ChunkShift:X} of the saved machine";
        return result == Damaged ? $"{where} is damaged" : $"{where} cannot be read: error {-result}";
    }

    /// <summary>A userfaultfd that faults of the kernel wait for, too: from its device, or by the call, which needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd.</summary>
    private static int Open(out string? reason)
    {
        int device = open("/dev/userfaultfd", ReadWriteCloseOnExec);
        if (device >= 0)
        {
            int made = ioctl(device, NewDescriptor, (void*)(CloseOnExec | NonBlocking));
            close(device);
            if (made >= 0)
            {
                reason = null;
                return made;
            }
        }
        int fault = (int)syscall(UserFaultCall, CloseOnExec | NonBlocking);
        reason = fault >= 0 ? null : $"this user may not use userfaultfd (error {Marshal.GetLastPInvokeError()}): /dev/userfaultfd, CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1 is needed";
        return fault;
    }

    private static void Close(params ReadOnlySpan<int> descriptors)
    {
        foreach (int descriptor in descriptors)
        {
            if (descriptor >= 0)
            {
                close(descriptor);
            }
        }
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ioctl(int fd, nuint request, void* argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial long syscall(long number, long argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int eventfd(uint value, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint read(int fd, void* data, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint write(int fd, void* data, nuint length);

    [LibraryImport("libc")]
    private static partial int close(int fd);
}
