using System.Buffers.Binary;
using System.Numerics;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Storage;
using Lodge.Machine.Devices.Storage.Scsi;
using Lodge.Machine.Virtio;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Virtio.Scsi;

/// <summary>
/// SCSI host device (virtio 1.2, 5.6): targets with one logical unit each, disks and CD-ROM drives. The worker executes commands; those that need the disk are
/// in flight, as many as the queues hold, and transfer directly from and to guest memory.
/// </summary>
public sealed partial class VirtioScsi : VirtioDevice
{
    private readonly ScsiUnit?[] _units = new ScsiUnit?[VirtioScsiRequests.MaximumTargets];      // replaced entry by entry, read without lock
    private readonly DiskRequestQueue _requests;
    private readonly Stack<VirtioScsiRequest> _free = new();
    private readonly HashSet<VirtioScsiRequest> _running = [];
    private readonly int[] _inFlight;       // by queue; changed on the worker, or while it is stopped
    private ulong _waiting;                 // queues that have more while too much is in flight
    private long _bytesInFlight;
    private int _senseSize = VirtioScsiRequests.MaximumSenseSize;
    private int _cdbSize = VirtioScsiRequests.MaximumCdbSize;

    /// <summary>Creates the device.</summary>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="configuration">Its set-up.</param>
    public VirtioScsi(GuestMemory memory, VirtioScsiConfiguration configuration)
        : base(VirtioDeviceType.ScsiHost, memory, QueueSizes(configuration.Queues))
    {
        if (configuration.Targets.Count > VirtioScsiRequests.MaximumTargets)
        {
            throw new ArgumentException($"a SCSI controller has at most {VirtioScsiRequests.MaximumTargets} targets", nameof(configuration));
        }
        _requests = new DiskRequestQueue(Signal, configuration.Failed);
        _inFlight = new int[Queues.Count];
        for (int i = 0; i < configuration.Targets.Count; i++)
        {
            _units[i] = CreateUnit(configuration.Targets[i]);
        }
    }

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => VirtioScsiRequests.FeatureHotplug | VirtioScsiRequests.FeatureChange;

    /// <inheritdoc/>
    protected internal override int ConfigurationLength => VirtioScsiRequests.ConfigurationLength;

