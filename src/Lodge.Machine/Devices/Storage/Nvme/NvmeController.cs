using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine.Pci;
using Lodge.Machine.Virtio;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage.Nvme;

/// <summary>
/// An NVMe controller (NVM Express 1.4) with one namespace. Registers only store and signal; commands are fetched, begun and completed by a worker, and the
/// disk transfers directly from and to guest memory. A place in the completion queue is kept for each command before it is fetched, so that nothing ever waits
/// with a result in hand. Queues' places and sizes are frozen from their creation. A reset ends when no buffer is lent any more.
/// </summary>
public sealed partial class NvmeController : PciFunction, IHostRequests, IIoHandler
{
    // PCI-SIG has given this vendor ID to nobody; drivers match on the class. Others' IDs would bring their controllers' quirks with them.
    internal const ushort Vendor = 0x1234;

    private const ushort DeviceId = 0x4E56;
    private const uint ClassNvme = 0x010802;
    private readonly Lock _gate = new();            // guards the registers
    private readonly GuestMemory _memory;
    private readonly IDisk _disk;
    private readonly bool _readOnly;
    private readonly NvmeIdentify _identify;
    private readonly DeviceWorker _worker;
    private readonly DiskRequestQueue _requests;
    private readonly uint[] _tails;                 // doorbells; written by vCPU threads
    private readonly uint[] _heads;
    private readonly int _queues;                   // pairs with the admin queue
    private uint _configuration;
    private uint _status;
    private uint _attributes;
    private ulong _submissionBase;
    private ulong _completionBase;
    private uint _interruptMask;
    private bool _resetWanted;                      // CC.EN went from 1 to 0
    private volatile int _starved;                  // a completion queue is full: head doorbells wake the worker

    /// <summary>Creates the controller.</summary>
    /// <param name="name">Name of the device.</param>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="configuration">Its set-up.</param>
    public NvmeController(string name, GuestMemory memory, NvmeConfiguration configuration)
        : base(name, new PciIdentity(Vendor, DeviceId, ClassNvme, 1, Vendor, DeviceId), interruptPin: 1)
    {
        if (configuration.BlockSize is not (512 or 4096))
        {
            throw new ArgumentException($"a block has 512 or 4096 bytes, not {configuration.BlockSize}", nameof(configuration));
        }
        _memory = memory;
        _disk = configuration.Disk;
        _readOnly = configuration.ReadOnly || _disk.IsReadOnly;
        _identify = new NvmeIdentify(configuration, _readOnly);
        _queues = Math.Clamp(configuration.Queues, 1, NvmeRegisters.MaximumQueues) + 1;
        _tails = new uint[_queues];
        _heads = new uint[_queues];
        _submissions = new NvmeSubmissionQueue?[_queues];
        _completions = new NvmeCompletionQueue?[_queues];
        _worker = new DeviceWorker(Turn);
        _requests = new DiskRequestQueue(_worker.Signal, configuration.Failed);
        _blocks = Blocks();
        AddBar(0, PciBarKind.Memory64, NvmeRegisters.BarLength, this);
        AddMsix(_queues, 0, NvmeRegisters.MsixTable, NvmeRegisters.MsixPending);
        ResetFeatures();
    }

    /// <summary>The disk.</summary>
    public IDisk Disk => _disk;

