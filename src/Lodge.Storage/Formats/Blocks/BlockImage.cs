using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Blocks;

/// <summary>What an image of blocks is made of, as its header says.</summary>
/// <param name="Length">Size of the disk in bytes.</param>
/// <param name="BlockSize">Bytes in a block, a power of two.</param>
/// <param name="SectorSize">Bytes that a bit of a bitmap of sectors stands for.</param>
/// <param name="Differencing">Whether absent content is the parent's.</param>
internal sealed record BlockShape(long Length, int BlockSize, int SectorSize, bool Differencing);

/// <summary>
/// An image whose file holds the disk in large blocks, found by a table: VHD, VHDX, VDI. Requests to blocks that are there go straight to the file. A new block
/// is put at the file's end, and the table stays in memory until a flush: the flush makes the data durable, then writes what changed of bitmaps and table, and
/// makes that durable. So a crash at any moment leaves a table that names only blocks whose content is there; what was not flushed may be lost, and
/// room at the file's end that nothing names is given back when the image is written to again.
/// </summary>
internal abstract partial class BlockImage : IImage, IDiscard, IWriteZeroes, IResize, ICheck
{
    private readonly SemaphoreSlim _allocation = new(1, 1);
    private readonly SemaphoreSlim _commit = new(1, 1);
    private readonly RangeLock _ranges = new();
    private readonly ImageContext _context;
    private readonly int _blockShift;
    private long _length;
    private volatile bool _begun;
    private volatile bool _committing;
    private volatile bool _tailCut;

    protected BlockImage(IStorageFile file, BlockShape shape, BlockTable table, ImageContext context)
    {
        File = file;
        _length = shape.Length;
        BlockSize = shape.BlockSize;
        SectorSize = shape.SectorSize;
        IsDifferencing = shape.Differencing;
        _blockShift = System.Numerics.BitOperations.Log2((uint)shape.BlockSize);
        Table = table;
        _context = context;
    }

    public abstract string FormatName { get; }

    public IStorageFile File { get; }

    public long Length => Volatile.Read(ref _length);

    public virtual int RequestAlignment => IsDifferencing ? Math.Max(SectorSize, File.RequestAlignment) : File.RequestAlignment;

    public bool IsReadOnly => _context.ReadOnly || File.IsReadOnly;

    public int DiscardGranularity => Math.Max(File.DiscardGranularity, 4096);

    /// <summary>The opened parent, or null.</summary>
    public IDisk? Backing { get; protected set; }

    protected int BlockSize { get; }

    protected int SectorSize { get; }

    protected bool IsDifferencing { get; set; }

    protected BlockTable Table { get; }

    protected SectorBitmapCache Bitmaps { get; } = new();

    protected ImageContext Context => _context;

    /// <summary>Where the used part of the file ends; changed only by who holds the allocation.</summary>
    protected long End { get; set; }

    protected long BlockCount => CountBlocks(Length);

    /// <summary>Bytes in the file before a block's data that belong to it.</summary>
    protected virtual int BlockPrefix => 0;

    /// <summary>Whether the first sector of a byte of a bitmap is its highest bit.</summary>
    protected virtual bool HighBitFirst => false;

    /// <summary>Whether the table can say that a block is zero although a parent is there.</summary>
    protected virtual bool HasZeroBlocks => false;

    public abstract ImageInformation Describe();

    public abstract ValueTask ResizeAsync(long length, CancellationToken cancellation = default);

    public async ValueTask DisposeAsync()
    {
        try
        {
            if (!IsReadOnly && IsMetadataDirty)
            {
                await CommitAsync(CancellationToken.None).ConfigureAwait(false);
            }
        }
        finally
        {
            await (Backing?.DisposeAsync() ?? ValueTask.CompletedTask).ConfigureAwait(false);
            await File.DisposeAsync().ConfigureAwait(false);
        }
    }

    /// <summary>What a block is, from the table.</summary>
    protected abstract BlockEntry Find(long block);

    /// <summary>Sets a block's place in the table.</summary>
    protected abstract void Assign(long block, BlockEntry entry);

    /// <summary>The first place at or after <paramref name="end"/> where a block's data may begin.</summary>
    protected abstract long PlaceAfter(long end);

