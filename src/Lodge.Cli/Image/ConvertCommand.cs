using System.CommandLine;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image convert</c>.</summary>
internal static class ConvertCommand
{
    private const int LargestParallel = 64;

    private const string Manual = """

        Several sources are put one after the other. What is zero in the source takes no room in the target. Ctrl-C removes the unfinished target.

        Examples:
          lodge image convert -O qcow2 disk.img disk.qcow2
          lodge image convert -c -O qcow2 -o compression_type=zstd disk.img small.qcow2
          lodge image convert -f vmdk -O vhdx disk.vmdk disk.vhdx
          lodge image convert -n -O raw disk.qcow2 /dev/vg/volume                   into what exists
          lodge image convert -O qcow2 -B base.qcow2 -F qcow2 overlay.vhdx overlay.qcow2
          lodge image convert -l before-upgrade -O raw disk.qcow2 old.img           an internal snapshot

        """;

    private sealed class Arguments
    {
        public Argument<string[]> Files { get; } = new("FILE") { Arity = ArgumentArity.OneOrMore, Description = "Sources, and last the target" };

        public Option<string?> TargetFormat { get; } = new("-O") { Description = "Format of the target [default: raw]", HelpName = "FORMAT" };

        public Option<string[]> Options { get; } = TargetArguments.Create();

        public Option<string?> Backing { get; } = new("-B", "-b") { Description = "Parent of the target: only what the source's top layer holds is copied", HelpName = "FILE" };

        public Option<string?> BackingFormat { get; } = new("-F") { Description = "Format of the parent", HelpName = "FORMAT" };

        public Option<bool> Compress { get; } = new("-c") { Description = "Compress the target" };

        public Option<bool> Existing { get; } = new("-n") { Description = "Do not make the target: it exists" };

        public Option<bool> TargetIsZero { get; } = new("--target-is-zero") { Description = "With -n: the target reads as zeroes everywhere" };

        public Option<string?> ZeroRun { get; } = new("-S") { Description = "Shortest run of zeroes that becomes a hole; 0 writes all [default: 4k]", HelpName = "SIZE" };

        public Option<int?> Parallel { get; } = new("-m") { Description = "Pieces in flight [default: 8]", HelpName = "N" };

        public Option<bool> OutOfOrder { get; } = new("-W") { Description = "Write pieces as they come [always so, but for streams]" };

        public Option<string?> Rate { get; } = new("-r") { Description = "Most bytes a second", HelpName = "SIZE" };

        public Option<string?> Snapshot { get; } = new("-l", "-s") { Description = "Internal snapshot of the source: its name, snapshot.id=ID or snapshot.name=NAME", HelpName = "SNAPSHOT" };

        public Option<string?> TargetCache { get; } = ImageArguments.Cache("-t", "target", "unsafe");

        public Option<string?> SourceCache { get; } = ImageArguments.Cache("-T", "sources", "writeback");

        public Option<string?> TargetSecret { get; } = new("--target-secret") { Description = "Passphrase of the target: a file, or env:NAME", HelpName = "FILE" };
    }

    public static Command Create()
    {
        ImageArguments shared = new();
        shared.Format.Description = "Format of the sources [default: recognized from their content]";
        Arguments own = new();
        Command command = new("convert", "Copy an image into another format")
        {
            own.Files, own.TargetFormat, own.Options, own.Backing, own.BackingFormat, own.Compress, own.Existing, own.TargetIsZero, own.ZeroRun, own.Parallel,
            own.OutOfOrder, own.Rate, own.Snapshot, own.TargetCache, own.SourceCache, own.TargetSecret,
        };
        shared.AddTo(command, progress: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(session => RunAsync(session, shared, own, parsed)));
        return command;
    }

    /// <summary>The name or id in <c>-l</c>.</summary>
    public static string? SnapshotName(string? text) => text is null
        ? null
        : text.StartsWith("snapshot.", StringComparison.Ordinal) && text.IndexOf('=', StringComparison.Ordinal) is > 0 and var equals ? text[(equals + 1)..] : text;

