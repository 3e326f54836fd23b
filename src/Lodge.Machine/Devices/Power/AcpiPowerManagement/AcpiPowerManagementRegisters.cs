namespace Lodge.Machine.Devices.Power.AcpiPowerManagement;

/// <summary>Layout of the fixed hardware's ports (ACPI 6.5, 4.8.3 and 4.8.4), relative to <see cref="PortMap.PowerManagement"/>.</summary>
internal static class PowerManagementRegister
{
    public const int Pm1Status = 0;  // 2 bytes
    public const int Pm1Enable = 2;  // 2 bytes
    public const int Pm1Control = 4; // 2 bytes
    public const int PmTimer = 8;    // 4 bytes
    public const int Length = 12;

    public const int Gpe0Status = 0; // 2 bytes, relative to the GPE block
    public const int Gpe0Enable = 2; // 2 bytes
    public const int Gpe0Length = 4;
}

/// <summary>PM1 status and enable registers (tables 4.11 and 4.12).</summary>
[Flags]
internal enum Pm1Event : ushort
{
    Timer = 1 << 0,
    BusMaster = 1 << 4,
    Global = 1 << 5,
    PowerButton = 1 << 8,
    RealTimeClock = 1 << 10,
    Wake = 1 << 15,
    Enables = Timer | Global | PowerButton | RealTimeClock,
    Statuses = Timer | BusMaster | Global | PowerButton | RealTimeClock | Wake,
}

/// <summary>PM1 control register (table 4.13).</summary>
internal static class Pm1Control
{
    public const ushort SciEnable = 1 << 0;
    public const ushort BusMasterReload = 1 << 1;
    public const int SleepTypeShift = 10;
    public const ushort SleepTypeMask = 7 << SleepTypeShift;
    public const ushort SleepEnable = 1 << 13; // write-only
}

/// <summary>Values for <see cref="PortMap.SmiCommand"/>, told in the FADT.</summary>
internal static class SmiCommand
{
    public const byte AcpiEnable = 0xA1;
    public const byte AcpiDisable = 0xA0;
}

/// <summary>Reset control register at port 0xCF9 (Intel ICH data sheets, RST_CNT).</summary>
internal static class ResetControl
{
    public const byte SystemReset = 1 << 1;
    public const byte ResetProcessor = 1 << 2; // 0 to 1 resets
    public const byte FullReset = 1 << 3;
    public const byte FadtResetValue = SystemReset | ResetProcessor;
}
