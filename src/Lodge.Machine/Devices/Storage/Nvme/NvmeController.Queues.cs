using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage.Nvme;

/// <content>The worker: fetches commands, begins and completes them, and carries out enabling, reset and shutdown.</content>
public sealed partial class NvmeController
{
    /// <summary>Commands that one turn fetches from a queue before the others have theirs.</summary>
    private const int CommandsPerTurn = 64;

    private readonly NvmeSubmissionQueue?[] _submissions;
    private readonly NvmeCompletionQueue?[] _completions;
    private readonly Stack<NvmeCommand> _free = new();
    private bool _enabled;
    private int _inFlight;
    private long _bytesInFlight;
    private long _blocks;
    private ulong _shadowDoorbells;         // 0: not configured
    private ulong _shadowEvents;
    private bool _pin;
    private NvmeCommand? _shutdown;         // the flush of a shutdown in progress

    private bool Turn()
    {
        Collect();
        Transit();
        bool more = false;
        if (_enabled && !Resetting)
        {
            _starved = 0;
            Interlocked.MemoryBarrier();
            for (int i = 0; i < _queues; i++)
            {
                if (_submissions[i] is { } queue)
                {
                    more |= Fetch(queue);
                }
            }
            PostEvents();
        }
        SignalInterrupts();
        return more;
    }

    private bool Resetting
    {
        get
        {
            lock (_gate)
            {
                return _resetWanted;
            }
        }
    }

    /// <summary>Completes what the disk has ended.</summary>
    private void Collect()
    {
        while (_requests.TryCollect(out DiskRequest ended))
        {
            var command = (NvmeCommand)ended;
            _inFlight--;
            _bytesInFlight -= command.Length;
            if (command == _shutdown)
            {
                ShutDown(command);
            }
            else
            {
                Finish(command, Outcome(command));
            }
        }
    }

    /// <summary>Brings the controller into the state that CC asks for, as far as commands in flight allow.</summary>
    private void Transit()
    {
        uint configuration;
        bool reset, shutdown;
        lock (_gate)
        {
            (configuration, reset) = (_configuration, _resetWanted);
            // Taken with the CC that it belongs to: one that the host asks for from here on is another.
            _resetWanted = reset && _inFlight != 0;
            shutdown = (configuration & NvmeRegisters.ShutdownMask) != 0 && (_status & NvmeRegisters.ShutdownStatusMask) == 0;
            if (shutdown && !reset)
            {
                _status |= NvmeRegisters.ShutdownInProgress;
            }
        }
        if (reset)
        {
            if (_inFlight != 0)
            {
                _requests.Cancel();
                return;
            }
            ResetController();
        }
        if (!_enabled && (configuration & NvmeRegisters.Enable) != 0)
        {
            Enable(configuration);
        }
        if (_shutdown is null && ShuttingDown && _inFlight == 0)
        {
            // A command of our own that no queue knows: the disk is flushed before the shutdown is complete (7.6.2).
            _shutdown = Take();
            _shutdown.BecomeFlush();
            if (_requests.Begin(_shutdown))
            {
                ShutDown(_shutdown);
            }
            else
            {
                _inFlight++;
            }
        }
    }

    private bool ShuttingDown
    {
        get
        {
            lock (_gate)
            {
                return (_status & NvmeRegisters.ShutdownStatusMask) == NvmeRegisters.ShutdownInProgress;
            }
        }
    }

    private void ShutDown(NvmeCommand flush)
    {
        lock (_gate)
        {
            _status = (_status & ~NvmeRegisters.ShutdownStatusMask) | NvmeRegisters.ShutdownComplete;
        }
        _shutdown = null;
        _free.Push(flush);
    }

