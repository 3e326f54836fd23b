using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Memory;

namespace Lodge.Engine.Kvm.Memory;

/// <summary>
/// The guest's memory as KVM knows it: RAM from <see cref="GuestMemory.Slots"/>, and read-only ranges, whose pages the guest reads and executes at full speed
/// while its writes go to the bus.
/// </summary>
internal sealed unsafe class MemorySlots
{
    private readonly Lock _gate = new();
    private readonly KvmVirtualMachine _machine;
    private readonly List<KvmMemoryRegion?> _regions = [];

    /// <summary>Maps the guest's RAM.</summary>
    public MemorySlots(KvmVirtualMachine machine, GuestMemory memory)
    {
        _machine = machine;
        Memory = memory;
        foreach (MemorySlot slot in memory.Slots)
        {
            Add(slot.Address, memory.HostBase + slot.Offset, slot.Length, readOnly: false);
        }
    }

    /// <summary>The guest's RAM: its slots have the numbers of <see cref="GuestMemory.Slots"/>.</summary>
    public GuestMemory Memory { get; }

    /// <summary>Maps <paramref name="length"/> bytes of the host (both page-aligned) at a guest address where nothing is yet. Returns the slot's number.</summary>
    /// <exception cref="KvmException">The kernel refused; read-only slots need <see cref="KvmCapability.ReadOnlyMemory"/>.</exception>
    public int Add(ulong address, byte* host, ulong length, bool readOnly)
    {
        lock (_gate)
        {
            int number = _regions.IndexOf(null);
            if (number < 0)
            {
                number = _regions.Count;
                _regions.Add(null);
            }
            KvmMemoryRegion region = new()
            {
                Slot = (uint)number,
                Flags = readOnly ? KvmMemoryRegion.ReadOnly : 0,
                GuestAddress = address,
                Size = length,
                HostAddress = (ulong)host,
            };
            _machine.SetMemoryRegion(region);
            _regions[number] = region;
            return number;
        }
    }

    /// <summary>Unmaps a slot; the guest's accesses go to the bus from then on.</summary>
    public void Remove(int number)
    {
        lock (_gate)
        {
            if (_regions[number] is { } region)
            {
                _machine.SetMemoryRegion(region with { Size = 0, Flags = 0 });
                _regions[number] = null;
            }
        }
    }

    /// <summary>Has the kernel log writes to RAM, or no longer.</summary>
    public void LogWrites(bool enabled)
    {
        lock (_gate)
        {
            for (int i = 0; i < Memory.Slots.Length; i++)
            {
                KvmMemoryRegion region = _regions[i]!.Value;
                region.Flags = enabled ? region.Flags | KvmMemoryRegion.LogDirtyPages : region.Flags & ~KvmMemoryRegion.LogDirtyPages;
                _machine.SetMemoryRegion(region);
                _regions[i] = region;
            }
        }
    }
}
