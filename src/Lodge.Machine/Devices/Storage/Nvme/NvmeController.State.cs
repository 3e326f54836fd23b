using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Storage.Nvme;

/// <content>Saved state.</content>
public sealed partial class NvmeController
{
    /// <inheritdoc/>
    public override void Save(StateWriter writer)
    {
        base.Save(writer);
        lock (_gate)
        {
            writer.Nested(StateField + 1, new NvmeState
            {
                Configuration = _configuration,
                Status = _status,
                AdminQueueAttributes = _attributes,
                AdminSubmissionQueue = _submissionBase,
                AdminCompletionQueue = _completionBase,
                InterruptMask = _interruptMask,
                ShadowDoorbells = _shadowDoorbells,
                ShadowEvents = _shadowEvents,
                Features = [.. _features.Select(value => (ulong)value)],
                EventRequests = [.. _eventRequests.Select(value => (ulong)value)],
                Events = (uint)(_events | (_masked << 8)) | (_ioQueuesCreated ? 1u << 16 : 0) | (_namespaceChanged ? 1u << 17 : 0),
                Counters = [_health.SectorsRead, _health.SectorsWritten, _health.Reads, _health.Writes, _health.MediaErrors, _health.Errors],
                Completions = [.. _completions.OfType<NvmeCompletionQueue>().Select(queue => new NvmeQueueState(
                    queue.Id, queue.Address, queue.Size, queue.Head, queue.Tail, queue.Phase, queue.Vector, queue.Interrupts, _heads[queue.Id]))],
                Submissions = [.. _submissions.OfType<NvmeSubmissionQueue>().Select(queue => new NvmeQueueState(
                    queue.Id, queue.Address, queue.Size, queue.Head, 0, false, queue.Completion.Id, false, _tails[queue.Id]))],
            });
        }
    }

    /// <inheritdoc/>
    public override void Restore(StateReader reader)
    {
        NvmeState state = reader.Nested(StateField + 1, new NvmeState());
        ResetController();
        try
        {
            Take(state);
        }
        catch (SavedStateException)
        {
            ResetController();
            throw;
        }
        base.Restore(reader);
        SignalInterrupts();
    }

    private void Take(NvmeState state)
    {
        foreach (NvmeQueueState queue in state.Completions)
        {
            Require(queue, NvmeRegisters.CompletionEntry, queue.Vector < Msix!.Vectors && _completions[Math.Min(queue.Id, _queues - 1)] is null);
            _completions[queue.Id] = new NvmeCompletionQueue(queue.Id, queue.Address, queue.Size, queue.Vector, queue.Interrupts)
            {
                Head = queue.Head,
                Tail = queue.Tail,
                Phase = queue.Phase,
            };
            _heads[queue.Id] = queue.Doorbell;
        }
        foreach (NvmeQueueState queue in state.Submissions)
        {
            NvmeCompletionQueue? completion = queue.Vector < _queues ? _completions[queue.Vector] : null;
            Require(queue, NvmeRegisters.SubmissionEntry, completion is not null && queue.Id == 0 == (queue.Vector == 0) && _submissions[Math.Min(queue.Id, _queues - 1)] is null);
            completion!.Users++;
            _submissions[queue.Id] = new NvmeSubmissionQueue(queue.Id, queue.Address, queue.Size, completion) { Head = queue.Head };
            _tails[queue.Id] = queue.Doorbell;
        }
        bool ready = (state.Status & NvmeRegisters.Ready) != 0;
        if (ready != (_submissions[0] is not null)
            || (!ready && (state.Completions.Count | state.Submissions.Count) != 0)
            || (state.ShadowDoorbells != 0 && (!QueueInMemory(state.ShadowDoorbells, 1, 4096) || !QueueInMemory(state.ShadowEvents, 1, 4096))))
        {
            throw new SavedStateException("saved state of the NVMe controller contradicts itself");
        }
        for (int i = 0; i < _features.Length; i++)
        {
            _features[i] = (uint)state.Features.ElementAtOrDefault(i);
        }
        foreach (ulong request in state.EventRequests)
        {
            _eventRequests.Enqueue((ushort)request);
        }
        (_shadowDoorbells, _shadowEvents) = (state.ShadowDoorbells, state.ShadowEvents);
        _events = (int)(state.Events & 3);
        _masked = (int)((state.Events >> 8) & 3);
        _ioQueuesCreated = (state.Events & (1 << 16)) != 0;
        _namespaceChanged = (state.Events & (1 << 17)) != 0;
        _enabled = ready;
        ulong Counter(int index) => state.Counters.ElementAtOrDefault(index);
        _health = new NvmeHealth
        {
            SectorsRead = Counter(0),
            SectorsWritten = Counter(1),
            Reads = Counter(2),
            Writes = Counter(3),
            MediaErrors = Counter(4),
            Errors = Counter(5),
        };
        lock (_gate)
        {
            (_configuration, _status, _attributes) = (state.Configuration, state.Status, state.AdminQueueAttributes & 0x0FFF_0FFF);
            (_submissionBase, _completionBase, _interruptMask) = (state.AdminSubmissionQueue & ~0xFFFul, state.AdminCompletionQueue & ~0xFFFul, state.InterruptMask);
            // A shutdown whose flush had not begun is begun again; a controller that was being reset had nothing in flight and was reset before the save,
            // so that one which is ready without being enabled is no state of ours: it is reset, or its host would wait for ever.
            _resetWanted = ready && (state.Configuration & NvmeRegisters.Enable) == 0;
        }
    }

    private void Require(NvmeQueueState queue, int entry, bool sound)
    {
        if (!sound || queue.Id >= _queues || !_memory.TryGetOffset(queue.Address, (ulong)queue.Size * (ulong)entry, out _))
        {
            throw new SavedStateException($"saved state of NVMe queue {queue.Id} is not possible here");
        }
    }
}
