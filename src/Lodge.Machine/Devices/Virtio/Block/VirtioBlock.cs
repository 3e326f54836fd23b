using System.Buffers.Binary;
using System.Numerics;
using System.Text;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Storage;
using Lodge.Machine.Virtio;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Virtio.Block;

/// <summary>
/// Block device (virtio 1.2, 5.2). The worker begins requests as they come, up to the size of the queues, and the disk transfers directly from and to guest
/// memory; requests complete in any order. What the disk does at once is completed in one batch with one interrupt. A stop waits for all I/O, a reset for what
/// it gives up, so that no buffer is written after the guest has it back.
/// </summary>
public sealed class VirtioBlock : VirtioDevice
{
    private readonly VirtioBlockConfiguration _configuration;
    private readonly IDisk _disk;
    private readonly bool _readOnly;
    private readonly DiskRequestQueue _requests;
    private readonly Stack<BlockRequest> _free = new();
    private readonly int[] _inFlight;       // by queue; changed on the worker, or while it is stopped
    private readonly byte[] _id = new byte[VirtioBlockRequests.IdLength];
    private ulong _waiting;                 // queues that have more while too much is in flight
    private long _bytesInFlight;
    private long _capacity;                 // bytes, whole sectors
    private bool _writebackField = true;

    /// <summary>Creates the device.</summary>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="configuration">Its set-up.</param>
    public VirtioBlock(GuestMemory memory, VirtioBlockConfiguration configuration)
        : base(VirtioDeviceType.Block, memory, QueueSizes(configuration.Queues))
    {
        if (configuration.BlockSize is not (512 or 4096))
        {
            throw new ArgumentException($"a block has 512 or 4096 bytes, not {configuration.BlockSize}", nameof(configuration));
        }
        _configuration = configuration;
        _disk = configuration.Disk;
        _readOnly = configuration.ReadOnly || _disk.IsReadOnly;
        _requests = new DiskRequestQueue(Signal, configuration.Failed);
        _inFlight = new int[Queues.Count];
        _capacity = Capacity();
        byte[] serial = Encoding.ASCII.GetBytes(configuration.Serial);
        serial.AsSpan(0, Math.Min(serial.Length, _id.Length)).CopyTo(_id);
    }

    /// <summary>The disk.</summary>
    public IDisk Disk => _disk;

    /// <inheritdoc/>
    protected override ulong DeviceFeatures =>
        VirtioBlockRequests.FeatureSizeMax | VirtioBlockRequests.FeatureSegMax | VirtioBlockRequests.FeatureBlockSize | VirtioBlockRequests.FeatureTopology
        | VirtioBlockRequests.FeatureFlush | VirtioBlockRequests.FeatureConfigWce
        | (Queues.Count > 1 ? VirtioBlockRequests.FeatureMultiQueue : 0)
        | (_readOnly ? VirtioBlockRequests.FeatureReadOnly : 0)
        | (CanDiscard ? VirtioBlockRequests.FeatureDiscard : 0)
        | (CanWriteZeroes ? VirtioBlockRequests.FeatureWriteZeroes : 0);

    /// <inheritdoc/>
    protected internal override int ConfigurationLength => VirtioBlockRequests.ConfigurationLength;

    private bool CanDiscard => !_readOnly && _configuration.Discard && _disk is IDiscard;

    /// <summary>Only where the disk has a better way than to write zeroes, which the guest can do itself.</summary>
    private bool CanWriteZeroes => !_readOnly && _disk is IWriteZeroes;

    /// <summary>Writes stay in caches until a flush: as the driver configured, else as it can flush or not (5.2.6.2).</summary>
    private bool Writeback => Has(VirtioBlockRequests.FeatureConfigWce) ? Volatile.Read(ref _writebackField) : Has(VirtioBlockRequests.FeatureFlush);

    /// <summary>The disk's length changed: the driver is told. Any thread.</summary>
    public void LengthChanged()
    {
        long capacity = Capacity();
        if (Interlocked.Exchange(ref _capacity, capacity) != capacity)
        {
            ConfigurationChanged();
        }
    }

