using System.Text.Json.Serialization;

namespace Lodge.Management.Machines;

/// <summary>
/// What a machine is made from, <c>machine.json</c>. Its name is its folder's. What <c>lodge create</c> was given stands in <see cref="Options"/> as it was written, so that it
/// reads as a command line does.
/// </summary>
public sealed record MachineDefinition
{
    /// <summary>The version that this Lodge writes, and the newest that it reads.</summary>
    public const int CurrentVersion = 1;

    /// <summary>Version of the file.</summary>
    public int Version { get; init; } = CurrentVersion;

    /// <summary>The machine's identity, the same under every name; its SMBIOS UUID.</summary>
    public required Guid Id { get; init; }

    /// <summary>When it was created.</summary>
    public required DateTimeOffset Created { get; init; }

    /// <summary>The folder that relative paths in <see cref="Options"/> begin at.</summary>
    public required string Directory { get; init; }

    /// <summary>Stored image whose system it has; null for a kernel of the user's or the default system.</summary>
    public string? Image { get; init; }

    /// <summary>Options of <c>lodge run</c> by their names without dashes, each with its values in their order; a switch has the value <c>true</c>.</summary>
    public IReadOnlyDictionary<string, IReadOnlyList<string>> Options { get; init; } = new Dictionary<string, IReadOnlyList<string>>();

    /// <summary>What it runs in place of a login; empty for none.</summary>
    public IReadOnlyList<string> Command { get; init; } = [];

    /// <summary>Whether the host starts it when it starts itself.</summary>
    public bool Autostart { get; init; }

    /// <summary>The machine goes with its process' end (<c>lodge run -d --rm</c>).</summary>
    public bool Temporary { get; init; }

    /// <summary>Identity of the machine that this one is a clone of, or what stands for a template; null for none. The guest of a clone is told its own machine ID.</summary>
    public Guid? ClonedFrom { get; init; }

    /// <summary>
    /// Devices by name with what a command is just doing to them in the machine that runs (<see cref="Attaching"/>, <see cref="Detaching"/>); null for none. What a command that was killed has left here the next
    /// one brings to an end.
    /// </summary>
    public IReadOnlyDictionary<string, string>? Unsettled { get; init; }

    /// <summary>The device is among the options and on its way into the machine.</summary>
    public const string Attaching = "attaching";

    /// <summary>The device is among the options and on its way out of the machine.</summary>
    public const string Detaching = "detaching";

    /// <summary>The same with another note on a device.</summary>
    /// <param name="device">Its name.</param>
    /// <param name="what">What is done to it; null: nothing any more.</param>
    public MachineDefinition WithUnsettled(string device, string? what)
    {
        Dictionary<string, string> notes = new(Unsettled ?? new Dictionary<string, string>(), StringComparer.Ordinal);
        notes.Remove(device);
        if (what is not null)
        {
            notes[device] = what;
        }
        return this with { Unsettled = notes.Count == 0 ? null : notes };
    }

    /// <summary>Whether the machine began as a clone of a template, whose devices it keeps.</summary>
    public bool FromTemplate { get; init; }

    /// <summary>The only or last value of an option, or null.</summary>
    public string? Option(string name) => Options.TryGetValue(name, out IReadOnlyList<string>? values) && values.Count != 0 ? values[^1] : null;

    /// <summary>The command line of <c>lodge run</c> that makes this machine, without the command.</summary>
    public IReadOnlyList<string> Arguments(string name)
    {
        List<string> words = ["run"];
        foreach ((string option, IReadOnlyList<string> values) in Options.OrderBy(o => o.Key, StringComparer.Ordinal))
        {
            foreach (string value in values)
            {
                words.Add(value == "true" ? $"--{option}" : $"--{option}={value}");
            }
        }
        words.Add($"--name={name}");
        if (Image is not null)
        {
            words.Add(Image);
        }
        return words;
    }
}

/// <summary>JSON of what Lodge keeps and tells of machines.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull, UseStringEnumConverter = true)]
[JsonSerializable(typeof(MachineDefinition))]
[JsonSerializable(typeof(MachineStatus))]
[JsonSerializable(typeof(MachineReport))]
[JsonSerializable(typeof(List<MachineReport>))]
public sealed partial class MachineJson : JsonSerializerContext;

/// <summary>JSON of which each value is one line.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull, UseStringEnumConverter = true)]
[JsonSerializable(typeof(MachineEvent))]
public sealed partial class MachineLineJson : JsonSerializerContext;
