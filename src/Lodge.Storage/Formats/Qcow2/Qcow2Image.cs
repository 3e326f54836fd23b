using System.Runtime.CompilerServices;
using Lodge.Storage.Disks;
using Lodge.Storage.Encryption;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;


/// <summary>
/// An opened qcow2 image. Requests run at the same time; data of allocated clusters moves without any lock held. What changes the mapping of a cluster holds
/// that cluster's range; what rebuilds tables (snapshots, resize, check, amend) waits until no request is inside.
/// </summary>
internal sealed partial class Qcow2Image : IBackedImage, IDiscard, IWriteZeroes, IResize, ICompressedWrite, ISnapshots, ICheck, IAmend, IDirtyBitmaps
{
    private static readonly byte[] ZeroCluster = GC.AllocateArray<byte>(1 << Qcow2Header.MaximumClusterBits, pinned: true);
    private readonly Qcow2Metadata _metadata;
    private readonly ImageContext _context;
    private readonly ClusterRanges _ranges = new();
    private readonly LuksVolume? _cipher;
    private readonly SemaphoreSlim _preparing = new(1, 1);
    private readonly bool _readOnly;
    private List<SnapshotEntry> _snapshots;
    private volatile bool _prepared;
    private volatile string? _broken;
    private long _length;
    private int _disposed;

    public Qcow2Image(Qcow2Metadata metadata, ImageContext context, List<SnapshotEntry> snapshots, IDisk? backing, LuksVolume? cipher, long length, bool readOnly)
    {
        _metadata = metadata;
        _context = context;
        _snapshots = snapshots;
        Backing = backing;
        _cipher = cipher;
        _length = length;
        _readOnly = readOnly;
        metadata.DiscardToFile = context.DiscardToFile;
        metadata.FreedCompressed = ForgetDecompressed;
    }

    public string FormatName => "qcow2";

    public IStorageFile File => _metadata.File;

    public IDisk? Backing { get; private set; }

    public long Length => Volatile.Read(ref _length);

    public int RequestAlignment => _cipher is null ? _metadata.Data.RequestAlignment : Math.Max(512, _metadata.Data.RequestAlignment);

    public bool IsReadOnly => _readOnly;

    public int DiscardGranularity => Geometry.ClusterSize;

    public int CompressionUnit => Geometry.ClusterSize;

    public bool InOrder => false;

    internal Qcow2Metadata Metadata => _metadata;

    private Qcow2Header Header => _metadata.Header;

    private Qcow2Geometry Geometry => _metadata.Geometry;

    public ImageInformation Describe()
    {
        var header = Header;
        var facts = new List<KeyValuePair<string, string>>();
        void Add(string name, string value) => facts.Add(KeyValuePair.Create(name, value));
        Add("compat", header.Version == 2 ? "0.10" : "1.1");
        Add("compression-type", header.CompressionType == 1 ? "zstd" : "zlib");
        if (header.Version >= 3)
        {
            Add("lazy-refcounts", header.LazyRefcounts ? "true" : "false");
            Add("refcount-bits", (1 << header.RefcountOrder).ToString(System.Globalization.CultureInfo.InvariantCulture));
            Add("corrupt", (header.Incompatible & IncompatibleFeatures.Corrupt) != 0 ? "true" : "false");
            Add("extended-l2", header.Extended ? "true" : "false");
        }
        else
        {
            Add("refcount-bits", "16");
        }

        if (header.HasDataFile)
        {
            Add("data-file", header.DataFileName ?? "");
            Add("data-file-raw", header.RawDataFile ? "true" : "false");
        }

        if (header.Crypt != CryptMethod.None)
        {
            Add("encrypt.format", header.Crypt == CryptMethod.Luks ? "luks" : "aes");
        }

        return new ImageInformation
        {
            VirtualSize = Length,
            ClusterSize = header.ClusterSize,
            Encrypted = header.Crypt != CryptMethod.None,
            Dirty = (header.Incompatible & IncompatibleFeatures.Dirty) != 0,
            BackingName = header.BackingName,
            BackingFormat = header.BackingFormat,
            Snapshots = Snapshots,
            FormatSpecific = facts,
            Parts = header.HasDataFile && header.DataFileName is { } name ? [name] : [],
        };
    }

