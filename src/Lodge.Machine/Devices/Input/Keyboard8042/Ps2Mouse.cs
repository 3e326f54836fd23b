namespace Lodge.Machine.Devices.Input.Keyboard8042;

/// <summary>A PS/2 mouse with a wheel (the IntelliMouse extension: rates 200, 100, 80 make it device 3).</summary>
internal sealed class Ps2Mouse : Ps2Device
{
    private const byte StandardIdentity = 0;
    private const byte WheelIdentity = 3;
    private const byte DefaultRate = 100;
    private const byte DefaultResolution = 2;

    private uint _rates; // the last three rates, newest lowest

    /// <summary>Reports per second.</summary>
    public byte Rate { get; private set; }

    /// <summary>Counts per millimetre as a power of two.</summary>
    public byte Resolution { get; private set; }

    /// <summary>Device identity, 0 or 3.</summary>
    public byte Identity { get; private set; }

    /// <summary>Modes as bits: 1 scaling 2:1, 2 remote, 4 wrap.</summary>
    public MouseModes Modes { get; private set; }

    /// <summary>Buttons: left, right, middle from bit 0.</summary>
    public byte Buttons { get; private set; }

    /// <summary>Reports a movement (counts, right and up positive), wheel steps and buttons. False when the mouse is silent or full.</summary>
    public bool TryMove(int x, int y, int wheel, byte buttons)
    {
        Buttons = (byte)(buttons & 7);
        if (!Enabled || (Modes & (MouseModes.Remote | MouseModes.Wrap)) != 0 || Room < 4)
        {
            return false;
        }
        SendReport(x, y, wheel);
        return true;
    }

    /// <summary>Takes saved contents.</summary>
    public void Restore(byte[] queued, byte awaitedFor, bool enabled, byte rate, byte resolution, byte identity, MouseModes modes)
    {
        RestoreBase(queued, awaitedFor, enabled);
        Rate = rate;
        Resolution = resolution;
        Identity = identity;
        Modes = modes;
        _rates = 0;
    }

    /// <inheritdoc/>
    protected override void SetDefaults()
    {
        Rate = DefaultRate;
        Resolution = DefaultResolution;
        Modes = 0;
        Enabled = false;
    }

    /// <inheritdoc/>
    protected override void Handle(byte value, byte awaited)
    {
        if ((Modes & MouseModes.Wrap) != 0 && value is not (MouseCommand.LeaveWrap or MouseCommand.Reset))
        {
            Send(value);
            return;
        }
        if (awaited != 0)
        {
            Send(Ps2Reply.Acknowledge);
            if (awaited == MouseCommand.SetRate)
            {
                SetRate(value);
            }
            else
            {
                Resolution = (byte)(value & 3);
            }
            return;
        }
        switch (value)
        {
            case MouseCommand.Scale1:
                Modes &= ~MouseModes.Scale2;
                break;
            case MouseCommand.Scale2:
                Modes |= MouseModes.Scale2;
                break;
            case MouseCommand.SetResolution or MouseCommand.SetRate:
                AwaitedFor = value;
                break;
            case MouseCommand.StreamMode:
                Modes &= ~MouseModes.Remote;
                break;
            case MouseCommand.RemoteMode:
                Modes |= MouseModes.Remote;
                break;
            case MouseCommand.LeaveWrap:
                Modes &= ~MouseModes.Wrap;
                break;
            case MouseCommand.EnterWrap:
                Modes |= MouseModes.Wrap;
                break;
            case MouseCommand.Enable:
                Enabled = true;
                break;
            case MouseCommand.Disable:
                Enabled = false;
                break;
            case MouseCommand.SetDefaults:
                SetDefaults();
                break;
            case MouseCommand.Status:
                byte status = (byte)(((Modes & MouseModes.Remote) != 0 ? 0x40 : 0) | (Enabled ? 0x20 : 0)
                    | ((Modes & MouseModes.Scale2) != 0 ? 0x10 : 0) | ((Buttons & 1) << 2) | ((Buttons & 4) >> 1) | ((Buttons & 2) >> 1));
                Send(Ps2Reply.Acknowledge, status, Resolution, Rate);
                return;
            case MouseCommand.Identify:
                Send(Ps2Reply.Acknowledge, Identity);
                return;
            case MouseCommand.ReadData:
                Send(Ps2Reply.Acknowledge);
                SendReport(0, 0, 0);
                return;
            case MouseCommand.Reset:
                SetDefaults();
                Identity = StandardIdentity;
                _rates = 0;
                Send(Ps2Reply.Acknowledge, Ps2Reply.SelfTestPassed, StandardIdentity);
                return;
            default:
                Send(Ps2Reply.Resend);
                return;
        }
        Send(Ps2Reply.Acknowledge);
    }

    private void SetRate(byte value)
    {
        Rate = value;
        _rates = ((_rates << 8) | value) & 0xFF_FFFF;
        if (_rates == ((200u << 16) | (100u << 8) | 80u))
        {
            Identity = WheelIdentity;
        }
    }

    private void SendReport(int x, int y, int wheel)
    {
        x = Math.Clamp(x, -256, 255);
        y = Math.Clamp(y, -256, 255);
        Send((byte)(0x08 | Buttons | (x < 0 ? 0x10 : 0) | (y < 0 ? 0x20 : 0)), (byte)x, (byte)y);
        if (Identity == WheelIdentity)
        {
            Send((byte)(sbyte)-Math.Clamp(wheel, -7, 7));
        }
    }
}

/// <summary>Modes of a <see cref="Ps2Mouse"/>.</summary>
[Flags]
internal enum MouseModes : byte
{
    Scale2 = 1,
    Remote = 2,
    Wrap = 4,
}
