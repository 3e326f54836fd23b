using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Input.Keyboard8042;

/// <summary>Saved state of <see cref="Keyboard8042"/>.</summary>
public sealed record Keyboard8042State : ISavedState<Keyboard8042State>
{
    /// <summary>The controller's 32 bytes of RAM, the command byte first.</summary>
    public byte[] Ram { get; init; } = new byte[Keyboard8042.RamSize];

    /// <summary>Status register.</summary>
    public byte Status { get; init; }

    /// <summary>Output buffer.</summary>
    public byte Output { get; init; }

    /// <summary>Controller answers that wait, at most 16, and whether each is marked as the auxiliary device's.</summary>
    public byte[] Answers { get; init; } = [];

    /// <summary>1 for each of <see cref="Answers"/> marked as the auxiliary device's.</summary>
    public byte[] AnswerSources { get; init; } = [];

    /// <summary>Controller command that awaits its parameter, or 0.</summary>
    public byte AwaitedFor { get; init; }

    /// <summary>The translation saw a break prefix.</summary>
    public bool Breaking { get; init; }

    /// <summary>Bit 0 of port 0x92.</summary>
    public bool FastReset { get; init; }

    /// <summary>Keyboard: queue.</summary>
    public byte[] KeyboardQueue { get; init; } = [];

    /// <summary>Keyboard: awaited parameter, enabled, scan code set, LEDs.</summary>
    public byte[] Keyboard { get; init; } = [0, 1, 2, 0];

    /// <summary>Mouse: queue.</summary>
    public byte[] MouseQueue { get; init; } = [];

    /// <summary>Mouse: awaited parameter, enabled, rate, resolution, identity, modes.</summary>
    public byte[] Mouse { get; init; } = [0, 0, 100, 2, 0, 0];

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.Bytes(1, Ram);
        writer.UInt64(2, Status);
        writer.UInt64(3, Output);
        writer.Bytes(4, Answers);
        writer.Bytes(5, AnswerSources);
        writer.UInt64(6, AwaitedFor);
        writer.Bool(7, Breaking);
        writer.Bool(8, FastReset);
        writer.Bytes(9, KeyboardQueue);
        writer.Bytes(10, Keyboard);
        writer.Bytes(11, MouseQueue);
        writer.Bytes(12, Mouse);
    }

    /// <inheritdoc/>
    public static Keyboard8042State Read(StateReader reader)
    {
        var state = new Keyboard8042State
        {
            Ram = reader.Bytes(1, Keyboard8042.RamSize),
            Status = reader.UInt8(2),
            Output = reader.UInt8(3),
            Answers = reader.Bytes(4, Ps2Device.QueueSize),
            AnswerSources = reader.Bytes(5, Ps2Device.QueueSize),
            AwaitedFor = reader.UInt8(6),
            Breaking = reader.Bool(7),
            FastReset = reader.Bool(8),
            KeyboardQueue = reader.Bytes(9, Ps2Device.QueueSize),
            Keyboard = reader.Bytes(10, 4),
            MouseQueue = reader.Bytes(11, Ps2Device.QueueSize),
            Mouse = reader.Bytes(12, 6),
        };
        return state.Ram.Length == Keyboard8042.RamSize && state.Keyboard.Length == 4 && state.Mouse.Length == 6
            && state.Answers.Length == state.AnswerSources.Length && state.Keyboard[2] is >= 1 and <= 3
            ? state
            : throw new SavedStateException("keyboard controller state is malformed");
    }
}
