namespace Lodge.Machine.Devices.Input.Keyboard8042;

/// <summary>Status register, port 0x64 read (IBM PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device controller).</summary>
[Flags]
internal enum ControllerStatus : byte
{
    OutputBufferFull = 0x01,
    InputBufferFull = 0x02,
    SystemFlag = 0x04,
    CommandLast = 0x08,
    KeyLockOpen = 0x10,
    AuxiliaryData = 0x20,
    Timeout = 0x40,
    ParityError = 0x80,
}

/// <summary>Controller command byte.</summary>
[Flags]
internal enum CommandByte : byte
{
    KeyboardInterrupt = 0x01,
    AuxiliaryInterrupt = 0x02,
    SystemFlag = 0x04,
    DisableKeyboard = 0x10,
    DisableAuxiliary = 0x20,
    Translate = 0x40,
    Reserved = 0x88,
}

/// <summary>Commands at port 0x64.</summary>
internal static class ControllerCommand
{
    public const byte ReadRam = 0x20;  // 0x20-0x3F; 0x20 is the command byte
    public const byte WriteRam = 0x60; // 0x60-0x7F
    public const byte DisableAuxiliary = 0xA7;
    public const byte EnableAuxiliary = 0xA8;
    public const byte TestAuxiliary = 0xA9;
    public const byte SelfTest = 0xAA;
    public const byte TestKeyboard = 0xAB;
    public const byte DisableKeyboard = 0xAD;
    public const byte EnableKeyboard = 0xAE;
    public const byte ReadInputPort = 0xC0;
    public const byte ReadOutputPort = 0xD0;
    public const byte WriteOutputPort = 0xD1;
    public const byte WriteKeyboardOutput = 0xD2;
    public const byte WriteAuxiliaryOutput = 0xD3;
    public const byte WriteAuxiliary = 0xD4;
    public const byte PulseFirst = 0xF0; // 0xF0-0xFF: the low four bits that are 0 are pulsed; bit 0 is the processor's reset
    public const byte PulseReset = 0x01;

    public const byte SelfTestPassed = 0x55;
    public const byte PortTestPassed = 0x00;
    public const byte InputPortValue = 0x80; // keyboard not locked
}

/// <summary>Output port of the controller.</summary>
internal static class OutputPort
{
    public const byte NotReset = 0x01;
    public const byte A20 = 0x02;
    public const byte KeyboardFull = 0x10;
    public const byte AuxiliaryFull = 0x20;
    public const byte Idle = NotReset | A20 | 0xC0;
}

/// <summary>System control port A, 0x92.</summary>
internal static class SystemControlA
{
    public const byte FastReset = 0x01;
    public const byte A20 = 0x02;
}

/// <summary>Bytes that keyboards and mice answer with.</summary>
internal static class Ps2Reply
{
    public const byte Acknowledge = 0xFA;
    public const byte Resend = 0xFE;
    public const byte SelfTestPassed = 0xAA;
    public const byte Echo = 0xEE;
}

/// <summary>Commands to a keyboard.</summary>
internal static class KeyboardCommand
{
    public const byte SetLeds = 0xED;
    public const byte Echo = 0xEE;
    public const byte ScanCodeSet = 0xF0;
    public const byte Identify = 0xF2;
    public const byte SetRate = 0xF3;
    public const byte Enable = 0xF4;
    public const byte Disable = 0xF5;
    public const byte SetDefaults = 0xF6;
    public const byte SetKeyTypesFirst = 0xF7;
    public const byte SetKeyTypesLast = 0xFA;
    public const byte Reset = 0xFF;
}

/// <summary>Commands to a mouse.</summary>
internal static class MouseCommand
{
    public const byte Scale1 = 0xE6;
    public const byte Scale2 = 0xE7;
    public const byte SetResolution = 0xE8;
    public const byte Status = 0xE9;
    public const byte StreamMode = 0xEA;
    public const byte ReadData = 0xEB;
    public const byte LeaveWrap = 0xEC;
    public const byte EnterWrap = 0xEE;
    public const byte RemoteMode = 0xF0;
    public const byte Identify = 0xF2;
    public const byte SetRate = 0xF3;
    public const byte Enable = 0xF4;
    public const byte Disable = 0xF5;
    public const byte SetDefaults = 0xF6;
    public const byte Reset = 0xFF;
}
