using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage.Nvme;

/// <content>Admin commands (NVM Express 1.4, 5). On the worker.</content>
public sealed partial class NvmeController
{
    // Asynchronous events, as bits of what is pending and of what the host has been told and not yet read the log of.
    private const int EventNamespaceChanged = 1, EventInvalidDoorbell = 2;
    private const uint NamespaceAttributeNotices = 1 << 8;

    private readonly uint[] _features = new uint[16];
    private readonly Queue<ushort> _eventRequests = new();
    private readonly byte[] _page = new byte[4096];
    private NvmeHealth _health = new();
    private bool _ioQueuesCreated;
    private bool _namespaceChanged;
    private int _events;
    private int _masked;

    private bool WriteCache => (_features[(int)NvmeFeature.VolatileWriteCache] & 1) != 0;

    private void ResetFeatures()
    {
        Array.Clear(_features);
        _features[(int)NvmeFeature.TemperatureThreshold] = 343;
        _features[(int)NvmeFeature.VolatileWriteCache] = 1;
        _ioQueuesCreated = false;
        _namespaceChanged = false;
    }

    private void ExecuteAdmin(NvmeCommand command)
    {
        uint result = 0;
        NvmeStatus status = command.Flags != 0 ? NvmeStatus.InvalidField : (NvmeAdminOpcode)command.Opcode switch
        {
            NvmeAdminOpcode.CreateCompletionQueue => CreateCompletion(command),
            NvmeAdminOpcode.CreateSubmissionQueue => CreateSubmission(command),
            NvmeAdminOpcode.DeleteCompletionQueue => DeleteCompletion(command),
            NvmeAdminOpcode.Identify => Identify(command),
            NvmeAdminOpcode.GetLogPage => GetLog(command),
            NvmeAdminOpcode.GetFeatures => GetFeature(command, out result),
            NvmeAdminOpcode.SetFeatures => SetFeature(command, out result),
            NvmeAdminOpcode.Abort => Abort(out result),
            NvmeAdminOpcode.DoorbellBufferConfig => ConfigureShadow(command),
            NvmeAdminOpcode.DeleteSubmissionQueue or NvmeAdminOpcode.AsynchronousEventRequest => NvmeStatus.Success,
            _ => NvmeStatus.InvalidOpcode,
        };
        if (status == NvmeStatus.Success && (NvmeAdminOpcode)command.Opcode == NvmeAdminOpcode.DeleteSubmissionQueue)
        {
            DeleteSubmission(command);
        }
        else if (status == NvmeStatus.Success && (NvmeAdminOpcode)command.Opcode == NvmeAdminOpcode.AsynchronousEventRequest)
        {
            RequestEvent(command);
        }
        else
        {
            Finish(command, status == NvmeStatus.Success ? status : status | NvmeStatus.DoNotRetry, result);
        }
    }

    private NvmeStatus CreateCompletion(NvmeCommand command)
    {
        int id = (int)(command.Dword(10) & 0xFFFF), size = (int)(command.Dword(10) >> 16) + 1;
        uint flags = command.Dword(11);
        int vector = (int)(flags >> 16);
        if (id == 0 || id >= _queues || _completions[id] is not null)
        {
            return NvmeStatus.InvalidQueueIdentifier;
        }
        if (size is < 2 or > NvmeRegisters.MaximumQueueEntries)
        {
            return NvmeStatus.InvalidQueueSize;
        }
        if (vector >= Msix!.Vectors || (!Msix.Enabled && vector != 0))
        {
            return NvmeStatus.InvalidInterruptVector;
        }
        if ((flags & 1) == 0 || EntrySize(20) != 4 || !QueueInMemory(command.Prp1, size, NvmeRegisters.CompletionEntry))
        {
            return NvmeStatus.InvalidField;
        }
        Volatile.Write(ref _heads[id], 0);
        _completions[id] = new NvmeCompletionQueue(id, command.Prp1, size, vector, (flags & 2) != 0);
        _ioQueuesCreated = true;
        return NvmeStatus.Success;
    }

