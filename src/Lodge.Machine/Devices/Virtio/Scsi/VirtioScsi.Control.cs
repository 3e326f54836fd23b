using System.Buffers.Binary;
using Lodge.Machine.Devices.Storage.Scsi;
using Lodge.Machine.Virtio;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Virtio.Scsi;

/// <content>Task management, events, and targets that come and go.</content>
public sealed partial class VirtioScsi
{
    private readonly List<TaskWait> _tasks = [];        // functions that wait for commands to end; at most the control queue's size
    private readonly Queue<(uint Event, int Target, uint Reason)> _events = new();      // locked: hosts' threads add
    private bool _missed;

    /// <summary>Adds a target while the guest runs; it is told. Any thread.</summary>
    /// <returns>Its number; -1 when all are taken.</returns>
    public int Attach(ScsiTargetConfiguration target)
    {
        ScsiUnit unit = CreateUnit(target);
        for (int i = 0; i < _units.Length; i++)
        {
            if (Interlocked.CompareExchange(ref _units[i], unit, null) is null)
            {
                Tell(VirtioScsiRequests.EventTransportReset, i, VirtioScsiRequests.ReasonRescan);
                return i;
            }
        }
        return -1;
    }

    /// <summary>
    /// Takes a target away while the guest runs; it is told. Commands in flight end as usual: the disk is not disposed before the device was stopped. Any thread.
    /// </summary>
    public bool Detach(int target)
    {
        if ((uint)target >= (uint)_units.Length || Interlocked.Exchange(ref _units[target], null) is null)
        {
            return false;
        }
        Tell(VirtioScsiRequests.EventTransportReset, target, VirtioScsiRequests.ReasonRemoved);
        return true;
    }

    /// <summary>Changes the medium of a CD-ROM drive, or takes it out (null). The old one is not disposed before the device was stopped. Any thread.</summary>
    /// <returns>False when the target is no CD-ROM drive.</returns>
    public bool ChangeMedium(int target, IDisk? medium)
    {
        if (UnitOf(target) is not ScsiCdRom drive)
        {
            return false;
        }
        drive.ChangeMedium(medium);
        Tell(VirtioScsiRequests.EventParameterChange, target, Reason(ScsiSense.MediumChanged));
        return true;
    }

    /// <summary>The length of a target's disk changed: the driver is told. Any thread.</summary>
    public void LengthChanged(int target)
    {
        if (UnitOf(target) is ScsiDisk disk && disk.LengthChanged())
        {
            Tell(VirtioScsiRequests.EventParameterChange, target, Reason(ScsiSense.CapacityChanged));
        }
    }

    /// <summary>Changes the length of a target's disk while the guest uses it.</summary>
    /// <exception cref="DiskException">The disk has a fixed size, or no room.</exception>
    public async ValueTask ResizeAsync(int target, long length, CancellationToken cancellation = default)
    {
        if (UnitOf(target) is ScsiDisk unit)
        {
            await unit.Disk.SetLengthAsync(length, cancellation).ConfigureAwait(false);
            LengthChanged(target);
        }
    }

    /// <summary>The reason of a parameter change: additional sense code in the low byte, qualifier above.</summary>
    private static uint Reason(ScsiSense sense) => (((uint)sense >> 8) & 0xFF) | (((uint)sense & 0xFF) << 8);

    private void Tell(uint what, int target, uint reason)
    {
        lock (_events)
        {
            if (_events.Count == VirtioScsiRequests.MaximumEvents)
            {
                _missed = true;
            }
            else
            {
                _events.Enqueue((what, target, reason));
            }
        }
        Signal();
    }

    /// <summary>Puts events into the driver's buffers, as far as it has some. On the worker.</summary>
    private void PostEvents()
    {
        VirtQueue queue = Queues[VirtioScsiRequests.EventQueue];
        Span<byte> data = stackalloc byte[VirtioScsiRequests.EventLength];
        for (int i = 0; i <= VirtioScsiRequests.MaximumEvents; i++)
        {
            lock (_events)
            {
                if (_events.Count == 0 && !_missed)
                {
                    break;
                }
            }
            if (queue.TryPop() is not { } chain)
            {
                if (queue.ResumeNotifications())
                {
                    continue;
                }
                break;
            }
            if (chain.WritableLength < data.Length)
            {
                Reject(queue, chain);
                break;
            }
            data.Clear();
            lock (_events)
            {
                bool any = _events.TryDequeue(out (uint Event, int Target, uint Reason) one);
                BinaryPrimitives.WriteUInt32LittleEndian(data, (any ? one.Event : VirtioScsiRequests.EventNone) | (_missed ? VirtioScsiRequests.EventsMissed : 0));
                _missed = false;
                data[4] = 1;
                data[5] = (byte)one.Target;
                BinaryPrimitives.WriteUInt32LittleEndian(data[12..], one.Reason);
            }
            chain.Write(data);
            queue.Complete(chain);
        }
        Notify(queue);
    }