    public ValueTask FlushAsync(CancellationToken cancellation = default) => IsReadOnly ? ValueTask.CompletedTask : _metadata.CommitAsync(cancellation);

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
        {
            return;
        }

        try
        {
            if (!IsReadOnly && _broken is null)
            {
                await CloseAsync().ConfigureAwait(false);
            }
        }
        finally
        {
            _cipher?.Dispose();
            if (Backing is not null)
            {
                await Backing.DisposeAsync().ConfigureAwait(false);
            }

            if (!ReferenceEquals(_metadata.Data, File))
            {
                await _metadata.Data.DisposeAsync().ConfigureAwait(false);
            }

            await File.DisposeAsync().ConfigureAwait(false);
        }
    }

    private async ValueTask CloseAsync()
    {
        await _metadata.ShutAsync(CancellationToken.None).ConfigureAwait(false);
        try
        {
            if (_prepared && (Header.Incompatible & IncompatibleFeatures.Dirty) != 0)
            {
                Header.Incompatible &= ~IncompatibleFeatures.Dirty;
                await _metadata.WriteHeaderAsync(CancellationToken.None).ConfigureAwait(false);
                await File.FlushAsync().ConfigureAwait(false);
            }
        }
        finally
        {
            _metadata.Open();
        }
    }

    /// <summary>
    /// What must be in the file before the first change: auto-clear bits that are not known are cleared, bitmaps that should follow all changes are marked as
    /// not following ("in use"), and with lazy refcounts the dirty bit is set.
    /// </summary>
    private async ValueTask PrepareAsync(CancellationToken cancellation)
    {
        if (_broken is { } reason)
        {
            throw new DiskException(DiskError.Corrupt, reason);
        }

        if (_prepared)
        {
            return;
        }

        await _preparing.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            if (_prepared)
            {
                return;
            }

            await MarkBitmapsInUseAsync(cancellation).ConfigureAwait(false);
            var unknown = Header.Autoclear & ~(ulong)AutoclearFeatures.Known;
            var lazy = Header.LazyRefcounts && Header.Version >= 3;
            if (unknown != 0 || lazy)
            {
                Header.Autoclear &= ~unknown;
                Header.Incompatible |= lazy ? IncompatibleFeatures.Dirty : 0;
                await _metadata.WriteHeaderAsync(cancellation).ConfigureAwait(false);
            }

            await File.FlushAsync(cancellation).ConfigureAwait(false);
            _metadata.LazyNow = lazy;
            _prepared = true;
        }
        finally
        {
            _preparing.Release();
        }
    }

    /// <summary>Remembers that the image contradicts itself: in the file for others, here by refusing further changes.</summary>
    private async ValueTask MarkCorruptAsync(DiskException failure)
    {
        if (_broken is not null || IsReadOnly || _context.Checking)
        {
            return;
        }

        _broken = failure.Message;
        if (Header.Version < 3)
        {
            return;
        }

        try
        {
            Header.Incompatible |= IncompatibleFeatures.Corrupt;
            await _metadata.WriteHeaderAsync(CancellationToken.None).ConfigureAwait(false);
            await File.FlushAsync().ConfigureAwait(false);
        }
        catch (DiskException)
        {
            // The failure that is reported is the first one.
        }
    }

    private DiskException Corrupt(string what) => new(DiskError.Corrupt, $"{File.Name}: {what}; repair the image with: lodge image check -r all {File.Name}");

    private int TableIndex(long offset) => (int)(offset >> Geometry.TableSpanBits);

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private static async ValueTask LeaveAfterAsync(ValueTask request, RequestEpoch epoch)
    {
        try
        {
            await request.ConfigureAwait(false);
        }
        finally
        {
            epoch.Leave();
        }
    }
}
