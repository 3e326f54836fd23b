namespace Lodge.Machine.Virtio;

/// <content>Chains that belong together: a frame that is spread over several of them.</content>
public sealed partial class VirtQueue
{
    /// <summary>
    /// Returns chains to the driver such that it sees all or none of them (virtio 1.2, 5.1.6.4: a frame in mergeable buffers).
    /// As <see cref="Complete"/> otherwise.
    /// </summary>
    public void CompleteTogether(ReadOnlySpan<DescriptorChain> chains)
    {
        ushort next = _nextUsed;
        foreach (DescriptorChain chain in chains)
        {
            if (!chain.InFlight)
            {
                continue;
            }
            Forget(chain);
            ulong entry = DeviceArea + SplitRing.Entries + ((ulong)(next & (Size - 1)) * SplitRing.UsedEntrySize);
            _memory.TryWrite(entry, chain.Head | ((ulong)chain.Written << 32));
            next++;
            _free.Push(chain);
        }
        if (next == _nextUsed)
        {
            return;
        }
        _nextUsed = next;
        _memory.TryWrite(DeviceArea + SplitRing.Index, _nextUsed);
        _completed = true;
    }

    /// <summary>Puts the chain that was popped last back, unused: it is popped again later. Several are put back from the last to the first.</summary>
    public void PutBack(DescriptorChain chain)
    {
        if (!chain.InFlight)
        {
            return;
        }
        Forget(chain);
        _nextAvailable--;
        _free.Push(chain);
    }

    /// <summary>
    /// Asks for a notification when there are more chains than those available now, which are too few. True when some arrived meanwhile, of which the driver may
    /// not tell: the caller looks again.
    /// </summary>
    public bool AwaitMore()
    {
        if (!_enabled || Latched || !TryReadAvailableIndex(out ushort seen))
        {
            return false;
        }
        if (_eventIndex)
        {
            _memory.TryWrite(DeviceArea + SplitRing.Entries + ((ulong)Size * SplitRing.UsedEntrySize), seen);
        }
        else
        {
            _memory.TryWrite<ushort>(DeviceArea, 0);
        }
        Interlocked.MemoryBarrier();
        return TryReadAvailableIndex(out ushort now) && now != seen;
    }
}