    /// <summary>Where the bitmap of an allocated block is in the file.</summary>
    protected virtual long BitmapOffset(long block, BlockEntry entry) => throw new InvalidOperationException("the format has no bitmaps");

    /// <summary>Called once before the first change of the file.</summary>
    protected virtual ValueTask BeginAsync(CancellationToken cancellation) => ValueTask.CompletedTask;

    /// <summary>Called with the allocation held when room for a block was added and before the table names it.</summary>
    protected virtual ValueTask OnAllocatedAsync(long block, BlockEntry entry, CancellationToken cancellation) => ValueTask.CompletedTask;

    /// <summary>Whether a block that is there can be written to at once.</summary>
    protected virtual bool IsReady(long block) => true;

    /// <summary>Makes a block that is not ready so.</summary>
    protected virtual ValueTask MakeReadyAsync(long block, BlockEntry entry, CancellationToken cancellation) => ValueTask.CompletedTask;

    /// <summary>Writes what must be durable before the table is written.</summary>
    protected virtual ValueTask BeforeCommitAsync(CancellationToken cancellation) => ValueTask.CompletedTask;

    /// <summary>Writes and flushes parts of the table that must be durable before the rest; called after the data is durable.</summary>
    protected virtual ValueTask OrderCommitAsync(CancellationToken cancellation) => ValueTask.CompletedTask;

    /// <summary>Whether more than table and bitmaps waits for a commit.</summary>
    protected virtual bool HasPending => false;

    protected long CountBlocks(long length) => (length + BlockSize - 1) >> _blockShift;

    /// <summary>Runs alone among allocations.</summary>
    protected async ValueTask<T> WithAllocationAsync<T>(Func<ValueTask<T>> work, CancellationToken cancellation)
    {
        await _allocation.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            return await work().ConfigureAwait(false);
        }
        finally
        {
            _allocation.Release();
        }
    }

    /// <summary>Before any change of the file.</summary>
    protected async ValueTask EnsureBegunAsync(CancellationToken cancellation)
    {
        if (_begun)
        {
            return;
        }

        await _allocation.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            if (!_begun)
            {
                await BeginAsync(cancellation).ConfigureAwait(false);
                _begun = true;
            }
        }
        finally
        {
            _allocation.Release();
        }
    }

    /// <summary>Adds room at the end and says where its <paramref name="prefix"/> begins so that the data after it is well placed; the allocation is held.</summary>
    protected async ValueTask<long> AddRoomAsync(int prefix, long length, CancellationToken cancellation)
    {
        if (!_tailCut)
        {
            // What a crash left behind the last block goes, so that all new room reads as zeroes.
            if (File.Length > End)
            {
                OnCut();
                await File.ResizeAsync(End, cancellation).ConfigureAwait(false);
            }

            _tailCut = true;
        }

        var data = PlaceAfter(End + prefix);
        var end = checked(data + length);
        if (File.Length < end)
        {
            await File.ResizeAsync(end, cancellation).ConfigureAwait(false);
        }

        End = end;
        return data - prefix;
    }

    /// <summary>After the table was emptied or blocks left it: the end is <paramref name="end"/>, and what lies behind it goes before new room is added.</summary>
    protected void ResetEnd(long end)
    {
        End = end;
        _tailCut = false;
    }

    protected void SetLength(long length) => Volatile.Write(ref _length, length);

    private async ValueTask<BlockEntry> AllocateAsync(long block, CancellationToken cancellation)
    {
        await _allocation.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            var entry = Find(block);
            if (entry.Kind is BlockKind.Data or BlockKind.Partial)
            {
                return entry;
            }

            var kind = entry.Kind == BlockKind.Absent && IsDifferencing ? BlockKind.Partial : BlockKind.Data;
            var start = await AddRoomAsync(BlockPrefix, BlockSize, cancellation).ConfigureAwait(false);
            entry = new BlockEntry(kind, start + BlockPrefix);
            await OnAllocatedAsync(block, entry, cancellation).ConfigureAwait(false);
            Assign(block, entry);
            return entry;
        }
        finally
        {
            _allocation.Release();
        }
    }
}