    private void Enable(uint configuration)
    {
        // CSS 0, MPS 0 (4 KiB), arbitration round robin; entry sizes are looked at when I/O queues are created.
        bool valid = (configuration & 0x3FF0) == 0;
        int submissionSize, completionSize;
        ulong submission, completion;
        lock (_gate)
        {
            submissionSize = (int)(_attributes & 0xFFF) + 1;
            completionSize = (int)((_attributes >> 16) & 0xFFF) + 1;
            (submission, completion) = (_submissionBase, _completionBase);
        }
        valid &= submissionSize >= 2 && completionSize >= 2
            && _memory.TryGetOffset(submission, (ulong)submissionSize * NvmeRegisters.SubmissionEntry, out _)
            && _memory.TryGetOffset(completion, (ulong)completionSize * NvmeRegisters.CompletionEntry, out _);
        if (valid)
        {
            _completions[0] = new NvmeCompletionQueue(0, completion, completionSize, 0, true) { Users = 1 };
            _submissions[0] = new NvmeSubmissionQueue(0, submission, submissionSize, _completions[0]!);
            _enabled = true;
        }
        lock (_gate)
        {
            _status |= valid ? NvmeRegisters.Ready : NvmeRegisters.Fatal;
        }
    }

    /// <summary>Controller reset (7.3.2): queues and features are forgotten; AQA, ASQ and ACQ stay. Nothing is in flight.</summary>
    private void ResetController()
    {
        Array.Clear(_submissions);
        Array.Clear(_completions);
        _enabled = false;
        _shadowDoorbells = _shadowEvents = 0;
        _eventRequests.Clear();
        _masked = 0;
        Interlocked.Exchange(ref _events, 0);
        ResetFeatures();
        _requests.Renew();
        for (int i = 0; i < _queues; i++)
        {
            Volatile.Write(ref _tails[i], 0);
            Volatile.Write(ref _heads[i], 0);
        }
        lock (_gate)
        {
            _status = 0;
            _interruptMask = 0;
        }
        _pin = false;
        SetInterrupt(false);
    }

    /// <summary>Fetches and begins commands; true when more are there.</summary>
    private bool Fetch(NvmeSubmissionQueue queue)
    {
        NvmeCompletionQueue completion = queue.Completion;
        for (int i = 0; i < CommandsPerTurn; i++)
        {
            int tail = Tail(queue);
            if (tail == queue.Head || queue.Deletion is not null || _bytesInFlight >= NvmeRegisters.MaximumBytesInFlight)
            {
                return false;       // for the last two a completion brings the next turn
            }
            if (!HasRoom(completion))
            {
                return false;       // the host's head doorbell does
            }
            NvmeCommand command = Take();
            if (!command.TryFetch(queue))
            {
                _free.Push(command);
                return false;
            }
            queue.Advance();
            queue.InFlight++;
            completion.Reserved++;
            if (queue.Id == 0)
            {
                ExecuteAdmin(command);
            }
            else
            {
                ExecuteIo(command);
            }
            if (_submissions[queue.Id] != queue || Resetting)
            {
                return false;
            }
        }
        return true;
    }

    private NvmeCommand Take() => _free.TryPop(out NvmeCommand? spare) ? spare : new NvmeCommand(_memory, _disk);

    /// <summary>The tail of a queue: the shadow doorbell where there is one, else the register. What lies beyond the queue is no tail.</summary>
    private int Tail(NvmeSubmissionQueue queue)
    {
        uint tail = Shadow(queue.Id * 2, queue.Id, Volatile.Read(ref _tails[queue.Id]), queue.Head);
        if (tail < (uint)queue.Size)
        {
            return (int)tail;
        }
        Interlocked.Or(ref _events, EventInvalidDoorbell);
        return queue.Head;
    }

    private bool HasRoom(NvmeCompletionQueue queue)
    {
        if (queue.Free > 0)
        {
            return true;
        }
        _starved = 1;
        Interlocked.MemoryBarrier();
        uint head = Shadow((queue.Id * 2) + 1, queue.Id, Volatile.Read(ref _heads[queue.Id]), queue.Head);
        if (head < (uint)queue.Size)
        {
            queue.Head = (int)head;
        }
        else
        {
            Interlocked.Or(ref _events, EventInvalidDoorbell);
        }
        return queue.Free > 0;
    }

