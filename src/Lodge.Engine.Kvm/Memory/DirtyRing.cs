using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Memory;

namespace Lodge.Engine.Kvm.Memory;

/// <summary>
/// Dirty pages by KVM's rings, one for each processor (api.rst, 8.29): the work goes with the pages written, not with the size of RAM. What devices write
/// comes from <see cref="GuestMemory.AnyWritten"/>.
/// </summary>
internal sealed unsafe class DirtyRing : IDirtyTracking, IDisposable
{
    private const uint Entries = 8192;
    private readonly Lock _gate = new();
    private readonly KvmVirtualMachine _machine;
    private readonly MemorySlots _slots;
    private readonly PageBitmap _dirty;
    private readonly uint _entries;
    private readonly List<Ring> _rings = [];
    private bool _started;

    private DirtyRing(KvmVirtualMachine machine, MemorySlots slots, uint entries)
    {
        _machine = machine;
        _slots = slots;
        _entries = entries;
        _dirty = new PageBitmap(slots.Memory);
    }

    /// <inheritdoc/>
    public int WordCount => _dirty.WordCount;

    private nuint RingBytes => _entries * (nuint)sizeof(KvmDirtyGfn);

    /// <summary>Enables rings; before the first processor is made. Null when the kernel has none.</summary>
    public static DirtyRing? TryCreate(KvmVirtualMachine machine, MemorySlots slots)
    {
        foreach (KvmCapability capability in (ReadOnlySpan<KvmCapability>)[KvmCapability.DirtyLogRingAcquireRelease, KvmCapability.DirtyLogRing])
        {
            uint entries = Math.Min(Entries, (uint)machine.Check(capability) / (uint)sizeof(KvmDirtyGfn));
            if (entries != 0 && machine.TryEnable(capability, entries * (ulong)sizeof(KvmDirtyGfn)))
            {
                return new DirtyRing(machine, slots, entries);
            }
        }
        return null;
    }

    /// <summary>Maps a new processor's ring.</summary>
    public void Add(KvmProcessorHandle processor) => _rings.Add(new Ring { Start = processor.MapDirtyRing(RingBytes) });

    /// <inheritdoc/>
    public void Start()
    {
        lock (_gate)
        {
            if (!_started)
            {
                _slots.Memory.AnyWritten += _dirty.Set;
                _slots.LogWrites(true);
                _started = true;
            }
        }
    }

    /// <inheritdoc/>
    public void Collect(Span<ulong> bitmap)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(bitmap.Length, WordCount);
        Harvest();
        _dirty.Take(bitmap);
    }

    /// <inheritdoc/>
    public void Stop()
    {
        lock (_gate)
        {
            if (_started)
            {
                _started = false;
                _slots.Memory.AnyWritten -= _dirty.Set;
                _slots.LogWrites(false);
                Harvest();
                _dirty.Clear();
            }
        }
    }

    /// <summary>Empties the rings, so that a processor whose ring was full can go on. Any thread.</summary>
    public void Harvest()
    {
        lock (_gate)
        {
            ReadOnlySpan<MemorySlot> slots = _slots.Memory.Slots;
            int taken = 0;
            foreach (Ring ring in _rings)
            {
                // At most a round: the guest goes on writing meanwhile.
                for (uint i = 0; i < _entries; i++)
                {
                    KvmDirtyGfn* entry = ring.Start + (ring.Next % _entries);
                    if ((Volatile.Read(ref entry->Flags) & (KvmDirtyGfn.Dirty | KvmDirtyGfn.Reset)) != KvmDirtyGfn.Dirty)
                    {
                        break;
                    }
                    uint slot = entry->Slot;
                    if (slot < slots.Length && entry->Offset < slots[(int)slot].Length / GuestMemory.PageSize)
                    {
                        _dirty.Set((slots[(int)slot].Offset / GuestMemory.PageSize) + entry->Offset);
                    }
                    Volatile.Write(ref entry->Flags, KvmDirtyGfn.Reset);
                    ring.Next++;
                    taken++;
                }
            }
            if (taken != 0)
            {
                _machine.ResetDirtyRings();
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Stop();
        foreach (Ring ring in _rings)
        {
            KvmProcessorHandle.UnmapDirtyRing(ring.Start, RingBytes);
        }
        _rings.Clear();
    }

    private sealed class Ring
    {
        public KvmDirtyGfn* Start;
        public uint Next;
    }
}
