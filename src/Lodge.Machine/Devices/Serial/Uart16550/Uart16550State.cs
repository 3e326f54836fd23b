using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Serial.Uart16550;

/// <summary>Saved state of a <see cref="Uart16550"/>.</summary>
public sealed record Uart16550State : ISavedState<Uart16550State>
{
    /// <summary>IER.</summary>
    public byte InterruptEnable { get; init; }

    /// <summary>FCR: enable and trigger level.</summary>
    public byte FifoControl { get; init; }

    /// <summary>LCR.</summary>
    public byte LineControl { get; init; }

    /// <summary>MCR.</summary>
    public byte ModemControl { get; init; }

    /// <summary>Error bits of LSR.</summary>
    public byte LineErrors { get; init; }

    /// <summary>MSR.</summary>
    public byte ModemStatus { get; init; }

    /// <summary>SCR.</summary>
    public byte Scratch { get; init; }

    /// <summary>DLM and DLL.</summary>
    public ushort Divisor { get; init; } = Uart16550.ResetDivisor;

    /// <summary>The transmitter-empty interrupt is pending.</summary>
    public bool TransmitterInterrupt { get; init; }

    /// <summary>The character time-out interrupt is pending.</summary>
    public bool TimeoutInterrupt { get; init; }

    /// <summary>Received bytes that the guest has not read, at most 16.</summary>
    public byte[] Received { get; init; } = [];

    /// <summary>Bytes in the transmitter's FIFO, at most 16.</summary>
    public byte[] Transmitting { get; init; } = [];

    /// <summary>Transmitted bytes that the backend has not taken.</summary>
    public byte[] Output { get; init; } = [];

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, InterruptEnable);
        writer.UInt64(2, FifoControl);
        writer.UInt64(3, LineControl);
        writer.UInt64(4, ModemControl);
        writer.UInt64(5, LineErrors);
        writer.UInt64(6, ModemStatus);
        writer.UInt64(7, Scratch);
        writer.UInt64(8, Divisor);
        writer.Bool(9, TransmitterInterrupt);
        writer.Bool(10, TimeoutInterrupt);
        writer.Bytes(11, Received);
        writer.Bytes(12, Transmitting);
        writer.Bytes(13, Output);
    }

    /// <inheritdoc/>
    public static Uart16550State Read(StateReader reader) => new()
    {
        InterruptEnable = reader.UInt8(1, 0, 0x0F),
        FifoControl = reader.UInt8(2),
        LineControl = reader.UInt8(3),
        ModemControl = reader.UInt8(4, 0, 0x1F),
        LineErrors = reader.UInt8(5),
        ModemStatus = reader.UInt8(6),
        Scratch = reader.UInt8(7),
        Divisor = reader.UInt16(8, Uart16550.ResetDivisor),
        TransmitterInterrupt = reader.Bool(9),
        TimeoutInterrupt = reader.Bool(10),
        Received = reader.Bytes(11, Uart16550.FifoSize),
        Transmitting = reader.Bytes(12, Uart16550.FifoSize),
        Output = reader.Bytes(13, CharacterOutput.Capacity),
    };
}
