namespace Lodge.Machine.Devices.Timers.Pit8254;

/// <summary>Ports and bits of the 8254 (Intel data sheet 231164-005) and of the NMI status and control port (82371SB data sheet, 2.5.3).</summary>
internal static class Pit8254Registers
{
    /// <summary>Counter 0; counters 1 and 2 and the control word follow.</summary>
    public const ushort Port = 0x40;

    /// <summary>Offset of the control word register.</summary>
    public const ulong ControlWord = 3;

    /// <summary>NMI status and control: gate and output of counter 2, speaker.</summary>
    public const ushort StatusPort = 0x61;

    /// <summary>Input clock in hertz: 14.31818 MHz / 12.</summary>
    public const long Frequency = 1_193_182;

    /// <summary>Control word RW1, RW0: counter latch command.</summary>
    public const int AccessLatch = 0;

    /// <summary>Control word RW1, RW0: least significant byte only.</summary>
    public const int AccessLow = 1;

    /// <summary>Control word RW1, RW0: most significant byte only.</summary>
    public const int AccessHigh = 2;

    /// <summary>Control word RW1, RW0: least, then most significant byte.</summary>
    public const int AccessLowHigh = 3;

    /// <summary>Control word BCD.</summary>
    public const byte ControlBcd = 0x01;

    /// <summary>Control word SC1, SC0 for the read-back command.</summary>
    public const int SelectReadBack = 3;

    /// <summary>Read-back command: when clear, latch the count.</summary>
    public const byte ReadBackNotCount = 0x20;

    /// <summary>Read-back command: when clear, latch the status.</summary>
    public const byte ReadBackNotStatus = 0x10;

    /// <summary>Status byte OUTPUT.</summary>
    public const byte StatusOutput = 0x80;

    /// <summary>Status byte NULL COUNT.</summary>
    public const byte StatusNullCount = 0x40;

    /// <summary>Port 61h: gate of counter 2.</summary>
    public const byte Timer2Gate = 0x01;

    /// <summary>Port 61h bits that software writes: timer 2 gate, speaker data, SERR# and IOCHK# enables.</summary>
    public const byte StatusPortWritable = 0x0F;

    /// <summary>Port 61h: refresh cycle toggle.</summary>
    public const byte RefreshToggle = 0x10;

    /// <summary>Port 61h: output of counter 2.</summary>
    public const byte Timer2Output = 0x20;

    /// <summary>Nanoseconds between two refresh cycles (18 input clocks).</summary>
    public const long RefreshPeriod = 15_085;
}