    /// <summary>A request of the control queue (5.6.6.2).</summary>
    private bool Control(VirtQueue queue, DescriptorChain chain)
    {
        Span<byte> request = stackalloc byte[24];
        if (!chain.TryReadUInt32(out uint type) || chain.WritableLength == 0)
        {
            Reject(queue, chain);
            return false;
        }
        switch (type)
        {
            case VirtioScsiRequests.TaskManagement when chain.Read(request[..20]) == 20:
                Manage(queue, chain, request);
                return true;
            case VirtioScsiRequests.NotificationQuery or VirtioScsiRequests.NotificationSubscribe when chain.Read(request[..12]) == 12 && chain.WritableLength >= 5:
                // No unit has asynchronous notifications: event_actual is 0.
                chain.Write([0, 0, 0, 0, UnitOf(VirtioScsiRequest.TargetOf(request)) is null ? VirtioScsiRequests.ResponseBadTarget : VirtioScsiRequests.ResponseOk]);
                queue.Complete(chain);
                return true;
            default:
                Reject(queue, chain);
                return false;
        }
    }

    private void Manage(VirtQueue queue, DescriptorChain chain, ReadOnlySpan<byte> request)
    {
        var function = (ScsiTaskFunction)BinaryPrimitives.ReadUInt32LittleEndian(request);
        int target = VirtioScsiRequest.TargetOf(request[4..]);
        ulong identifier = BinaryPrimitives.ReadUInt64LittleEndian(request[12..]);
        if (UnitOf(target) is not { } unit)
        {
            Answer(queue, chain, VirtioScsiRequests.ResponseBadTarget);
            return;
        }
        ulong? only = function is ScsiTaskFunction.AbortTask or ScsiTaskFunction.QueryTask ? identifier : null;
        bool busy = Busy(target, only);
        switch (function)
        {
            case ScsiTaskFunction.QueryTask or ScsiTaskFunction.QueryTaskSet:
                Answer(queue, chain, busy ? VirtioScsiRequests.FunctionSucceeded : VirtioScsiRequests.FunctionComplete);
                break;
            case ScsiTaskFunction.AbortTask or ScsiTaskFunction.AbortTaskSet or ScsiTaskFunction.ClearTaskSet
                or ScsiTaskFunction.LogicalUnitReset or ScsiTaskFunction.NexusReset:
                if (function is ScsiTaskFunction.LogicalUnitReset or ScsiTaskFunction.NexusReset)
                {
                    ResetUnit(unit);
                }
                if (busy)
                {
                    // The function is complete when the commands are; their buffers are lent until then.
                    _tasks.Add(new TaskWait(chain, target, only));
                }
                else
                {
                    Answer(queue, chain, VirtioScsiRequests.FunctionComplete);
                }
                break;
            default:
                Answer(queue, chain, VirtioScsiRequests.FunctionRejected);
                break;
        }
    }

    private bool Busy(int target, ulong? only)
    {
        foreach (VirtioScsiRequest request in _running)
        {
            if (request.Target == target && (only is null || only == request.Identifier))
            {
                return true;
            }
        }
        return false;
    }

    /// <summary>Answers the functions that have nothing to wait for any more.</summary>
    private void FinishTasks()
    {
        VirtQueue queue = Queues[VirtioScsiRequests.ControlQueue];
        for (int i = _tasks.Count - 1; i >= 0; i--)
        {
            TaskWait task = _tasks[i];
            if (!Busy(task.Target, task.Identifier))
            {
                _tasks.RemoveAt(i);
                Answer(queue, task.Chain, VirtioScsiRequests.FunctionComplete);
            }
        }
        Notify(queue);
    }

    private static void Answer(VirtQueue queue, DescriptorChain chain, byte response)
    {
        chain.Write([response]);
        queue.Complete(chain);
    }

    private readonly record struct TaskWait(DescriptorChain Chain, int Target, ulong? Identifier);
}
