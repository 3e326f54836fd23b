namespace Lodge.Machine.Devices.Serial.Uart16550;

/// <summary>Register offsets of the PC16550D (National Semiconductor data sheet, June 1995, table II), by the state of LCR.DLAB.</summary>
internal static class Uart16550Register
{
    public const int ReceiverBufferTransmitterHolding = 0; // RBR, THR; DLL when DLAB
    public const int InterruptEnable = 1;                  // IER; DLM when DLAB
    public const int InterruptIdentFifoControl = 2;        // IIR, FCR
    public const int LineControl = 3;                      // LCR
    public const int ModemControl = 4;                     // MCR
    public const int LineStatus = 5;                       // LSR
    public const int ModemStatus = 6;                      // MSR
    public const int Scratch = 7;                          // SCR
    public const int Count = 8;
}

/// <summary>Interrupt enable register (8.6 of the data sheet).</summary>
[Flags]
internal enum InterruptEnable : byte
{
    ReceivedDataAvailable = 0x01,
    TransmitterHoldingEmpty = 0x02,
    ReceiverLineStatus = 0x04,
    ModemStatus = 0x08,
    Implemented = 0x0F,
}

/// <summary>Interrupt identification register (8.5), by falling priority.</summary>
internal static class InterruptIdent
{
    public const byte ReceiverLineStatus = 0x06;
    public const byte ReceivedDataAvailable = 0x04;
    public const byte CharacterTimeout = 0x0C;
    public const byte TransmitterHoldingEmpty = 0x02;
    public const byte ModemStatus = 0x00;
    public const byte NonePending = 0x01;
    public const byte FifosEnabled = 0xC0;
}

/// <summary>FIFO control register (8.4).</summary>
[Flags]
internal enum FifoControl : byte
{
    Enable = 0x01,
    ResetReceiver = 0x02,
    ResetTransmitter = 0x04,
    TriggerLevelMask = 0xC0,
    Kept = Enable | TriggerLevelMask,
}

/// <summary>Line control register (8.1).</summary>
[Flags]
internal enum LineControl : byte
{
    WordLengthMask = 0x03,
    StopBits = 0x04,
    ParityEnable = 0x08,
    SetBreak = 0x40,
    DivisorLatchAccess = 0x80,
}

/// <summary>Modem control register (8.7).</summary>
[Flags]
internal enum ModemControl : byte
{
    DataTerminalReady = 0x01,
    RequestToSend = 0x02,
    Out1 = 0x04,
    Out2 = 0x08,
    Loop = 0x10,
    Implemented = 0x1F,
}

/// <summary>Line status register (8.3).</summary>
[Flags]
internal enum LineStatus : byte
{
    DataReady = 0x01,
    OverrunError = 0x02,
    ParityError = 0x04,
    FramingError = 0x08,
    BreakInterrupt = 0x10,
    TransmitterHoldingEmpty = 0x20,
    TransmitterEmpty = 0x40,
    Errors = OverrunError | ParityError | FramingError | BreakInterrupt,
}

/// <summary>Modem status register (8.8).</summary>
[Flags]
internal enum ModemStatus : byte
{
    DeltaClearToSend = 0x01,
    DeltaDataSetReady = 0x02,
    TrailingEdgeRing = 0x04,
    DeltaCarrierDetect = 0x08,
    ClearToSend = 0x10,
    DataSetReady = 0x20,
    RingIndicator = 0x40,
    CarrierDetect = 0x80,
    Deltas = 0x0F,
    Lines = 0xF0,
}
