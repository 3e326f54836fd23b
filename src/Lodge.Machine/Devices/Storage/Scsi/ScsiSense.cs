namespace Lodge.Machine.Devices.Storage.Scsi;

/// <summary>Sense key (bits 23:16), additional sense code (15:8) and qualifier (7:0) (SPC-4, 4.5.6 and annex F).</summary>
internal enum ScsiSense
{
    None = 0,
    NoMedium = 0x02_3A_00,
    NoMediumTrayOpen = 0x02_3A_02,
    WriteError = 0x03_0C_00,
    UnrecoveredReadError = 0x03_11_00,
    InvalidOperation = 0x05_20_00,
    LbaOutOfRange = 0x05_21_00,
    InvalidField = 0x05_24_00,
    ParameterListLength = 0x05_1A_00,
    InvalidParameterField = 0x05_26_00,
    SavingNotSupported = 0x05_39_00,
    MediumRemovalPrevented = 0x05_53_02,
    MediumChanged = 0x06_28_00,
    PowerOnOrReset = 0x06_29_00,
    CapacityChanged = 0x06_2A_09,
    WriteProtected = 0x07_27_00,
    SpaceAllocationFailed = 0x07_27_07,
}

/// <summary>Operation codes (SPC-4, SBC-3, MMC-6).</summary>
internal static class ScsiOperation
{
    public const byte TestUnitReady = 0x00;
    public const byte RequestSense = 0x03;
    public const byte Read6 = 0x08;
    public const byte Write6 = 0x0A;
    public const byte Inquiry = 0x12;
    public const byte ModeSelect6 = 0x15;
    public const byte ModeSense6 = 0x1A;
    public const byte StartStopUnit = 0x1B;
    public const byte PreventAllowMediumRemoval = 0x1E;
    public const byte ReadCapacity10 = 0x25;
    public const byte Read10 = 0x28;
    public const byte Write10 = 0x2A;
    public const byte Seek10 = 0x2B;
    public const byte Verify10 = 0x2F;
    public const byte SynchronizeCache10 = 0x35;
    public const byte WriteSame10 = 0x41;
    public const byte Unmap = 0x42;
    public const byte ReadToc = 0x43;
    public const byte GetConfiguration = 0x46;
    public const byte GetEventStatus = 0x4A;
    public const byte ReadDiscInformation = 0x51;
    public const byte ModeSelect10 = 0x55;
    public const byte ModeSense10 = 0x5A;
    public const byte Read16 = 0x88;
    public const byte Write16 = 0x8A;
    public const byte Verify16 = 0x8F;
    public const byte SynchronizeCache16 = 0x91;
    public const byte WriteSame16 = 0x93;
    public const byte ServiceActionIn16 = 0x9E;
    public const byte ReportLuns = 0xA0;
    public const byte Read12 = 0xA8;
    public const byte Write12 = 0xAA;
    public const byte MechanismStatus = 0xBD;

    /// <summary>Service action of <see cref="ServiceActionIn16"/>.</summary>
    public const byte ReadCapacity16 = 0x10;
}
