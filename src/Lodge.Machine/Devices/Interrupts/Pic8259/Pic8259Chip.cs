using static Lodge.Machine.Devices.Interrupts.Pic8259.Pic8259Registers;

namespace Lodge.Machine.Devices.Interrupts.Pic8259;

/// <summary>
/// One 8259A in 8086 mode. Not thread-safe: the pair's lock covers it.
/// <para>
/// A rising edge stays requested until acknowledged, even when the input falls before; the chip would then report a spurious interrupt, which
/// no driver wants, and devices here may pulse their lines in no time at all.
/// </para>
/// </summary>
/// <param name="cascadeInputs">Inputs to which a slave is wired: their request follows the slave's INT.</param>
/// <param name="elcrMask">Inputs that ELCR can make level-triggered.</param>
internal sealed class Pic8259Chip(byte cascadeInputs, byte elcrMask)
{
    private Pic8259ChipState _state = new();

    /// <summary>Inputs that request service (IRR).</summary>
    public byte Requests => (byte)((_state.EdgeLatch & ~FollowingInputs) | (_state.Inputs & FollowingInputs));

    /// <summary>Vector of input 0.</summary>
    public byte VectorBase => _state.VectorBase;

    private byte FollowingInputs => (byte)(_state.Elcr | cascadeInputs);

    /// <summary>The registers, copied.</summary>
    public Pic8259ChipState Save() => _state with { };

    /// <summary>Replaces the registers.</summary>
    public void Restore(Pic8259ChipState state) => _state = state with { Elcr = (byte)(state.Elcr & elcrMask) };

    /// <summary>Power-on state; the levels of the inputs are not the chip's and stay.</summary>
    public void Reset() => _state = new Pic8259ChipState { Inputs = _state.Inputs };

    /// <summary>Drives an input.</summary>
    public void SetInput(int input, bool asserted)
    {
        byte bit = (byte)(1 << input);
        if (!asserted)
        {
            _state.Inputs &= (byte)~bit;
        }
        else if ((_state.Inputs & bit) == 0)
        {
            _state.Inputs |= bit;
            _state.EdgeLatch |= bit;
        }
    }

    /// <summary>
    /// The input that would be acknowledged now, or -1 when the INT output is low: the highest unmasked request that no service of the same
    /// or a higher priority keeps back.
    /// </summary>
    public int Granted
    {
        get
        {
            int requests = Requests & ~_state.Mask;
            if (requests == 0)
            {
                return -1;
            }
            // In special mask mode, a service whose input is masked keeps nothing back (data sheet, "Special Mask Mode").
            int services = _state.SpecialMask ? _state.InService & ~_state.Mask : _state.InService;
            for (int i = 1; i <= 8; i++)
            {
                int input = (_state.LowestPriority + i) & 7;
                int bit = 1 << input;
                bool inService = (services & bit) != 0;
                // In special fully nested mode, a slave in service may still interrupt with a higher request of its own.
                if (inService && !(_state.SpecialFullyNested && (cascadeInputs & bit) != 0))
                {
                    return -1;
                }
                if ((requests & bit) != 0)
                {
                    return input;
                }
                if (inService)
                {
                    return -1;
                }
            }
            return -1;
        }
    }

    /// <summary>INTA: takes the granted request into service.</summary>
    /// <returns>The input, or -1 when there was none (spurious).</returns>
    public int Acknowledge()
    {
        int input = Granted;
        if (input >= 0)
        {
            byte bit = (byte)(1 << input);
            _state.EdgeLatch &= (byte)~bit;
            if (!_state.AutomaticEoi)
            {
                _state.InService |= bit;
            }
            else if (_state.RotateInAutomaticEoi)
            {
                _state.LowestPriority = (byte)input;
            }
        }
        return input;
    }

    /// <summary>Load at A0 = 0 (IRR, ISR or poll byte) or A0 = 1 (IMR or poll byte).</summary>
    public byte Read(int a0)
    {
        if (_state.Poll)
        {
            // The read after a poll command is the INTA cycle, at either address (data sheet, "Poll Command").
            _state.Poll = false;
            int input = Acknowledge();
            return input >= 0 ? (byte)(PollInterrupt | input) : (byte)0;
        }
        return a0 != 0 ? _state.Mask : _state.ReadInService ? _state.InService : Requests;
    }

