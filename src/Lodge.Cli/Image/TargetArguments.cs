using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Image;

/// <summary>What <c>-o</c> says of an image to be made or changed.</summary>
/// <param name="Options">Checked against the format.</param>
/// <param name="Size">The option <c>size</c>, for formats that have none of their own.</param>
/// <param name="KeyId">Id of the secret that <c>encrypt.key-secret</c> names.</param>
internal sealed record TargetOptions(FormatOptions Options, long? Size, string? KeyId);

/// <summary>The option <c>-o name=value,...</c> with its help.</summary>
internal static class TargetArguments
{
    /// <summary>The option.</summary>
    public static Option<string[]> Create() => new("-o")
    {
        Description = "Options of the format, comma-separated; -o help lists them",
        HelpName = "NAME=VALUE",
        Arity = ArgumentArity.OneOrMore,
    };

    /// <summary>The list of a format's options, if <c>-o help</c> asks for it.</summary>
    public static string? Help(IDiskFormat format, string[]? lists, bool amend = false)
    {
        if (lists is null || !lists.SelectMany(OptionList.Parse).Any(pair => pair.Key is "help" or "?"))
        {
            return null;
        }
        IEnumerable<FormatOption> options = amend ? format.Options.Where(option => option.Amendable) : format.Options;
        if (!options.Any())
        {
            return $"The format {format.Name} has no options that can be changed on an existing image.\n";
        }
        StringBuilder text = new($"{(amend ? "Changeable" : "Supported")} {format.Name} options:\n");
        foreach (FormatOption option in options.OrderBy(option => option.Name, StringComparer.Ordinal))
        {
            string kind = option.Kind switch
            {
                FormatOptionKind.Size => "size",
                FormatOptionKind.Switch => "bool (on/off)",
                FormatOptionKind.Number => "num",
                FormatOptionKind.Choice => string.Join('|', option.Choices),
                _ => "str",
            };
            text.Append(CultureInfo.InvariantCulture, $"  {option.Name + "=<" + kind + ">",-23} - {option.Description}");
            text.Append(option.Default.Length == 0 ? "\n" : $" (default: {option.Default})\n");
        }
        return text.ToString();
    }

    /// <summary>Checks all lists against the format and adds the parent.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>.</exception>
    public static TargetOptions Parse(IDiskFormat format, string[]? lists, string? backing = null, string? backingFormat = null)
    {
        List<KeyValuePair<string, string>> pairs = [];
        string? key = null;
        long? size = null;
        foreach ((string name, string value) in (lists ?? []).SelectMany(OptionList.Parse))
        {
            if (name is "encrypt.key-secret" or "key-secret")
            {
                key = value;
            }
            else if (name == "size" && format.Options.All(option => option.Name != "size"))
            {
                size = ImageArguments.ParseSize(value, "size");
            }
            else
            {
                pairs.Add(new(name, value));
            }
        }
        if (backing is not null)
        {
            pairs.Add(new("backing_file", backing));
        }
        if (backingFormat is not null)
        {
            pairs.Add(new("backing_fmt", DiskFormats.Named(backingFormat).Name));
        }
        if (format.Options.All(option => option.Name != "backing_file") && pairs.Exists(pair => pair.Key.StartsWith("backing_", StringComparison.Ordinal)))
        {
            throw new LodgeException($"images of the format {format.Name} have no parent (backing file)");
        }
        return new TargetOptions(FormatOptions.Parse(format, pairs), size, key);
    }

    /// <summary>Where the parent of a new image at <paramref name="path"/> lies, and how it is opened; whoever names it allows its folder.</summary>
    public static ImageLocation Parent(string path, string backing, string? format, ImageOpenOptions like)
    {
        if (format is null)
        {
            throw new LodgeException($"the format of the backing file {backing} is not given; add -F FORMAT", ExitStatus.Usage);
        }
        string place = DiskAddresses.IsAddress(backing) ? backing : Path.Combine(Path.GetDirectoryName(Path.GetFullPath(path))!, backing);
        return new ImageLocation(place, like with { Format = DiskFormats.Named(format).Name, ReadOnly = true, Snapshot = null, AllowedFolders = [.. like.AllowedFolders, .. FolderOf(place)] });
    }

    /// <summary>The folder that naming a file allows.</summary>
    public static string[] FolderOf(string place) => DiskAddresses.IsAddress(place) ? [] : [Path.GetDirectoryName(Path.GetFullPath(place))!];
}