    private static async Task<int> RunAsync(ImageSession session, ImageArguments shared, Arguments own, ParseResult parsed)
    {
        IDiskFormat format = DiskFormats.Named(parsed.GetValue(own.TargetFormat) ?? "raw");
        string[]? lists = parsed.GetValue(own.Options);
        if (TargetArguments.Help(format, lists) is { } help)
        {
            return ImageSession.Print(help);
        }
        string[] files = parsed.GetValue(own.Files)!;
        if (files.Length < 2)
        {
            throw new LodgeException("convert needs a source and a target, as in: lodge image convert -O qcow2 disk.img disk.qcow2", ExitStatus.Usage);
        }
        TargetOptions target = TargetArguments.Parse(format, lists, parsed.GetValue(own.Backing), parsed.GetValue(own.BackingFormat));
        bool existing = parsed.GetValue(own.Existing);
        if (existing && (target.Options.Names.Count != 0 || target.Size is not null))
        {
            throw new LodgeException("-n fills an existing target, so -o and -B cannot change it; leave one out", ExitStatus.Usage);
        }
        if (parsed.GetValue(own.TargetIsZero) && !existing)
        {
            throw new LodgeException("--target-is-zero is about an existing target; add -n", ExitStatus.Usage);
        }
        DiskCopyOptions copy = new()
        {
            Parallel = parsed.GetValue(own.Parallel) is not { } parallel ? 8
                : parallel is >= 1 and <= LargestParallel ? parallel
                : throw new LodgeException($"'-m {parallel}' is not between 1 and {LargestParallel}", ExitStatus.Usage),
            ZeroRun = ImageArguments.ParseSizeOrNull(parsed.GetValue(own.ZeroRun), "size") ?? 4096,
            Compress = parsed.GetValue(own.Compress),
            TargetIsZero = parsed.GetValue(own.TargetIsZero),
            OnlyTopLayer = target.Options.Text("backing_file") is not null,
            BytesPerSecond = ImageArguments.ParseSizeOrNull(parsed.GetValue(own.Rate), "rate") ?? 0,
        };

        List<IImage> sources = [];
        try
        {
            foreach (string name in files[..^1])
            {
                ImageLocation location = shared.Locate(parsed, name, cache: parsed.GetValue(own.SourceCache));
                ImageOpenOptions options = location.Options with { Snapshot = SnapshotName(parsed.GetValue(own.Snapshot)) };
                sources.Add(await ImageOpener.OpenAsync(location.Path, options, session.Cancellation).ConfigureAwait(false));
                Guard(location.Path, files[^1]);
            }
            IDisk source = sources.Count == 1 ? sources[0] : new JoinedDisk(sources);
            using ImageProgress progress = new($"converting {Path.GetFileName(files[^1])}", shared.ShowsProgress(parsed), shared.Quiet(parsed));
            copy = copy with { Progress = progress };
            CacheMode cache = ImageArguments.ParseCache(parsed.GetValue(own.TargetCache), CacheMode.Unsafe);
            string? secret = target.KeyId is not null ? shared.Secret(parsed, target.KeyId) : ImageSecrets.Read(parsed.GetValue(own.TargetSecret));
            if (existing)
            {
                ImageOpenOptions options = new() { Format = format.Name, Cache = cache, Secret = secret, AllowedFolders = shared.Allowed(parsed) };
                await using IImage disk = await ImageOpener.OpenAsync(files[^1], options, session.Cancellation).ConfigureAwait(false);
                await ImageConvert.RunAsync(source, disk, copy, session.Cancellation).ConfigureAwait(false);
            }
            else
            {
                NewImageOptions made = await DescribeAsync(session, shared, parsed, files[^1], format, target, source.Length).ConfigureAwait(false);
                await ImageConvert.RunAsync(source, made with { Cache = cache, Secret = secret }, copy, session.Cancellation).ConfigureAwait(false);
            }
            progress.Complete();
            return 0;
        }
        finally
        {
            foreach (IImage source in sources)
            {
                await source.DisposeAsync().ConfigureAwait(false);
            }
        }
    }

    private static async Task<NewImageOptions> DescribeAsync(ImageSession session, ImageArguments shared, ParseResult parsed, string path, IDiskFormat format, TargetOptions target, long length)
    {
        string[] allowed = shared.Allowed(parsed);
        if (target.Options.Text("backing_file") is { Length: > 0 } name)
        {
            ImageLocation parent = TargetArguments.Parent(path, name, target.Options.Text("backing_fmt"), new ImageOpenOptions { AllowedFolders = allowed });
            allowed = [.. parent.Options.AllowedFolders];
            await using IImage opened = await ImageOpener.OpenAsync(parent.Path, parent.Options, session.Cancellation).ConfigureAwait(false);
        }
        length = Math.Max(length, target.Size ?? 0);
        return new NewImageOptions(path, format.Name, format.Name == "raw" ? length : (length + 511) / 512 * 512) { Options = target.Options, AllowedFolders = allowed };
    }

    /// <summary>A target that is the source would be emptied before it is read.</summary>
    public static void Guard(string source, string target)
    {
        if (!DiskAddresses.IsAddress(source) && Real(source) == Real(target))
        {
            throw new LodgeException($"{target} is the source as well");
        }
    }

    private static string Real(string path) => !File.Exists(path) ? Path.GetFullPath(path) : File.ResolveLinkTarget(path, returnFinalTarget: true)?.FullName ?? Path.GetFullPath(path);
}