    private NvmeStatus CreateSubmission(NvmeCommand command)
    {
        int id = (int)(command.Dword(10) & 0xFFFF), size = (int)(command.Dword(10) >> 16) + 1;
        uint flags = command.Dword(11);
        int completion = (int)(flags >> 16);
        if (id == 0 || id >= _queues || _submissions[id] is not null)
        {
            return NvmeStatus.InvalidQueueIdentifier;
        }
        if (completion == 0 || completion >= _queues || _completions[completion] is not { } queue)
        {
            return NvmeStatus.CompletionQueueInvalid;
        }
        if (size is < 2 or > NvmeRegisters.MaximumQueueEntries)
        {
            return NvmeStatus.InvalidQueueSize;
        }
        if ((flags & 1) == 0 || EntrySize(16) != 6 || !QueueInMemory(command.Prp1, size, NvmeRegisters.SubmissionEntry))
        {
            return NvmeStatus.InvalidField;
        }
        Volatile.Write(ref _tails[id], 0);
        _submissions[id] = new NvmeSubmissionQueue(id, command.Prp1, size, queue);
        queue.Users++;
        return NvmeStatus.Success;
    }

    private NvmeStatus DeleteCompletion(NvmeCommand command)
    {
        int id = (int)(command.Dword(10) & 0xFFFF);
        if (id == 0 || id >= _queues || _completions[id] is not { } queue)
        {
            return NvmeStatus.InvalidQueueIdentifier;
        }
        if (queue.Users != 0)
        {
            return NvmeStatus.InvalidQueueDeletion;
        }
        _completions[id] = null;
        return NvmeStatus.Success;
    }

    /// <summary>Completes when the queue's own commands have.</summary>
    private void DeleteSubmission(NvmeCommand command)
    {
        int id = (int)(command.Dword(10) & 0xFFFF);
        if (id == 0 || id >= _queues || _submissions[id] is not { Deletion: null } queue)
        {
            Finish(command, NvmeStatus.InvalidQueueIdentifier | NvmeStatus.DoNotRetry);
        }
        else if (queue.InFlight == 0)
        {
            RemoveSubmission(queue);
            Finish(command, NvmeStatus.Success);
        }
        else
        {
            queue.Deletion = command.Identifier;
            command.End();
            _free.Push(command);
        }
    }

    private void RemoveSubmission(NvmeSubmissionQueue queue)
    {
        _submissions[queue.Id] = null;
        queue.Completion.Users--;
    }

    private NvmeStatus Identify(NvmeCommand command)
    {
        uint id = command.Namespace;
        switch (command.Dword(10) & 0xFF)
        {
            case 0 when id == NvmeIdentify.NamespaceId:
                _identify.Namespace(_page, (ulong)Volatile.Read(ref _blocks));
                break;
            case 1:
                _identify.Controller(_page);
                break;
            case 2 when id < 0xFFFF_FFFE:
                NvmeIdentify.ActiveNamespaces(_page, id);
                break;
            case 3 when id == NvmeIdentify.NamespaceId:
                _identify.NamespaceIdentifiers(_page);
                break;
            case 0 or 2 or 3:
                return NvmeStatus.InvalidNamespace;
            default:
                return NvmeStatus.InvalidField;
        }
        return Give(command, 0, (uint)_page.Length);
    }

