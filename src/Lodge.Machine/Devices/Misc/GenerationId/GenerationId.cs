using Lodge.Engine.Memory;
using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Misc.GenerationId;

/// <summary>
/// Virtual machine generation identifier (Microsoft, "Virtual Machine Generation ID", 2012): 128 bits in reserved guest memory that change whenever the
/// machine's past is used again (a clone, a snapshot that is gone back to), and a general-purpose event that tells of the change. Guests take it as the
/// sign to draw new random seeds and keys. ACPI tells the address (<see cref="MemoryMap.GenerationId"/>); there are no registers.
/// </summary>
public sealed class GenerationId : IDevice
{
    private readonly Lock _gate = new();
    private readonly GuestMemory _memory;
    private readonly Action _changed;
    private readonly Guid _first;
    private Guid _value;

    /// <summary>Creates the device.</summary>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="value">Identifier at power-on.</param>
    /// <param name="changed">Raises the event. Any thread.</param>
    public GenerationId(GuestMemory memory, Guid value, Action changed)
    {
        _memory = memory;
        _changed = changed;
        _first = _value = value;
    }

    /// <inheritdoc/>
    public string Name => "vmgenid";

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims => [];

    /// <inheritdoc/>
    public bool IsAbsentInOldStates => true;

    /// <summary>The identifier.</summary>
    public Guid Value
    {
        get
        {
            lock (_gate)
            {
                return _value;
            }
        }
    }

    /// <summary>Changes the identifier and tells the guest, which hears of it as soon as it runs. Any thread.</summary>
    public void Change(Guid value)
    {
        lock (_gate)
        {
            _value = value;
            WriteMemory();
        }
        _changed();
    }

    /// <summary>Puts the identifier into guest memory: at power-on.</summary>
    public void WriteMemory()
    {
        Span<byte> bytes = stackalloc byte[GenerationIdState.Length];
        lock (_gate)
        {
            _value.TryWriteBytes(bytes);
            _memory.TryWrite(MemoryMap.GenerationId, bytes);
        }
    }

    /// <inheritdoc/>
    public void Start()
    {
    }

    /// <inheritdoc/>
    public void Stop()
    {
    }

    /// <summary>Nothing: a machine that boots again is still of the same generation.</summary>
    public void Reset()
    {
    }

    /// <inheritdoc/>
    public void Save(StateWriter writer) => writer.Nested(1, new GenerationIdState(Value.ToByteArray()));

    /// <summary>Takes a saved identifier. Guest memory is restored apart and holds it already.</summary>
    public void Restore(StateReader reader)
    {
        var value = new Guid(reader.Nested(1, new GenerationIdState(_first.ToByteArray())).Value);
        lock (_gate)
        {
            _value = value;
        }
    }
}
