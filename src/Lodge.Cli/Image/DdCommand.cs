using System.CommandLine;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image dd</c>.</summary>
internal static class DdCommand
{
    private const string Manual = """

        As in qemu-img, count counts blocks from the beginning of the input, those that skip leaves out among them.

        Examples:
          lodge image dd if=disk.qcow2 of=head.img bs=1M count=16
          lodge image dd -f qcow2 -O vdi bs=1M skip=1 if=disk.qcow2 of=rest.vdi

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string[]> operands = new("NAME=VALUE") { Arity = ArgumentArity.OneOrMore, Description = "if=FILE of=FILE [bs=SIZE] [count=N] [skip=N]" };
        Option<string?> targetFormat = new("-O") { Description = "Format of the output [default: raw]", HelpName = "FORMAT" };
        Command command = new("dd", "Copy a part of an image into a new one") { operands, targetFormat };
        shared.AddTo(command, progress: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            (string? input, string? output, long block, long? count, long skip) = (null, null, 512, null, 0);
            foreach (string operand in parsed.GetValue(operands)!)
            {
                string value = operand[(operand.IndexOf('=', StringComparison.Ordinal) + 1)..];
                switch (operand[..Math.Max(operand.Length - value.Length - 1, 0)])
                {
                    case "if":
                        input = value;
                        break;
                    case "of":
                        output = value;
                        break;
                    case "bs":
                        block = ImageArguments.ParseSize(value, "block size");
                        break;
                    case "count":
                        count = ImageArguments.ParseSize(value, "count");
                        break;
                    case "skip":
                        skip = ImageArguments.ParseSize(value, "number of blocks");
                        break;
                    default:
                        throw new LodgeException($"'{operand}' is not known; dd takes if=, of=, bs=, count= and skip=", ExitStatus.Usage);
                }
            }
            if (input is null || output is null || block is <= 0 or > int.MaxValue)
            {
                throw new LodgeException(input is null || output is null ? "dd needs if=FILE and of=FILE" : $"bs={block} is not between 1 and {int.MaxValue}", ExitStatus.Usage);
            }
            ImageLocation location = shared.Locate(parsed, input);
            IDiskFormat format = DiskFormats.Named(parsed.GetValue(targetFormat) ?? "raw");
            await using IImage image = await ImageOpener.OpenAsync(location.Path, location.Options, session.Cancellation).ConfigureAwait(false);
            ConvertCommand.Guard(location.Path, output);
            long end = count is { } blocks && blocks <= image.Length / block ? blocks * block : image.Length;
            if (skip > image.Length / block)
            {
                throw new LodgeException($"skip={skip} blocks of {block} bytes lie behind the end of {input}, which has {image.Length} bytes");
            }
            long start = Math.Min(skip * block, end);
            using ImageProgress progress = new($"copying {output}", shared.ShowsProgress(parsed), shared.Quiet(parsed));
            NewImageOptions target = new(output, format.Name, (end - start + 511) / 512 * 512);
            await ImageConvert.RunAsync(new DiskRange(image, start, end - start), target, new DiskCopyOptions { Progress = progress }, session.Cancellation).ConfigureAwait(false);
            progress.Complete();
            return 0;
        }));
        return command;
    }
}
