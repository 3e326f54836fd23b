using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Memory;

namespace Lodge.Engine.Kvm.Memory;

/// <summary>Dirty pages by KVM's bitmaps, one for each slot (api.rst, 4.8 and 4.117). What devices write comes from <see cref="GuestMemory.AnyWritten"/>.</summary>
internal sealed class DirtyLog : IDirtyTracking
{
    // With manual protection pages are write-protected again in portions of a GiB, so that processors are not held up for long.
    private const uint PortionPages = 1 << 18;
    private const ulong ManualProtection = 1;
    private readonly Lock _gate = new();
    private readonly KvmVirtualMachine _machine;
    private readonly MemorySlots _slots;
    private readonly PageBitmap _devices;
    private readonly bool _manual;
    private bool _started;

    /// <summary>Prepares the log. Before the first processor is made.</summary>
    public DirtyLog(KvmVirtualMachine machine, MemorySlots slots)
    {
        _machine = machine;
        _slots = slots;
        _devices = new PageBitmap(slots.Memory);
        _manual = (machine.Check(KvmCapability.ManualDirtyLogProtect2) & (int)ManualProtection) != 0
            && machine.TryEnable(KvmCapability.ManualDirtyLogProtect2, ManualProtection);
    }

    /// <inheritdoc/>
    public int WordCount => _devices.WordCount;

    /// <inheritdoc/>
    public void Start()
    {
        lock (_gate)
        {
            if (!_started)
            {
                _slots.Memory.AnyWritten += _devices.Set;
                _slots.LogWrites(true);
                _started = true;
            }
        }
    }

    /// <inheritdoc/>
    public void Collect(Span<ulong> bitmap)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(bitmap.Length, WordCount);
        lock (_gate)
        {
            if (!_started)
            {
                return;
            }
            _devices.Take(bitmap);
            for (int number = 0; number < _slots.Memory.Slots.Length; number++)
            {
                MemorySlot slot = _slots.Memory.Slots[number];
                uint pages = (uint)(slot.Length / GuestMemory.PageSize);
                ulong[] dirty = new ulong[(pages + 63) / 64];
                _machine.GetDirtyLog((uint)number, dirty);
                Span<ulong> destination = bitmap[(int)(slot.Offset / GuestMemory.PageSize / 64)..];
                for (int i = 0; i < dirty.Length; i++)
                {
                    destination[i] |= dirty[i];
                }
                for (uint first = 0; _manual && first < pages; first += PortionPages)
                {
                    Span<ulong> portion = dirty.AsSpan((int)(first / 64));
                    uint count = Math.Min(PortionPages, pages - first);
                    if (portion[..(int)((count + 63) / 64)].ContainsAnyExcept(0UL))
                    {
                        _machine.ClearDirtyLog((uint)number, first, count, portion);
                    }
                }
            }
        }
    }

    /// <inheritdoc/>
    public void Stop()
    {
        lock (_gate)
        {
            if (_started)
            {
                _started = false;
                _slots.Memory.AnyWritten -= _devices.Set;
                _slots.LogWrites(false);
                _devices.Clear();
            }
        }
    }
}
