using Lodge.Engine.State;

namespace Lodge.Machine.Saving;

/// <summary>What a saved machine tells of itself.</summary>
public sealed record SavedMachineMetadata : ISavedState<SavedMachineMetadata>
{
    private const int MaximumText = 4096, MaximumNotes = 256;

    /// <summary>The machine's name, or empty.</summary>
    public string Name { get; init; } = "";

    /// <summary>When it was saved.</summary>
    public DateTimeOffset Time { get; init; } = DateTimeOffset.UnixEpoch;

    /// <summary>The version of Lodge that saved it.</summary>
    public string Version { get; init; } = "";

    /// <summary>Its processors.</summary>
    public int Processors { get; init; }

    /// <summary>Bytes of RAM.</summary>
    public ulong MemorySize { get; init; }

    /// <summary>Whatever the caller wants to find again; at most 256 with 4,096 bytes each.</summary>
    public IReadOnlyDictionary<string, string> Notes { get; init; } = new Dictionary<string, string>();

    static int ISavedState<SavedMachineMetadata>.Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.Text(1, Name);
        writer.Int64(2, Time.ToUnixTimeMilliseconds());
        writer.Text(3, Version);
        writer.UInt64(4, (ulong)Processors);
        writer.UInt64(5, MemorySize);
        foreach ((string name, string value) in Notes)
        {
            writer.Nested(6, new Note(name, value));
        }
    }

    /// <inheritdoc/>
    public static SavedMachineMetadata Read(StateReader reader)
    {
        long time = reader.Int64(2);
        var notes = new Dictionary<string, string>();
        foreach (Note note in reader.NestedList<Note>(6, MaximumNotes))
        {
            notes[note.Name] = note.Value;
        }
        return new()
        {
            Name = reader.Text(1, MaximumText),
            Time = DateTimeOffset.FromUnixTimeMilliseconds(Math.Clamp(time, 0, DateTimeOffset.MaxValue.ToUnixTimeMilliseconds())),
            Version = reader.Text(3, MaximumText),
            Processors = reader.Int32(4),
            MemorySize = reader.UInt64(5),
            Notes = notes,
        };
    }

    private sealed record Note(string Name, string Value) : ISavedState<Note>
    {
        public static int Version => 1;

        public void Write(StateWriter writer)
        {
            writer.Text(1, Name);
            writer.Text(2, Value);
        }

        public static Note Read(StateReader reader) => new(reader.Text(1, MaximumText), reader.Text(2, MaximumText));
    }
}
