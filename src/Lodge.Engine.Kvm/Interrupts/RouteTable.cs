using Lodge.Engine.Kvm.Interop;

namespace Lodge.Engine.Kvm.Interrupts;

/// <summary>
/// The kernel's interrupt routing table. The first places hold level-triggered messages that were once sent: with a split irqchip the kernel reports ends of
/// interrupt only for vectors that it finds there. The places after them belong to eventfds.
/// </summary>
internal sealed class RouteTable : IInterruptEvents
{
    private const uint LevelTrigger = 1 << 15, LevelAssert = 1 << 14;
    private readonly Lock _gate = new();
    private readonly KvmVirtualMachine _machine;
    private readonly KvmMessageRoute[] _learned;
    private readonly long[] _lastUse;
    private readonly Dictionary<(ulong Address, uint Data), int> _places = [];
    private readonly List<Binding?> _bindings = [];
    private readonly int _capacity;
    private long _uses;

    /// <summary>Creates an empty table.</summary>
    /// <param name="machine">The virtual machine, whose split irqchip has <paramref name="learnedPlaces"/> pins.</param>
    /// <param name="learnedPlaces">Places for learned messages.</param>
    public RouteTable(KvmVirtualMachine machine, int learnedPlaces)
    {
        _machine = machine;
        _learned = new KvmMessageRoute[learnedPlaces];
        _lastUse = new long[learnedPlaces];
        _capacity = Math.Max(learnedPlaces, machine.Check(KvmCapability.IrqRouting));
    }

    /// <summary>Makes sure that the end of a level-triggered message is reported, before it is sent.</summary>
    public void Learn(ulong address, uint data)
    {
        lock (_gate)
        {
            if (!_places.TryGetValue((address, data), out int place))
            {
                place = Array.IndexOf(_lastUse, 0);
                if (place < 0)
                {
                    // The one that was sent longest ago: one in service is hardly ever that.
                    place = Array.IndexOf(_lastUse, _lastUse.Min());
                    ref KvmMessageRoute old = ref _learned[place];
                    _places.Remove((old.AddressLow | ((ulong)old.AddressHigh << 32), old.Data));
                }
                _learned[place] = Route((uint)place, address, data);
                _places[(address, data)] = place;
                Commit();
            }
            _lastUse[place] = ++_uses;
        }
    }

    /// <summary>Learns the level-triggered vectors that a processor's local APIC, just restored, has pending or in service.</summary>
    /// <param name="processor">The processor's number.</param>
    /// <param name="registers">Its local APIC's registers.</param>
    public void LearnPending(int processor, ReadOnlySpan<byte> registers)
    {
        const int InService = 0x100, TriggerMode = 0x180, Request = 0x200, Stride = 0x10;
        if (registers.Length < Request + (8 * Stride))
        {
            return;
        }
        for (int word = 0; word < 8; word++)
        {
            int at = word * Stride;
            uint pending = BitConverter.ToUInt32(registers[(TriggerMode + at)..])
                & (BitConverter.ToUInt32(registers[(InService + at)..]) | BitConverter.ToUInt32(registers[(Request + at)..]));
            for (; pending != 0; pending &= pending - 1)
            {
                uint vector = (uint)((word * 32) + System.Numerics.BitOperations.TrailingZeroCount(pending));
                Learn(0xFEE0_0000 | ((ulong)(uint)processor << 12), vector | LevelAssert | LevelTrigger);
            }
        }
    }

    /// <inheritdoc/>
    public IInterruptEvent? TryAttach(int eventDescriptor, ulong address, uint data)
    {
        lock (_gate)
        {
            int place = _bindings.IndexOf(null);
            if (place < 0)
            {
                if (_learned.Length + _bindings.Count >= _capacity)
                {
                    return null;
                }
                place = _bindings.Count;
                _bindings.Add(null);
            }
            uint gsi = (uint)(_learned.Length + place);
            var binding = new Binding(this, eventDescriptor, gsi, Route(gsi, address, data));
            _bindings[place] = binding;
            try
            {
                Commit();
                _machine.SetIrqfd(eventDescriptor, gsi, assign: true);
            }
            catch (KvmException)
            {
                _bindings[place] = null;
                Commit();
                return null;
            }
            return binding;
        }
    }

    private static KvmMessageRoute Route(uint gsi, ulong address, uint data) => new()
    {
        Gsi = gsi,
        Type = KvmMessageRoute.Msi,
        AddressLow = (uint)address,
        AddressHigh = (uint)(address >> 32),
        Data = data,
    };

    private void Commit()
    {
        var routes = new List<KvmMessageRoute>(_places.Count + _bindings.Count);
        foreach (int place in _places.Values)
        {
            routes.Add(_learned[place]);
        }
        foreach (Binding? binding in _bindings)
        {
            if (binding is not null)
            {
                routes.Add(binding.Current);
            }
        }
        _machine.SetRoutes(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(routes));
    }

    /// <summary>A place of the table that an eventfd raises.</summary>
    private sealed class Binding(RouteTable table, int eventDescriptor, uint gsi, KvmMessageRoute route) : IInterruptEvent
    {
        private bool _disposed;

        /// <summary>The route; under the table's lock.</summary>
        internal KvmMessageRoute Current = route;

        public void Route(ulong address, uint data)
        {
            lock (table._gate)
            {
                if (!_disposed)
                {
                    Current = RouteTable.Route(gsi, address, data);
                    table.Commit();
                }
            }
        }

        public void Dispose()
        {
            lock (table._gate)
            {
                if (_disposed)
                {
                    return;
                }
                _disposed = true;
                try
                {
                    table._machine.SetIrqfd(eventDescriptor, gsi, assign: false);
                    table._bindings[(int)gsi - table._learned.Length] = null;
                    table.Commit();
                }
                catch (KvmException)
                {
                    // The virtual machine is gone, and the binding with it.
                }
            }
        }
    }
}