    /// <summary>The disk's length changed: the host is told by an asynchronous event. Any thread.</summary>
    public void LengthChanged()
    {
        long blocks = Blocks();
        if (Interlocked.Exchange(ref _blocks, blocks) != blocks)
        {
            Interlocked.Or(ref _events, EventNamespaceChanged);
            _worker.Signal();
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
    public IoResult Read(ulong offset, Span<byte> data)
    {
        if (offset >= NvmeRegisters.MsixPending)
        {
            return Msix!.ReadPending(offset - NvmeRegisters.MsixPending, data);
        }
        if (offset >= NvmeRegisters.MsixTable)
        {
            return Msix!.Read(offset - NvmeRegisters.MsixTable, data);
        }
        if (offset >= NvmeRegisters.Doorbells)
        {
            data.Clear();       // a doorbell read gives what the vendor likes (3.1.24)
            return IoResult.Done;
        }
        if (data.Length is not (4 or 8) || offset % (ulong)data.Length != 0)
        {
            return IoResult.Invalid;
        }
        lock (_gate)
        {
            for (int i = 0; i < data.Length; i += 4)
            {
                BinaryPrimitives.WriteUInt32LittleEndian(data[i..], Load((int)offset + i));
            }
        }
        return IoResult.Done;
    }

    /// <inheritdoc/>
    public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
    {
        if (offset >= NvmeRegisters.MsixPending)
        {
            return IoResult.Invalid;
        }
        if (offset >= NvmeRegisters.MsixTable)
        {
            return Msix!.Write(offset - NvmeRegisters.MsixTable, data);
        }
        if (data.Length is not (4 or 8) || offset % (ulong)data.Length != 0)
        {
            return IoResult.Invalid;
        }
        if (offset >= NvmeRegisters.Doorbells)
        {
            if (data.Length != 4)
            {
                return IoResult.Invalid;
            }
            Ring((int)(offset - NvmeRegisters.Doorbells) / 4, BinaryPrimitives.ReadUInt32LittleEndian(data));
            return IoResult.Done;
        }
        lock (_gate)
        {
            for (int i = 0; i < data.Length; i += 4)
            {
                Store((int)offset + i, BinaryPrimitives.ReadUInt32LittleEndian(data[i..]));
            }
        }
        return IoResult.Done;
    }

    /// <inheritdoc/>
    public override void Start()
    {
        _worker.Signal();
        _worker.Start();
    }

    /// <inheritdoc/>
    public bool TryFinish(TimeSpan patience)
    {
        _worker.Stop();
        if (_requests.TryDrain(patience))
        {
            return true;
        }
        _worker.Start();
        return false;
    }

    /// <inheritdoc/>
    public override void Stop()
    {
        _worker.Stop();
        do
        {
            _requests.Drain();
            Collect();
            Transit();      // may begin the flush of a shutdown
        }
        while (_inFlight != 0);
        SignalInterrupts();
    }

    /// <inheritdoc/>
    public override void Reset()
    {
        ResetController();
        lock (_gate)
        {
            _configuration = _attributes = 0;
            _submissionBase = _completionBase = 0;
            _resetWanted = false;
        }
        _health = new NvmeHealth();
        base.Reset();
    }

    private long Blocks() => _disk.Length >> _identify.BlockShift;

    private uint Load(int offset) => offset switch
    {
        NvmeRegisters.Capabilities => unchecked((uint)NvmeRegisters.CapabilitiesValue),
        NvmeRegisters.Capabilities + 4 => (uint)(NvmeRegisters.CapabilitiesValue >> 32),
        NvmeRegisters.Version => NvmeRegisters.Version14,
        NvmeRegisters.InterruptMaskSet or NvmeRegisters.InterruptMaskClear => _interruptMask,
        NvmeRegisters.Configuration => _configuration,
        NvmeRegisters.Status => _status,
        NvmeRegisters.AdminQueueAttributes => _attributes,
        NvmeRegisters.AdminSubmissionQueue => (uint)_submissionBase,
        NvmeRegisters.AdminSubmissionQueue + 4 => (uint)(_submissionBase >> 32),
        NvmeRegisters.AdminCompletionQueue => (uint)_completionBase,
        NvmeRegisters.AdminCompletionQueue + 4 => (uint)(_completionBase >> 32),
        _ => 0,
    };

    private void Store(int offset, uint value)
    {
        bool frozen = (_configuration & NvmeRegisters.Enable) != 0;
        switch (offset)
        {
            case NvmeRegisters.InterruptMaskSet:
                _interruptMask |= value;
                _worker.Signal();
                break;
            case NvmeRegisters.InterruptMaskClear:
                _interruptMask &= ~value;
                _worker.Signal();
                break;
            case NvmeRegisters.Configuration:
                _resetWanted |= (_configuration & ~value & NvmeRegisters.Enable) != 0;
                _configuration = value;
                _worker.Signal();
                break;
            case NvmeRegisters.AdminQueueAttributes when !frozen:
                _attributes = value & 0x0FFF_0FFF;
                break;
            case NvmeRegisters.AdminSubmissionQueue when !frozen:
                _submissionBase = (_submissionBase & 0xFFFF_FFFF_0000_0000) | (value & ~0xFFFu);
                break;
            case NvmeRegisters.AdminSubmissionQueue + 4 when !frozen:
                _submissionBase = (uint)_submissionBase | ((ulong)value << 32);
                break;
            case NvmeRegisters.AdminCompletionQueue when !frozen:
                _completionBase = (_completionBase & 0xFFFF_FFFF_0000_0000) | (value & ~0xFFFu);
                break;
            case NvmeRegisters.AdminCompletionQueue + 4 when !frozen:
                _completionBase = (uint)_completionBase | ((ulong)value << 32);
                break;
        }
    }

    /// <summary>A doorbell: even ones are submission queues' tails, odd ones completion queues' heads.</summary>
    private void Ring(int index, uint value)
    {
        int queue = index / 2;
        if (queue >= _queues)
        {
            return;
        }
        if ((index & 1) == 0)
        {
            Volatile.Write(ref _tails[queue], value);
            _worker.Signal();
            return;
        }
        Volatile.Write(ref _heads[queue], value);
        Interlocked.MemoryBarrier();
        if (_starved != 0 || !Msix!.Enabled)
        {
            _worker.Signal();
        }
    }
}
