using System.CommandLine;
using System.Globalization;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image map</c>.</summary>
internal static class MapCommand
{
    private const int Flush = 1 << 16;

    private const string Manual = """

        Examples:
          lodge image map disk.qcow2
          lodge image map --json --start-offset 1G --max-length 64M disk.qcow2

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string> path = new("FILE");
        Option<string?> start = new("--start-offset", "-s") { Description = "Where to begin", HelpName = "SIZE" };
        Option<string?> length = new("--max-length", "-l") { Description = "How much of the disk", HelpName = "SIZE" };
        Command command = new("map", "List what is where in an image and its parents") { path, start, length };
        shared.AddTo(command, output: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            ImageLocation location = shared.Locate(parsed, parsed.GetValue(path)!);
            await using IImage image = await ImageOpener.OpenAsync(location.Path, location.Options, session.Cancellation).ConfigureAwait(false);
            long from = ImageArguments.ParseSizeOrNull(parsed.GetValue(start), "offset") ?? 0;
            if (from > image.Length)
            {
                throw new LodgeException($"the offset {from} lies behind the disk of {image.Length} bytes");
            }
            bool json = shared.Json(parsed);
            string[] files = json ? [] : Layers(image);
            StringBuilder text = new(json ? "[" : $"{"Offset",-16}{"Length",-16}{"Mapped to",-16}File\n");
            bool first = true;
            await foreach (MapEntry entry in DiskMap.ListAsync(image, from, ImageArguments.ParseSizeOrNull(parsed.GetValue(length), "length") ?? long.MaxValue, session.Cancellation).ConfigureAwait(false))
            {
                if (json)
                {
                    text.Append(first ? "" : ",\n").Append(ImageJson.Text(Report(entry), ImageJson.OneLine.MapReport));
                }
                else if (entry.Data)
                {
                    text.Append(Line(entry, files));
                }
                first = false;
                if (text.Length > Flush)
                {
                    if (ImageSession.Write(text.ToString()) is not 0 and var broken)
                    {
                        return broken;
                    }
                    text.Clear();
                }
            }
            return ImageSession.Write(text.Append(json ? "]\n" : "").ToString());
        }));
        return command;
    }

    private static MapReport Report(MapEntry entry) => new(
        entry.Start, entry.Extent.Length, entry.Extent.Depth, entry.Present, entry.Zero, entry.Data, (entry.Extent.State & BlockState.Compressed) != 0,
        entry.Extent.HostOffset < 0 ? null : entry.Extent.HostOffset);

    private static string Line(MapEntry entry, string[] files)
    {
        string file = files[Math.Min(entry.Extent.Depth, files.Length - 1)];
        if (entry.Extent.HostOffset < 0)
        {
            throw new LodgeException($"the data at {entry.Start} of {file} is compressed or encrypted and has no place to show; use --json");
        }
        return string.Create(CultureInfo.InvariantCulture, $"{"0x" + entry.Start.ToString("x", CultureInfo.InvariantCulture),-16}{"0x" + entry.Extent.Length.ToString("x", CultureInfo.InvariantCulture),-16}{"0x" + entry.Extent.HostOffset.ToString("x", CultureInfo.InvariantCulture),-16}{file}\n");
    }

    private static string[] Layers(IImage image)
    {
        List<string> files = [];
        for (IDisk? layer = image; layer is IImage present; layer = (layer as IBackedImage)?.Backing)
        {
            files.Add(present.File.Name);
        }
        return [.. files];
    }
}
