using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;

namespace Lodge.Cli.Image;

/// <summary>What <c>info --json</c> prints of an image; the names are qemu-img's.</summary>
internal sealed record InfoReport
{
    public long VirtualSize { get; init; }

    public required string Filename { get; init; }

    public int? ClusterSize { get; init; }

    public required string Format { get; init; }

    public long ActualSize { get; init; }

    public FormatSpecificReport? FormatSpecific { get; init; }

    public string? BackingFilename { get; init; }

    public string? FullBackingFilename { get; init; }

    public string? BackingFilenameFormat { get; init; }

    public bool DirtyFlag { get; init; }

    public bool? Encrypted { get; init; }

    public bool? Compressed { get; init; }

    public IReadOnlyList<SnapshotReport>? Snapshots { get; init; }
}

/// <summary>Facts that only one format has.</summary>
internal sealed record FormatSpecificReport(string Type, JsonObject Data);

/// <summary>An internal snapshot.</summary>
internal sealed record SnapshotReport(string Id, string Name, long VmStateSize, long DateSec, long DateNsec, long VmClockSec, long VmClockNsec);

/// <summary>What <c>check --json</c> prints.</summary>
internal sealed record CheckReport
{
    public long? ImageEndOffset { get; init; }

    public long? TotalClusters { get; init; }

    public long CheckErrors { get; init; }

    public long? Corruptions { get; init; }

    public long? CorruptionsFixed { get; init; }

    public long? Leaks { get; init; }

    public long? LeaksFixed { get; init; }

    public long? AllocatedClusters { get; init; }

    public long? FragmentedClusters { get; init; }

    public long? CompressedClusters { get; init; }

    public required string Filename { get; init; }

    public required string Format { get; init; }
}

/// <summary>What <c>map --json</c> prints of a stretch.</summary>
internal sealed record MapReport(long Start, long Length, int Depth, bool Present, bool Zero, bool Data, bool Compressed, long? Offset);

/// <summary>What <c>measure --json</c> prints.</summary>
internal sealed record MeasureReport(long Required, long FullyAllocated, long? Bitmaps);

/// <summary>What <c>compare --json</c> prints.</summary>
internal sealed record CompareReport(bool Identical, string? Difference, long? Offset, bool SizesDiffer);

/// <summary>What <c>bench --json</c> prints.</summary>
internal sealed record BenchReport(long Count, int Depth, int BufferSize, bool Write, double Seconds, double RequestsPerSecond, double BytesPerSecond);

/// <summary>Writes the reports.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.KebabCaseLower, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(InfoReport))]
[JsonSerializable(typeof(List<InfoReport>))]
[JsonSerializable(typeof(List<SnapshotReport>))]
[JsonSerializable(typeof(CheckReport))]
[JsonSerializable(typeof(MapReport))]
[JsonSerializable(typeof(MeasureReport))]
[JsonSerializable(typeof(CompareReport))]
[JsonSerializable(typeof(BenchReport))]
internal sealed partial class ImageJson : JsonSerializerContext
{
    /// <summary>Indented, with names of files as they are.</summary>
    public static ImageJson Indented { get; } = new(Form(indented: true));

    /// <summary>One line for each.</summary>
    public static ImageJson OneLine { get; } = new(Form(indented: false));

    /// <summary>The text of a report.</summary>
    public static string Text<T>(T report, JsonTypeInfo<T> type) => JsonSerializer.Serialize(report, type);

    private static JsonSerializerOptions Form(bool indented) => new()
    {
        WriteIndented = indented,
        IndentSize = 4,
        PropertyNamingPolicy = JsonNamingPolicy.KebabCaseLower,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };
}