    private NvmeStatus GetLog(NvmeCommand command)
    {
        uint select = command.Dword(10);
        var log = (NvmeLog)(select & 0xFF);
        ulong length = (((ulong)(command.Dword(11) & 0xFFFF) << 16) + (select >> 16) + 1) * 4;
        ulong offset = command.Dword(12) | ((ulong)command.Dword(13) << 32);
        _page.AsSpan().Clear();
        int size;
        switch (log)
        {
            case NvmeLog.ErrorInformation:
                size = 64;
                _health.WriteError(_page);
                break;
            case NvmeLog.Health:
                size = 512;
                _health.Write(_page);
                break;
            case NvmeLog.FirmwareSlot:
                size = 512;
                NvmeIdentify.FirmwareSlots(_page);
                break;
            case NvmeLog.ChangedNamespaces:
                size = 4096;
                BinaryPrimitives.WriteUInt32LittleEndian(_page, _namespaceChanged ? NvmeIdentify.NamespaceId : 0);
                break;
            case NvmeLog.CommandsSupported:
                size = 4096;
                _identify.CommandsSupported(_page);
                break;
            default:
                return NvmeStatus.InvalidLogPage;
        }
        if (offset % 4 != 0 || offset > (ulong)size)
        {
            return NvmeStatus.InvalidField;
        }
        NvmeStatus status = length <= NvmeRegisters.MaximumTransfer ? Give(command, (int)offset, (uint)length) : NvmeStatus.InvalidField;
        const uint RetainEvent = 1 << 15;
        if (status == NvmeStatus.Success && (select & RetainEvent) == 0)
        {
            _masked &= ~(log switch { NvmeLog.ChangedNamespaces => EventNamespaceChanged, NvmeLog.ErrorInformation => EventInvalidDoorbell, _ => 0 });
            _namespaceChanged &= log != NvmeLog.ChangedNamespaces;
        }
        return status;
    }

    /// <summary>Copies the page from <paramref name="offset"/> into the host's buffer; what the buffer has more becomes zero.</summary>
    private NvmeStatus Give(NvmeCommand command, int offset, uint length)
    {
        NvmeStatus status = command.Map(length);
        if (status == NvmeStatus.Success)
        {
            int count = (int)Math.Min(length, (uint)(_page.Length - offset));
            command.Data.Slice(count, length - count).Clear();
            command.Data.Slice(0, count).CopyFrom(_page.AsSpan(offset, count));
            command.Filled();
        }
        return status;
    }

    private NvmeStatus GetFeature(NvmeCommand command, out uint result)
    {
        uint id = command.Dword(10) & 0xFF, select = (command.Dword(10) >> 8) & 7;
        result = 0;
        if (!Enum.IsDefined((NvmeFeature)id) || select > 3)
        {
            return NvmeStatus.InvalidField;
        }
        const uint Changeable = 1 << 2;
        uint fixedValue = (uint)(_queues - 2) | ((uint)(_queues - 2) << 16);
        result = (select, (NvmeFeature)id) switch
        {
            (3, _) => Changeable,
            (_, NvmeFeature.NumberOfQueues) => fixedValue,
            (_, NvmeFeature.InterruptVectorConfiguration) => command.Dword(11) & 0xFFFF,
            (0, _) => _features[id],
            (_, NvmeFeature.VolatileWriteCache) => 1,
            (_, NvmeFeature.TemperatureThreshold) => 343,
            _ => 0,
        };
        return NvmeStatus.Success;
    }

    private NvmeStatus SetFeature(NvmeCommand command, out uint result)
    {
        const uint Save = 1u << 31;
        uint id = command.Dword(10) & 0xFF, value = command.Dword(11);
        result = 0;
        if ((command.Dword(10) & Save) != 0)
        {
            return NvmeStatus.FeatureNotSaveable;
        }
        switch ((NvmeFeature)id)
        {
            case NvmeFeature.NumberOfQueues:
                if (_ioQueuesCreated)
                {
                    return NvmeStatus.CommandSequenceError;
                }
                result = (uint)(_queues - 2) | ((uint)(_queues - 2) << 16);
                return (value & 0xFFFF) == 0xFFFF || value >> 16 == 0xFFFF ? NvmeStatus.InvalidField : NvmeStatus.Success;
            case NvmeFeature.PowerManagement when (value & 0x1F) != 0:
                return NvmeStatus.InvalidField;         // there is one power state
            case NvmeFeature.InterruptVectorConfiguration:
                return (value & 0xFFFF) < (uint)Msix!.Vectors ? NvmeStatus.Success : NvmeStatus.InvalidField;      // coalescing is off in all of them
            case NvmeFeature.Arbitration or NvmeFeature.PowerManagement or NvmeFeature.TemperatureThreshold or NvmeFeature.ErrorRecovery
                or NvmeFeature.VolatileWriteCache or NvmeFeature.InterruptCoalescing or NvmeFeature.WriteAtomicity or NvmeFeature.AsynchronousEventConfiguration:
                _features[id] = value;
                return NvmeStatus.Success;
            default:
                return NvmeStatus.InvalidField;
        }
    }