    /// <summary>Store at A0 = 0 (ICW1, OCW2, OCW3) or A0 = 1 (ICW2 to ICW4, OCW1).</summary>
    public void Write(int a0, byte value)
    {
        if (a0 != 0)
        {
            WriteDataPort(value);
        }
        else if ((value & Icw1) != 0)
        {
            WriteIcw1(value);
        }
        else if ((value & Ocw3) != 0)
        {
            WriteOcw3(value);
        }
        else
        {
            WriteOcw2(value);
        }
    }

    /// <summary>The edge/level control register of this chip.</summary>
    public byte Elcr
    {
        get => _state.Elcr;
        set => _state.Elcr = (byte)(value & elcrMask);
    }

    private void WriteIcw1(byte value)
    {
        // LTIM (bit 3) does nothing: ELCR has replaced it (82371SB data sheet, ICW1). Neither do the MCS-80 bits.
        _state.EdgeLatch = 0; // an input must rise again to request
        _state.Mask = 0;
        _state.InService = 0;
        _state.LowestPriority = 7;
        _state.SpecialMask = false;
        _state.ReadInService = false;
        _state.Poll = false;
        _state.AutomaticEoi = false;
        _state.RotateInAutomaticEoi = false;
        _state.SpecialFullyNested = false;
        _state.Icw4Needed = (value & Icw1Ic4) != 0;
        _state.Single = (value & Icw1Single) != 0;
        _state.Next = Pic8259Expectation.Icw2;
    }

    private void WriteDataPort(byte value)
    {
        switch (_state.Next)
        {
            case Pic8259Expectation.Icw2:
                _state.VectorBase = (byte)(value & Icw2Vector);
                _state.Next = !_state.Single ? Pic8259Expectation.Icw3 : AfterIcw3;
                break;
            case Pic8259Expectation.Icw3:
                _state.Next = AfterIcw3; // the wiring is fixed: a slave on the master's input 2
                break;
            case Pic8259Expectation.Icw4:
                _state.AutomaticEoi = (value & Icw4AutomaticEoi) != 0;
                _state.SpecialFullyNested = (value & Icw4SpecialFullyNested) != 0;
                _state.Next = Pic8259Expectation.Ocw;
                break;
            default:
                _state.Mask = value;
                break;
        }
    }

    private Pic8259Expectation AfterIcw3 => _state.Icw4Needed ? Pic8259Expectation.Icw4 : Pic8259Expectation.Ocw;

    private void WriteOcw2(byte value)
    {
        byte level = (byte)(value & Ocw2Level);
        switch (value & Ocw2Command)
        {
            case Ocw2RotateInAeoiClear:
                _state.RotateInAutomaticEoi = false;
                break;
            case Ocw2RotateInAeoiSet:
                _state.RotateInAutomaticEoi = true;
                break;
            case Ocw2NonSpecificEoi:
                NonSpecificEoi(rotate: false);
                break;
            case Ocw2RotateOnNonSpecificEoi:
                NonSpecificEoi(rotate: true);
                break;
            case Ocw2SpecificEoi:
                _state.InService &= (byte)~(1 << level);
                break;
            case Ocw2RotateOnSpecificEoi:
                _state.InService &= (byte)~(1 << level);
                _state.LowestPriority = level;
                break;
            case Ocw2SetPriority:
                _state.LowestPriority = level;
                break;
            default:
                break; // 010: no operation
        }
    }

    private void NonSpecificEoi(bool rotate)
    {
        // "An IS bit that is masked by an IMR bit will not be cleared by a non-specific EOI in the special mask mode" (data sheet, "End of Interrupt").
        int services = _state.SpecialMask ? _state.InService & ~_state.Mask : _state.InService;
        for (int i = 1; i <= 8; i++)
        {
            int input = (_state.LowestPriority + i) & 7;
            if ((services & (1 << input)) != 0)
            {
                _state.InService &= (byte)~(1 << input);
                if (rotate)
                {
                    _state.LowestPriority = (byte)input;
                }
                return;
            }
        }
    }

    private void WriteOcw3(byte value)
    {
        if ((value & Ocw3EnableSpecialMask) != 0)
        {
            _state.SpecialMask = (value & Ocw3SpecialMask) != 0;
        }
        if ((value & Ocw3Poll) != 0)
        {
            _state.Poll = true; // overrides a read register command in the same word
        }
        else if ((value & Ocw3ReadRegister) != 0)
        {
            _state.ReadInService = (value & Ocw3ReadIsr) != 0;
        }
    }
}
