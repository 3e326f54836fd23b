namespace Lodge.Machine.Devices.Clock.Rtc;

/// <summary>Bytes of the MC146818's RAM that are registers (Motorola data sheet, figure 11), and those of the PC's CMOS that systems read.</summary>
internal static class RtcRegister
{
    public const int Seconds = 0x00;
    public const int SecondsAlarm = 0x01;
    public const int Minutes = 0x02;
    public const int MinutesAlarm = 0x03;
    public const int Hours = 0x04;
    public const int HoursAlarm = 0x05;
    public const int DayOfWeek = 0x06;
    public const int DayOfMonth = 0x07;
    public const int Month = 0x08;
    public const int Year = 0x09;
    public const int A = 0x0A;
    public const int B = 0x0B;
    public const int C = 0x0C;
    public const int D = 0x0D;

    public const int Equipment = 0x14;
    public const int BaseMemoryLow = 0x15;         // KiB below 1 MiB
    public const int ExtendedMemoryLow = 0x17;     // KiB above 1 MiB, at most 0xFFFF
    public const int ExtendedMemoryCopyLow = 0x30; // the same
    public const int Century = 0x32;
    public const int MemoryAbove16MiBLow = 0x34;   // 64 KiB units, to 4 GiB
    public const int MemoryAbove4GiBLow = 0x5B;    // 64 KiB units, three bytes
    public const int ProcessorsLessOne = 0x5F;
    public const int Size = 128;

    /// <summary>Alarm bytes from here on match any value.</summary>
    public const byte AlarmAny = 0xC0;
}

/// <summary>Register A.</summary>
internal static class RegisterA
{
    public const byte UpdateInProgress = 0x80;
    public const byte DividerMask = 0x70;
    public const byte DividerRunning = 0x20; // 32,768 Hz time base
    public const byte DividerReset = 0x60;   // 11x: stages held in reset
    public const byte RateMask = 0x0F;
    public const byte Default = DividerRunning | 6; // 1,024 Hz
}

/// <summary>Register B.</summary>
internal static class RegisterB
{
    public const byte Set = 0x80;
    public const byte PeriodicInterrupt = 0x40;
    public const byte AlarmInterrupt = 0x20;
    public const byte UpdateEndedInterrupt = 0x10;
    public const byte SquareWave = 0x08;
    public const byte BinaryMode = 0x04;
    public const byte Hours24 = 0x02;
    public const byte Interrupts = PeriodicInterrupt | AlarmInterrupt | UpdateEndedInterrupt;
}

/// <summary>Register C.</summary>
internal static class RegisterC
{
    public const byte InterruptRequest = 0x80;
    public const byte Periodic = 0x40;
    public const byte Alarm = 0x20;
    public const byte UpdateEnded = 0x10;
}

/// <summary>Register D.</summary>
internal static class RegisterD
{
    public const byte ValidRamAndTime = 0x80;
}