    /// <inheritdoc/>
    protected override void ReadConfiguration(Span<byte> destination)
    {
        destination.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioScsiRequests.QueueCount..], (uint)(Queues.Count - VirtioScsiRequests.FirstRequestQueue));
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioScsiRequests.SegMax..], VirtioScsiRequests.RequestQueueSize - 2);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioScsiRequests.MaxSectors..], ScsiUnit.MaximumTransfer / 512);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioScsiRequests.CommandsPerLun..], 128);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioScsiRequests.EventInfoSize..], VirtioScsiRequests.EventLength);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioScsiRequests.SenseSize..], (uint)_senseSize);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioScsiRequests.CdbSize..], (uint)_cdbSize);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[VirtioScsiRequests.MaxTarget..], VirtioScsiRequests.MaximumTargets - 1);
    }

    /// <summary>Sense and CDB sizes may be made smaller, before the driver is set up.</summary>
    protected override void WriteConfiguration(int offset, ReadOnlySpan<byte> data)
    {
        if (data.Length != 4 || (Status & VirtioStatus.DriverOk) != 0)
        {
            return;
        }
        uint value = BinaryPrimitives.ReadUInt32LittleEndian(data);
        if (offset == VirtioScsiRequests.SenseSize && value <= VirtioScsiRequests.MaximumSenseSize)
        {
            _senseSize = (int)value;
        }
        else if (offset == VirtioScsiRequests.CdbSize && value is > 0 and <= VirtioScsiRequests.MaximumCdbSize)
        {
            _cdbSize = (int)value;
        }
    }

    /// <inheritdoc/>
    protected override bool ServesOnKick(VirtQueue queue)
    {
        if (queue.Index == VirtioScsiRequests.EventQueue)
        {
            PostEvents();
            return false;       // its buffers are taken when there are events
        }
        if (queue.Index == VirtioScsiRequests.ControlQueue || _bytesInFlight < VirtioScsiRequests.MaximumBytesInFlight)
        {
            return true;
        }
        _waiting |= 1UL << queue.Index;
        return false;
    }

    /// <inheritdoc/>
    protected override bool Serve(VirtQueue queue, DescriptorChain chain)
    {
        if (queue.Index == VirtioScsiRequests.ControlQueue)
        {
            return Control(queue, chain);
        }
        VirtioScsiRequest request = _free.TryPop(out VirtioScsiRequest? spare) ? spare : new VirtioScsiRequest();
        if (!request.TryBegin(queue, chain, _cdbSize, _senseSize))
        {
            request.End();
            _free.Push(request);
            Reject(queue, chain);
            return false;
        }
        if (UnitOf(request.Target) is not { } unit)
        {
            Finish(request, VirtioScsiRequests.ResponseBadTarget);
            return true;
        }
        if (unit.Execute(request))
        {
            Finish(request, VirtioScsiRequests.ResponseOk);
            return true;
        }
        if (_requests.Begin(request))
        {
            request.Complete();
            Finish(request, VirtioScsiRequests.ResponseOk);
            return true;
        }
        _running.Add(request);
        _inFlight[queue.Index]++;
        _bytesInFlight += request.Lent;
        if (_bytesInFlight < VirtioScsiRequests.MaximumBytesInFlight)
        {
            return true;
        }
        _waiting |= 1UL << queue.Index;
        return false;
    }

    /// <inheritdoc/>
    protected override void OnSignal() => PostEvents();

    /// <inheritdoc/>
    protected override void OnCollect()
    {
        ulong touched = 0;
        while (_requests.TryCollect(out DiskRequest ended))
        {
            var request = (VirtioScsiRequest)ended;
            int queue = request.Queue.Index;
            _running.Remove(request);
            _inFlight[queue]--;
            _bytesInFlight -= request.Lent;
            touched |= 1UL << queue;
            request.Complete();
            Finish(request, VirtioScsiRequests.ResponseOk);
        }
        for (ulong rest = touched; rest != 0; rest &= rest - 1)
        {
            Notify(Queues[BitOperations.TrailingZeroCount(rest)]);
        }
        if (touched != 0)
        {
            FinishTasks();
        }
        if (_bytesInFlight < VirtioScsiRequests.MaximumBytesInFlight)
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
        _waiting = 0;
        (_senseSize, _cdbSize) = (VirtioScsiRequests.MaximumSenseSize, VirtioScsiRequests.MaximumCdbSize);
        _tasks.Clear();
        foreach (ScsiUnit? unit in _units)
        {
            ResetUnit(unit);
        }
    }

    /// <inheritdoc/>
    protected override void OnQueueReset(VirtQueue queue)
    {
        if (queue.Index == VirtioScsiRequests.ControlQueue)
        {
            _tasks.Clear();
        }
    }

    /// <inheritdoc/>
    protected override void SaveDevice(StateWriter writer)
    {
        var units = new List<ScsiUnitState>();
        for (int i = 0; i < _units.Length; i++)
        {
            if (_units[i] is { } unit)
            {
                units.Add(unit switch
                {
                    ScsiDisk disk => new ScsiUnitState(i, false, (uint)unit.Attention, disk.WriteCache ? (byte)1 : (byte)0),
                    ScsiCdRom drive => new ScsiUnitState(i, true, (uint)unit.Attention, (byte)((drive.Open ? 2 : 0) | (drive.Locked ? 4 : 0))),
                    _ => throw new InvalidOperationException("a unit of an unknown kind"),
                });
            }
        }
        lock (_events)
        {
            writer.Nested(1, new VirtioScsiState(
                _senseSize, _cdbSize, _missed, [.. _events.SelectMany(one => (ulong[])[one.Event, (ulong)one.Target, one.Reason, 0])], units));
        }
    }

    /// <inheritdoc/>
    protected override void RestoreDevice(StateReader reader)
    {
        VirtioScsiState state = reader.Nested(1, VirtioScsiState.PowerOn);
        if (state.CdbSize == 0 || state.Events.Count % 4 != 0)
        {
            throw new SavedStateException("saved state of the SCSI controller is malformed");
        }
        foreach (ScsiUnitState saved in state.Units)
        {
            switch (_units[saved.Target])
            {
                case ScsiDisk disk when !saved.CdRom:
                    disk.WriteCache = (saved.Flags & 1) != 0;
                    break;
                case ScsiCdRom drive when saved.CdRom:
                    (drive.Open, drive.Locked) = ((saved.Flags & 2) != 0, (saved.Flags & 4) != 0);
                    break;
                default:
                    throw new SavedStateException($"saved state has a SCSI target {saved.Target} that this machine has not");
            }
            _units[saved.Target]!.Attention = (ScsiSense)saved.Attention;
        }
        (_senseSize, _cdbSize) = (state.SenseSize, state.CdbSize);
        lock (_events)
        {
            _events.Clear();
            _missed = state.Missed;
            for (int i = 0; i < state.Events.Count; i += 4)
            {
                _events.Enqueue(((uint)state.Events[i], (int)Math.Min(state.Events[i + 1], VirtioScsiRequests.MaximumTargets - 1), (uint)state.Events[i + 2]));
            }
        }
    }

    private static ushort[] QueueSizes(int queues)
    {
        var sizes = new ushort[VirtioScsiRequests.FirstRequestQueue + Math.Clamp(queues, 1, VirtioScsiRequests.MaximumRequestQueues)];
        Array.Fill(sizes, VirtioScsiRequests.RequestQueueSize);
        sizes[VirtioScsiRequests.ControlQueue] = sizes[VirtioScsiRequests.EventQueue] = VirtioScsiRequests.ControlQueueSize;
        return sizes;
    }

    private static ScsiUnit CreateUnit(ScsiTargetConfiguration target)
    {
        if (target.CdRom)
        {
            return new ScsiCdRom(target.Disk, target.Serial);
        }
        return target.Disk is { } disk && target.BlockSize is 512 or 4096
            ? new ScsiDisk(target.Disk, target.Serial, target.BlockSize, target.ReadOnly, target.Discard)
            : throw new ArgumentException("a SCSI disk needs a disk and blocks of 512 or 4096 bytes", nameof(target));
    }

    private static void ResetUnit(ScsiUnit? unit)
    {
        if (unit is null)
        {
            return;
        }
        unit.Attention = ScsiSense.PowerOnOrReset;
        if (unit is ScsiCdRom drive)
        {
            drive.Locked = false;
        }
    }

    private ScsiUnit? UnitOf(int target) => (uint)target < (uint)_units.Length ? Volatile.Read(ref _units[target]) : null;

    private void Finish(VirtioScsiRequest request, byte response)
    {
        request.Finish(response);
        _free.Push(request);
    }
}