    /// <summary>
    /// A doorbell's value (B.5): with shadow doorbells that in memory, after the host was asked to write the register once it goes beyond
    /// <paramref name="seen"/>. The admin queue's hosts write the register.
    /// </summary>
    private uint Shadow(int index, int queue, uint register, int seen)
    {
        if (_shadowDoorbells == 0 || queue == 0)
        {
            return register;
        }
        ulong at = (ulong)index * 4;
        if (_memory.TryRead(_shadowDoorbells + at, out uint value) && value != (uint)seen)
        {
            return value;
        }
        _memory.TryWrite(_shadowEvents + at, (uint)seen);
        Interlocked.MemoryBarrier();
        return _memory.TryRead(_shadowDoorbells + at, out value) ? value : register;
    }

    private void ExecuteIo(NvmeCommand command)
    {
        if (Prepare(command) is { } status)
        {
            Finish(command, status);
        }
        else if (_requests.Begin(command))
        {
            Finish(command, Outcome(command));
        }
        else
        {
            _inFlight++;
            _bytesInFlight += command.Length;
        }
    }

    /// <summary>Readies a command of the NVM command set for the disk; or its status, when the disk must not have it.</summary>
    private NvmeStatus? Prepare(NvmeCommand command)
    {
        const uint ForceUnitAccess = 1 << 30, ProtectionInformation = 0xFu << 26;
        var opcode = (NvmeOpcode)command.Opcode;
        if (command.Flags != 0)
        {
            return NvmeStatus.InvalidField | NvmeStatus.DoNotRetry;
        }
        bool all = opcode == NvmeOpcode.Flush && command.Namespace == uint.MaxValue;
        if (command.Namespace != NvmeIdentify.NamespaceId && !all)
        {
            return NvmeStatus.InvalidNamespace | NvmeStatus.DoNotRetry;
        }
        if (opcode == NvmeOpcode.Flush)
        {
            return _readOnly ? NvmeStatus.Success : null;
        }
        bool known = opcode is NvmeOpcode.Read or NvmeOpcode.Write || (opcode == NvmeOpcode.WriteZeroes && _identify.CanWriteZeroes)
            || (opcode == NvmeOpcode.DatasetManagement && _identify.CanDeallocate);
        if (!known)
        {
            return NvmeStatus.InvalidOpcode | NvmeStatus.DoNotRetry;
        }
        if (_readOnly && opcode == NvmeOpcode.Write)
        {
            return NvmeStatus.ReadOnlyRange | NvmeStatus.DoNotRetry;
        }
        ulong blocks = (ulong)Volatile.Read(ref _blocks);
        if (opcode == NvmeOpcode.DatasetManagement)
        {
            const uint Deallocate = 1 << 2;
            NvmeStatus taken = command.TakeRanges((int)(command.Dword(10) & 0xFF) + 1, blocks, _identify.BlockShift);
            return taken != NvmeStatus.Success ? taken : (command.Dword(11) & Deallocate) != 0 ? null : NvmeStatus.Success;     // the rest are hints
        }
        uint control = command.Dword(12);
        uint count = (control & 0xFFFF) + 1;
        ulong start = command.StartingBlock;
        if ((control & ProtectionInformation) != 0)
        {
            return NvmeStatus.InvalidField | NvmeStatus.DoNotRetry;
        }
        if (start > blocks || count > blocks - start)
        {
            return NvmeStatus.LbaOutOfRange | NvmeStatus.DoNotRetry;
        }
        bool durable = (control & ForceUnitAccess) != 0 || !WriteCache;
        long offset = (long)start << _identify.BlockShift;
        long length = (long)count << _identify.BlockShift;
        if (opcode == NvmeOpcode.WriteZeroes)
        {
            command.WriteZeroesLength = length;
            command.Prepare(offset, 0, durable);
            return null;
        }
        NvmeStatus status = length > NvmeRegisters.MaximumTransfer ? NvmeStatus.InvalidField | NvmeStatus.DoNotRetry : command.Map((uint)length);
        if (status != NvmeStatus.Success)
        {
            return status;
        }
        command.Prepare(offset, (uint)length, durable);
        return null;
    }

