using System.CommandLine;
using System.Globalization;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image bench</c>.</summary>
internal static class BenchCommand
{
    private const string Manual = """

        Examples:
          lodge image bench disk.qcow2                                75000 reads of 4 KiB, 64 at once
          lodge image bench -c 20000 -d 8 -s 64k --random disk.qcow2
          lodge image bench -w --pattern 90 -c 10000 disk.qcow2       overwrites the disk's content

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string> path = new("FILE");
        Option<long?> count = new("-c") { Description = "Requests in all [default: 75000]", HelpName = "N" };
        Option<int?> depth = new("-d") { Description = "Requests in flight [default: 64]", HelpName = "N" };
        Option<string?> offset = new("-o") { Description = "Where the first request begins", HelpName = "SIZE" };
        Option<string?> size = new("-s") { Description = "Bytes of a request [default: 4k]", HelpName = "SIZE" };
        Option<string?> step = new("-S") { Description = "From one request's beginning to the next's [default: its size]", HelpName = "SIZE" };
        Option<bool> write = new("-w") { Description = "Write instead of read" };
        Option<byte?> pattern = new("--pattern") { Description = "The byte to write [default: 0]", HelpName = "BYTE" };
        Option<int?> flush = new("--flush-interval") { Description = "A flush after so many writes", HelpName = "N" };
        Option<bool> noDrain = new("--no-drain") { Description = "Flushes do not hold up other requests" };
        Option<bool> random = new("--random") { Description = "Offsets at random instead of one after the other" };
        Option<bool> native = new("-n") { Description = "No host page cache, the same as -t none" };
        Option<string?> cache = ImageArguments.Cache("-t", "image", "writeback");
        Command command = new("bench", "Time requests to an image") { path, count, depth, offset, size, step, write, pattern, flush, noDrain, random, native, cache };
        shared.AddTo(command, output: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            DiskBenchOptions options = new()
            {
                Count = parsed.GetValue(count) ?? 75000,
                Depth = parsed.GetValue(depth) ?? 64,
                Offset = ImageArguments.ParseSizeOrNull(parsed.GetValue(offset), "offset") ?? 0,
                BufferSize = (int)Math.Min(ImageArguments.ParseSizeOrNull(parsed.GetValue(size), "size") ?? 4096, 1 << 30),
                Step = ImageArguments.ParseSizeOrNull(parsed.GetValue(step), "step") ?? 0,
                Write = parsed.GetValue(write),
                Pattern = parsed.GetValue(pattern) ?? 0,
                FlushInterval = parsed.GetValue(flush) ?? 0,
                Drain = !parsed.GetValue(noDrain),
                Random = parsed.GetValue(random),
            };
            if (options.Count < 1 || options.Depth is < 1 or > 4096)
            {
                throw new LodgeException("-c is at least 1 and -d between 1 and 4096", ExitStatus.Usage);
            }
            ImageLocation location = shared.Locate(parsed, parsed.GetValue(path)!, writable: options.Write, cache: parsed.GetValue(native) ? "none" : parsed.GetValue(cache));
            await using IImage image = await ImageOpener.OpenAsync(location.Path, location.Options, session.Cancellation).ConfigureAwait(false);
            DiskBench bench = new(image, options);
            bool json = shared.Json(parsed);
            if (!json && !shared.Quiet(parsed))
            {
                string order = options.Random ? "random multiples of " : "step size ";
                ImageSession.Print($"Sending {options.Count} {(options.Write ? "write" : "read")} requests, {options.BufferSize} bytes each, {options.Depth} in parallel (starting at offset {options.Offset}, {order}{(options.Step > 0 ? options.Step : options.BufferSize)})" +
                    (options.FlushInterval > 0 ? $"\nSending flush every {options.FlushInterval} {(options.Drain ? "" : "in-flight ")}requests" : ""));
            }
            double seconds = (await bench.RunAsync(session.Cancellation).ConfigureAwait(false)).TotalSeconds;
            if (json)
            {
                BenchReport report = new(options.Count, options.Depth, options.BufferSize, options.Write, seconds, options.Count / seconds, options.Count / seconds * options.BufferSize);
                return ImageSession.Print(ImageJson.Text(report, ImageJson.Indented.BenchReport));
            }
            return shared.Quiet(parsed) ? 0 : ImageSession.Print(string.Create(CultureInfo.InvariantCulture, $"Run completed in {seconds:F3} seconds."));
        }));
        return command;
    }
}
