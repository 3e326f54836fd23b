using System.Text.Json;
using System.Text.Json.Serialization;

namespace Lodge.Management.Templates;

/// <summary>What a template is, <c>template.json</c> in its folder: for people and for lists. A clone is made from the two other files alone.</summary>
public sealed record TemplateDescription
{
    /// <summary>The version of this form.</summary>
    public const int CurrentVersion = 1;

    /// <summary>Version of the form.</summary>
    public int Version { get; init; } = CurrentVersion;

    /// <summary>Name of the template's folder: a hash of everything that the machine is made from.</summary>
    public required string Key { get; init; }

    /// <summary>The system in it: an image's name, or <c>default</c> for the default system.</summary>
    public required string System { get; init; }

    /// <summary>Bytes of RAM of the machine.</summary>
    public ulong Memory { get; init; }

    /// <summary>Processors of the machine.</summary>
    public int Processors { get; init; }

    /// <summary>Bytes that the template takes on the host's disk.</summary>
    public long StoredBytes { get; init; }

    /// <summary>When it was made.</summary>
    public DateTimeOffset Created { get; init; }

    /// <summary>Whether it was asked for by name, and not made by a run on its own account.</summary>
    public bool Asked { get; init; }

    /// <summary>What the machine is made from, as the key has it.</summary>
    public IReadOnlyList<string> Parts { get; init; } = [];
}

/// <summary>A template in the store.</summary>
/// <param name="Description">What it is.</param>
/// <param name="Used">When a machine was last cloned from it.</param>
public sealed record StoredTemplate(TemplateDescription Description, DateTimeOffset Used);

/// <summary>Source-generated JSON of the descriptions.</summary>
[JsonSourceGenerationOptions(JsonSerializerDefaults.Web, WriteIndented = true)]
[JsonSerializable(typeof(TemplateDescription))]
[JsonSerializable(typeof(List<TemplateDescription>))]
public sealed partial class TemplateJson : JsonSerializerContext;