    /// <summary>What the disk's answer is for the host; counts and, for a read, tells that memory was written.</summary>
    private NvmeStatus Outcome(NvmeCommand command)
    {
        var opcode = (NvmeOpcode)command.Opcode;
        if (opcode == NvmeOpcode.Read)
        {
            command.Filled();
        }
        if (command.Error is not { } error)
        {
            _health.Count(opcode, command.Length);
            return NvmeStatus.Success;
        }
        _health.MediaErrors++;
        return error switch
        {
            DiskError.NoSpace => NvmeStatus.CapacityExceeded | NvmeStatus.DoNotRetry,
            DiskError.ReadOnly => NvmeStatus.ReadOnlyRange | NvmeStatus.DoNotRetry,
            DiskError.OutOfRange => NvmeStatus.LbaOutOfRange | NvmeStatus.DoNotRetry,
            DiskError.Unsupported => NvmeStatus.InvalidField | NvmeStatus.DoNotRetry,
            _ => opcode == NvmeOpcode.Read ? NvmeStatus.UnrecoveredReadError : NvmeStatus.WriteFault,
        };
    }

    /// <summary>Posts a command's completion into the place that was kept for it.</summary>
    private void Finish(NvmeCommand command, NvmeStatus status, uint result = 0)
    {
        NvmeSubmissionQueue queue = command.Queue;
        ushort identifier = command.Identifier;
        if (status != NvmeStatus.Success)
        {
            _health.Fail(queue.Id, identifier, (ushort)status, command.StartingBlock, command.Namespace);
        }
        command.End();
        _free.Push(command);
        queue.InFlight--;
        queue.Completion.Reserved--;
        Post(queue.Completion, queue, identifier, status, result);
        if (queue.Deletion is { } deletion && queue.InFlight == 0)
        {
            RemoveSubmission(queue);
            NvmeSubmissionQueue admin = _submissions[0]!;
            admin.InFlight--;
            admin.Completion.Reserved--;
            Post(admin.Completion, admin, deletion, NvmeStatus.Success, 0);
        }
    }

    private void Post(NvmeCompletionQueue queue, NvmeSubmissionQueue from, ushort identifier, NvmeStatus status, uint result)
    {
        ulong at = queue.NextEntry;
        _memory.TryWrite(at, (ulong)result);
        _memory.TryWrite(at + 8, (uint)from.Head | ((uint)from.Id << 16));
        _memory.TryWrite(at + 12, identifier | ((uint)status << 17) | (queue.Phase ? 1u << 16 : 0));     // the phase tag last: it makes the entry valid
        queue.Advance();
    }

    /// <summary>One interrupt for each queue with new entries; without MSI-X the level of the pin.</summary>
    private void SignalInterrupts()
    {
        bool pin = false;
        foreach (NvmeCompletionQueue? queue in _completions)
        {
            if (queue is null)
            {
                continue;
            }
            if (Msix!.Enabled)
            {
                if (queue.Posted && queue.Interrupts)
                {
                    Msix.Signal(queue.Vector);
                }
            }
            else if (queue.Interrupts)
            {
                uint head = Shadow((queue.Id * 2) + 1, queue.Id, Volatile.Read(ref _heads[queue.Id]), queue.Head);
                queue.Head = head < (uint)queue.Size ? (int)head : queue.Head;
                pin |= queue.Used != 0 && (Volatile.Read(ref _interruptMask) & 1) == 0;
            }
            queue.Posted = false;
        }
        if (pin != _pin)
        {
            _pin = pin;
            SetInterrupt(pin);
        }
    }
}