    /// <summary>A command that the disk works on is not taken back: bit 0 of the result says so.</summary>
    private static NvmeStatus Abort(out uint result)
    {
        result = 1;
        return NvmeStatus.Success;
    }

    private NvmeStatus ConfigureShadow(NvmeCommand command)
    {
        ulong doorbells = command.Prp1, events = command.Prp2;
        if (doorbells == 0 || !QueueInMemory(doorbells, 1, (int)NvmeRegisters.PageSize) || !QueueInMemory(events, 1, (int)NvmeRegisters.PageSize))
        {
            return NvmeStatus.InvalidField;
        }
        // The buffers begin where the registers are (5.7 leaves it to the host, which does not always do it).
        for (int i = 1; i < _queues; i++)
        {
            ulong at = (ulong)i * 8;
            _memory.TryWrite(doorbells + at, Volatile.Read(ref _tails[i]));
            _memory.TryWrite(doorbells + at + 4, Volatile.Read(ref _heads[i]));
            _memory.TryWrite(events + at, Volatile.Read(ref _tails[i]));
            _memory.TryWrite(events + at + 4, Volatile.Read(ref _heads[i]));
        }
        (_shadowDoorbells, _shadowEvents) = (doorbells, events);
        return NvmeStatus.Success;
    }

    /// <summary>Keeps the request until there is an event. It has no place in the completion queue meanwhile.</summary>
    private void RequestEvent(NvmeCommand command)
    {
        if (_eventRequests.Count == NvmeRegisters.MaximumEventRequests)
        {
            Finish(command, NvmeStatus.EventRequestLimitExceeded | NvmeStatus.DoNotRetry);
            return;
        }
        _eventRequests.Enqueue(command.Identifier);
        command.Queue.InFlight--;
        command.Queue.Completion.Reserved--;
        command.End();
        _free.Push(command);
    }

    /// <summary>Answers event requests as far as there are events, requests, and places in the completion queue (5.2).</summary>
    private void PostEvents()
    {
        NvmeSubmissionQueue admin = _submissions[0]!;
        int pending = Volatile.Read(ref _events) & ~_masked;
        if (pending == 0)
        {
            return;
        }
        Span<(int Event, uint Result)> kinds =
        [
            (EventNamespaceChanged, 2 | ((uint)NvmeLog.ChangedNamespaces << 16)),       // notice: namespace attribute changed
            (EventInvalidDoorbell, 0 | (1 << 8) | ((uint)NvmeLog.ErrorInformation << 16)),     // error: invalid doorbell write value
        ];
        foreach ((int kind, uint result) in kinds)
        {
            if ((pending & kind) == 0)
            {
                continue;
            }
            bool wanted = kind != EventNamespaceChanged || (_features[(int)NvmeFeature.AsynchronousEventConfiguration] & NamespaceAttributeNotices) != 0;
            if (wanted && (_eventRequests.Count == 0 || !HasRoom(admin.Completion)))
            {
                continue;
            }
            Interlocked.And(ref _events, ~kind);
            if (wanted)
            {
                _masked |= kind;
                _namespaceChanged |= kind == EventNamespaceChanged;
                Post(admin.Completion, admin, _eventRequests.Dequeue(), NvmeStatus.Success, result);
            }
        }
    }

    /// <summary>CC.IOSQES (shift 16) or CC.IOCQES (shift 20).</summary>
    private uint EntrySize(int shift)
    {
        lock (_gate)
        {
            return (_configuration >> shift) & 0xF;
        }
    }

    private bool QueueInMemory(ulong address, int entries, int entry) =>
        address % NvmeRegisters.PageSize == 0 && _memory.TryGetOffset(address, (ulong)entries * (ulong)entry, out _);
}
