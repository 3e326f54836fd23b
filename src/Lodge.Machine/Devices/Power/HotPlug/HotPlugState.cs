using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Power.HotPlug;

/// <summary>Saved state of a <see cref="HotPlugController"/>: bitmaps of places, see <see cref="HotPlugRegister"/>.</summary>
public sealed record HotPlugState : ISavedState<HotPlugState>
{
    private const int MaximumBytes = 32;

    /// <summary>Places in which something is.</summary>
    public byte[] Present { get; init; } = [];

    /// <summary>Places from which something can be removed.</summary>
    public byte[] Removable { get; init; } = [];

    /// <summary>Arrivals that the guest has not looked at.</summary>
    public byte[] Arrived { get; init; } = [];

    /// <summary>Requests to go that the guest has not looked at.</summary>
    public byte[] Leaving { get; init; } = [];

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.Bytes(1, Present);
        writer.Bytes(2, Removable);
        writer.Bytes(3, Arrived);
        writer.Bytes(4, Leaving);
    }

    /// <inheritdoc/>
    public static HotPlugState Read(StateReader reader) => new()
    {
        Present = reader.Bytes(1, MaximumBytes),
        Removable = reader.Bytes(2, MaximumBytes),
        Arrived = reader.Bytes(3, MaximumBytes),
        Leaving = reader.Bytes(4, MaximumBytes),
    };
}
