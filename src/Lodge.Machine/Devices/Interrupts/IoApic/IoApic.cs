using System.Buffers.Binary;
using Lodge.Engine;
using Lodge.Engine.State;
using Lodge.Machine.Interrupts;
using static Lodge.Machine.Devices.Interrupts.IoApic.IoApicRegisters;

namespace Lodge.Machine.Devices.Interrupts.IoApic;

/// <summary>
/// The I/O APIC (82093AA with the EOI register of its successors): 24 inputs, delivered as messages to the local APICs.
/// <para>
/// Its lock is held for register work only; messages are sent after it was released, so that a local APIC may report an end of
/// interrupt while another message is on its way to it.
/// </para>
/// </summary>
public sealed class IoApic : IDevice, IInterruptController, IEndOfInterruptListener, IIoHandler
{
    private readonly Lock _gate = new();
    private readonly IMessageInterruptTarget _target;
    private IoApicState _state = new();

    /// <summary>Creates the controller.</summary>
    /// <param name="target">The local APICs.</param>
    /// <param name="name">Name of the device.</param>
    public IoApic(IMessageInterruptTarget target, string name = "ioapic")
    {
        _target = target;
        Name = name;
        Claims = [new RegionClaim(name, RegionSpace.Memory, MemoryMap.IoApicBase, MemoryMap.IoApicLength, this)];
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    /// <inheritdoc/>
    public void SetInput(int input, bool asserted)
    {
        if ((uint)input >= IoApicState.Entries)
        {
            return;
        }
        Message? message = null;
        lock (_gate)
        {
            uint bit = 1U << input;
            bool before = (_state.Inputs & bit) != 0;
            if (before == asserted)
            {
                return;
            }
            _state.Inputs = asserted ? _state.Inputs | bit : _state.Inputs & ~bit;
            if (asserted)
            {
                // An edge on a masked input is not held pending (82093AA, 3.2.4, interrupt mask).
                message = IsLevel(_state.Redirection[input]) ? DeliverLevel(input) : DeliverEdge(input);
            }
        }
        Send(message);
    }

    /// <inheritdoc/>
    public void EndOfInterrupt(byte vector)
    {
        Span<Message> messages = stackalloc Message[IoApicState.Entries];
        int count = 0;
        lock (_gate)
        {
            for (int i = 0; i < IoApicState.Entries; i++)
            {
                ulong entry = _state.Redirection[i];
                if ((entry & RemoteIrr) != 0 && (byte)entry == vector)
                {
                    _state.Redirection[i] = entry & ~RemoteIrr;
                    if (DeliverLevel(i) is { } message)
                    {
                        messages[count++] = message;
                    }
                }
            }
        }
        foreach (Message message in messages[..count])
        {
            Send(message);
        }
    }

    /// <inheritdoc/>
    public IoResult Read(ulong offset, Span<byte> data)
    {
        uint value;
        lock (_gate)
        {
            switch (offset & ~3UL)
            {
                case IoRegSel:
                    value = _state.Select;
                    break;
                case IoWin:
                    value = ReadRegister(_state.Select);
                    break;
                default:
                    value = 0; // reserved; EOIR is write-only
                    break;
            }
        }
        int shift = (int)(offset & 3) * 8;
        ulong wide = (ulong)value >> shift;
        for (int i = 0; i < data.Length; i++)
        {
            data[i] = i < 8 ? (byte)(wide >> (i * 8)) : (byte)0;
        }
        return IoResult.Done;
    }

    /// <inheritdoc/>
    public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
    {
        if ((offset & 3) != 0)
        {
            return IoResult.Invalid;
        }
        switch (offset)
        {
            case IoRegSel: // 8 bits are implemented, any width reaches them
                lock (_gate)
                {
                    _state.Select = data[0];
                }
                return IoResult.Done;
            case IoWin when data.Length >= 4: // "must be accessed as 32-bit quantities" (82093AA, 3.0)
                Message? message;
                lock (_gate)
                {
                    message = WriteRegister(_state.Select, BinaryPrimitives.ReadUInt32LittleEndian(data));
                }
                Send(message);
                return IoResult.Done;
            case Eoi:
                EndOfInterrupt(data[0]);
                return IoResult.Done;
            default:
                return IoResult.Invalid;
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

    /// <inheritdoc/>
    public void Reset()
    {
        lock (_gate)
        {
            _state = new IoApicState { Inputs = _state.Inputs }; // levels are the devices'
        }
    }

    /// <inheritdoc/>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            writer.Nested(1, _state);
        }
    }

    /// <inheritdoc/>
    public void Restore(StateReader reader)
    {
        IoApicState state = reader.Nested(1, new IoApicState());
        lock (_gate)
        {
            _state = state;
        }
    }

    private uint ReadRegister(byte select)
    {
        switch (select)
        {
            case Id:
            case Arbitration: // loaded from the ID; there is no APIC bus to arbitrate
                return _state.Id;
            case VersionIndex:
                return VersionNumber | ((IoApicState.Entries - 1) << MaximumEntryShift);
            default:
                int index = select - RedirectionTable;
                return index is >= 0 and < IoApicState.Entries * 2
                    ? (uint)(_state.Redirection[index >> 1] >> ((index & 1) * 32))
                    : 0;
        }
    }

    private Message? WriteRegister(byte select, uint value)
    {
        if (select == Id)
        {
            _state.Id = value & IdMask;
            return null;
        }
        int index = select - RedirectionTable;
        if (index is < 0 or >= IoApicState.Entries * 2)
        {
            return null;
        }
        int input = index >> 1;
        ulong entry = _state.Redirection[input];
        ulong written = (index & 1) == 0
            ? (entry & 0xFFFF_FFFF_0000_0000) | value
            : (entry & 0xFFFF_FFFF) | ((ulong)value << 32);
        written = (written & Writable) | (entry & RemoteIrr);
        if ((written & Level) == 0)
        {
            written &= ~RemoteIrr; // drivers clear a stuck remote IRR by way of edge mode
        }
        _state.Redirection[input] = written;
        return DeliverLevel(input);
    }

    /// <summary>Only fixed and lowest-priority interrupts have a level; the other modes are edges whatever the entry says (82093AA, 3.2.4, DELMOD).</summary>
    private static bool IsLevel(ulong entry) =>
        (entry & Level) != 0 && (uint)((entry & DeliveryMode) >> DeliveryModeShift) is Fixed or LowestPriority;

    /// <summary>Delivers an input whose level is high, unless masked or not yet ended. Under the lock.</summary>
    private Message? DeliverLevel(int input)
    {
        ulong entry = _state.Redirection[input];
        if (!IsLevel(entry) || (entry & (Masked | RemoteIrr)) != 0 || (_state.Inputs & (1U << input)) == 0)
        {
            return null;
        }
        _state.Redirection[input] = entry | RemoteIrr;
        return Compose(entry, MessageLevel);
    }

    private Message? DeliverEdge(int input)
    {
        ulong entry = _state.Redirection[input];
        return (entry & Masked) == 0 ? Compose(entry, 0) : null;
    }

    private static Message Compose(ulong entry, uint trigger)
    {
        uint mode = (uint)((entry & DeliveryMode) >> DeliveryModeShift);
        ulong address = MessageAddress | ((entry >> DestinationShift) << MessageDestinationShift);
        if (mode == LowestPriority)
        {
            address |= MessageRedirectionHint;
        }
        if ((entry & LogicalDestination) != 0)
        {
            address |= MessageLogicalDestination;
        }
        return new Message(address, (uint)(entry & (Vector | DeliveryMode)) | MessageAssert | trigger);
    }

    private void Send(Message? message)
    {
        if (message is { } m)
        {
            _target.SignalMessage(m.Address, m.Data);
        }
    }

    private readonly record struct Message(ulong Address, uint Data);
}
