namespace Lodge.Machine.Devices.Input.Keyboard8042;

/// <summary>A 101-key PS/2 keyboard.</summary>
internal sealed class Ps2Keyboard : Ps2Device
{
    private const byte IdentifyLow = 0xAB;
    private const byte IdentifyHigh = 0x83;

    /// <summary>Scan code set, 1 to 3; keys are sent in set 2 unless the guest chose otherwise.</summary>
    public byte ScanCodeSet { get; private set; } = 2;

    /// <summary>LEDs: scroll, num, caps from bit 0.</summary>
    public byte Leds { get; private set; }

    /// <summary>Queues the scan codes of a key event, all or none. False when the keyboard is disabled or full.</summary>
    public bool TrySend(ReadOnlySpan<byte> codes)
    {
        if (!Enabled || codes.Length > Room)
        {
            return false;
        }
        Send(codes);
        return true;
    }

    /// <summary>Takes saved contents.</summary>
    public void Restore(byte[] queued, byte awaitedFor, bool enabled, byte scanCodeSet, byte leds)
    {
        RestoreBase(queued, awaitedFor, enabled);
        ScanCodeSet = scanCodeSet;
        Leds = leds;
    }

    /// <inheritdoc/>
    protected override void SetDefaults()
    {
        ScanCodeSet = 2;
        Leds = 0;
        Enabled = true;
    }

    /// <inheritdoc/>
    protected override void Handle(byte value, byte awaited)
    {
        if (awaited != 0 && value < KeyboardCommand.SetLeds)
        {
            Parameter(value, awaited);
            return;
        }
        switch (value)
        {
            case KeyboardCommand.Echo:
                Send(Ps2Reply.Echo);
                break;
            case KeyboardCommand.SetLeds or KeyboardCommand.ScanCodeSet or KeyboardCommand.SetRate:
                AwaitedFor = value;
                Send(Ps2Reply.Acknowledge);
                break;
            case KeyboardCommand.Identify:
                Send(Ps2Reply.Acknowledge, IdentifyLow, IdentifyHigh);
                break;
            case KeyboardCommand.Enable:
                Enabled = true;
                Send(Ps2Reply.Acknowledge);
                break;
            case KeyboardCommand.Disable:
                SetDefaults();
                Enabled = false;
                Send(Ps2Reply.Acknowledge);
                break;
            case KeyboardCommand.SetDefaults:
                SetDefaults();
                Send(Ps2Reply.Acknowledge);
                break;
            case >= KeyboardCommand.SetKeyTypesFirst and <= KeyboardCommand.SetKeyTypesLast:
                Send(Ps2Reply.Acknowledge); // key types exist in set 3 only; every key is make-break-typematic already
                break;
            case KeyboardCommand.Reset:
                SetDefaults();
                Send(Ps2Reply.Acknowledge, Ps2Reply.SelfTestPassed);
                break;
            default:
                Send(Ps2Reply.Resend);
                break;
        }
    }

    private void Parameter(byte value, byte awaited)
    {
        Send(Ps2Reply.Acknowledge);
        switch (awaited)
        {
            case KeyboardCommand.SetLeds:
                Leds = (byte)(value & 7);
                break;
            case KeyboardCommand.ScanCodeSet when value == 0:
                Send(ScanCodeSet);
                break;
            case KeyboardCommand.ScanCodeSet when value <= 3:
                ScanCodeSet = value;
                break;
            default:
                break; // typematic rate: the host's keyboard repeats by itself
        }
    }
}