    /// <summary>Changes the disk's length while the guest uses it.</summary>
    /// <param name="length">Bytes.</param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="DiskException">The disk has a fixed size, or no room.</exception>
    public async ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        await _disk.SetLengthAsync(length, cancellation).ConfigureAwait(false);
        LengthChanged();
    }

    /// <inheritdoc/>
    protected override void ReadConfiguration(Span<byte> destination)
    {
        destination.Clear();
        int block = _configuration.BlockSize;
        int physical = Math.Clamp((int)BitOperations.RoundUpToPowerOf2((uint)Math.Clamp(_disk.RequestAlignment, 1, 4096)), block, 4096);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[VirtioBlockRequests.Capacity..], (ulong)Volatile.Read(ref _capacity) / VirtioBlockRequests.SectorSize);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBlockRequests.SizeMax..], VirtioBlockRequests.MaximumSegmentSize);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBlockRequests.SegMax..], VirtioBlockRequests.MaximumSegments);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBlockRequests.BlockSize..], (uint)block);
        destination[VirtioBlockRequests.PhysicalBlockExponent] = (byte)BitOperations.Log2((uint)(physical / block));
        BinaryPrimitives.WriteUInt16LittleEndian(destination[VirtioBlockRequests.MinimumIoSize..], (ushort)(physical / block));
        destination[VirtioBlockRequests.Writeback] = _writebackField ? (byte)1 : (byte)0;
        BinaryPrimitives.WriteUInt16LittleEndian(destination[VirtioBlockRequests.QueueCount..], (ushort)Queues.Count);
        if (CanDiscard)
        {
            uint granularity = (uint)Math.Max(((IDiscard)_disk).DiscardGranularity, block);
            BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBlockRequests.MaximumDiscardSectors..], VirtioBlockRequests.MaximumRangeSectors);
            BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBlockRequests.MaximumDiscardSegments..], VirtioBlockRequests.MaximumRanges);
            BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBlockRequests.DiscardSectorAlignment..], granularity / VirtioBlockRequests.SectorSize);
        }
        if (CanWriteZeroes)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBlockRequests.MaximumWriteZeroesSectors..], VirtioBlockRequests.MaximumRangeSectors);
            BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBlockRequests.MaximumWriteZeroesSegments..], VirtioBlockRequests.MaximumRanges);
            destination[VirtioBlockRequests.WriteZeroesMayUnmap] = 1;
        }
    }

    /// <inheritdoc/>
    protected override void WriteConfiguration(int offset, ReadOnlySpan<byte> data)
    {
        if (offset == VirtioBlockRequests.Writeback && data.Length == 1 && Has(VirtioBlockRequests.FeatureConfigWce))
        {
            Volatile.Write(ref _writebackField, data[0] != 0);
        }
    }

    /// <inheritdoc/>
    protected override bool Serve(VirtQueue queue, DescriptorChain chain)
    {
        BlockRequest request = _free.TryPop(out BlockRequest? spare) ? spare : new BlockRequest();
        if (!request.TryBegin(queue, chain, _disk))
        {
            request.End();
            _free.Push(request);
            Reject(queue, chain);
            return false;
        }
        byte? status = Prepare(request);
        if (status is { } refused)
        {
            Complete(request, refused);
            return true;
        }
        if (_requests.Begin(request))
        {
            Complete(request, Outcome(request));
            return true;
        }
        _inFlight[queue.Index]++;
        _bytesInFlight += request.Length;
        if (_bytesInFlight < VirtioBlockRequests.MaximumBytesInFlight)
        {
            return true;
        }
        _waiting |= 1UL << queue.Index;
        return false;
    }

    /// <inheritdoc/>
    protected override bool ServesOnKick(VirtQueue queue)
    {
        if (_bytesInFlight < VirtioBlockRequests.MaximumBytesInFlight)
        {
            return true;
        }
        _waiting |= 1UL << queue.Index;
        return false;
    }

    /// <inheritdoc/>
    protected override void OnCollect()
    {
        ulong touched = 0;
        while (_requests.TryCollect(out DiskRequest ended))
        {
            var request = (BlockRequest)ended;
            int queue = request.Queue.Index;
            _inFlight[queue]--;
            _bytesInFlight -= request.Length;
            touched |= 1UL << queue;
            Complete(request, Outcome(request));
        }
        for (; touched != 0; touched &= touched - 1)
        {
            Notify(Queues[BitOperations.TrailingZeroCount(touched)]);
        }
        if (_bytesInFlight < VirtioBlockRequests.MaximumBytesInFlight)
        {
            for (; _waiting != 0; _waiting &= _waiting - 1)
            {
                Kick(BitOperations.TrailingZeroCount(_waiting));
            }
        }
    }

    /// <inheritdoc/>
    protected override bool HoldsBuffers(VirtQueue queue) => _inFlight[queue.Index] != 0;

    /// <inheritdoc/>
    protected override void OnResetDelayed() => _requests.Cancel();

    /// <inheritdoc/>
    protected override bool TryFinishRequests(TimeSpan patience) => _requests.TryDrain(patience);

    /// <inheritdoc/>
    protected override void OnStop()
    {
        _requests.Drain();
        OnCollect();
    }

    /// <inheritdoc/>
    protected override void OnReset()
    {
        _requests.Renew();
        _writebackField = true;
        _waiting = 0;
    }

    /// <inheritdoc/>
    protected override void SaveDevice(StateWriter writer) => writer.Nested(1, new VirtioBlockState(_writebackField));

    /// <inheritdoc/>
    protected override void RestoreDevice(StateReader reader) => _writebackField = reader.Nested(1, new VirtioBlockState(true)).Writeback;

    private static ushort[] QueueSizes(int queues)
    {
        var sizes = new ushort[Math.Clamp(queues, 1, VirtioBlockRequests.MaximumQueues)];
        Array.Fill(sizes, VirtioBlockRequests.QueueSize);
        return sizes;
    }

    private long Capacity() => _disk.Length / _configuration.BlockSize * _configuration.BlockSize;

    /// <summary>Makes a request ready for the disk; or its status, when the disk is not needed or it must not have it.</summary>
    private byte? Prepare(BlockRequest request)
    {
        long capacity = Volatile.Read(ref _capacity);
        switch (request.Type)
        {
            case VirtioBlockRequests.In:
                return request.TryTakeData(capacity, false) ? null : VirtioBlockRequests.StatusIoError;
            case VirtioBlockRequests.Out:
                return !_readOnly && request.TryTakeData(capacity, !Writeback) ? null : VirtioBlockRequests.StatusIoError;
            case VirtioBlockRequests.Flush:
                return _readOnly ? VirtioBlockRequests.StatusOk : null;
            case VirtioBlockRequests.Discard when Has(VirtioBlockRequests.FeatureDiscard):
            case VirtioBlockRequests.WriteZeroes when Has(VirtioBlockRequests.FeatureWriteZeroes):
                return request.TakeRanges(capacity, !Writeback);
            case VirtioBlockRequests.GetId:
                request.Chain.Write(_id.AsSpan(0, (int)Math.Min((uint)_id.Length, request.Chain.WritableLength - 1)));
                return VirtioBlockRequests.StatusOk;
            default:
                return VirtioBlockRequests.StatusUnsupported;
        }
    }

    private static byte Outcome(BlockRequest request) => request.Error switch
    {
        null => VirtioBlockRequests.StatusOk,
        DiskError.Unsupported => VirtioBlockRequests.StatusUnsupported,
        _ => VirtioBlockRequests.StatusIoError,
    };

    /// <summary>Writes the status, which is the last writable byte wherever the data ends, and returns the chain.</summary>
    private void Complete(BlockRequest request, byte status)
    {
        DescriptorChain chain = request.Chain;
        if (request.Type == VirtioBlockRequests.In && request.Length != 0)
        {
            chain.Filled(request.Length);       // also after a failure: the disk may have written a part
        }
        chain.SkipWritable(chain.WritableLength - 1 - chain.Written);
        chain.Write([status]);
        VirtQueue queue = request.Queue;
        request.End();
        _free.Push(request);
        queue.Complete(chain);
    }
}
