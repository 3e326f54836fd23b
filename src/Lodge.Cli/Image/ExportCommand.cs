using System.CommandLine;
using System.Globalization;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;
using Lodge.Storage.Ovf;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image export</c>: disks into an OVF package.</summary>
internal static class ExportCommand
{
    private const int MostProcessors = 1024;

    private const string Manual = """

        The package has the disks as streamOptimized VMDK, a descriptor of the machine and a manifest with SHA-256 digests. VirtualBox and VMware import it.

        Examples:
          lodge image export disk.qcow2 -o machine.ova
          lodge image export --cpus 4 --memory 8G --bus scsi system.qcow2 data.vhdx -o machine.ova

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        shared.Format.Description = "Format of the disks [default: recognized from their content]";
        Argument<string[]> disks = new("DISK") { Arity = ArgumentArity.OneOrMore };
        Option<string> output = new("-o") { Description = "The package to make", HelpName = "NAME.ova", Required = true };
        Option<string?> name = new("--name") { Description = "Name of the machine [default: the package's]", HelpName = "NAME" };
        Option<int?> processors = new("--cpus") { Description = "Processors of the machine [default: 1]", HelpName = "N" };
        Option<string?> memory = new("--memory") { Description = "Memory of the machine [default: 1G]", HelpName = "SIZE" };
        Option<string?> bus = new("--bus") { Description = "Bus of its disks: sata, scsi or ide [default: sata]", HelpName = "BUS" };
        Command command = new("export", "Make an OVA package of disks") { disks, output, name, processors, memory, bus };
        shared.AddTo(command, progress: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            string path = parsed.GetValue(output)!;
            if (!path.EndsWith(".ova", StringComparison.OrdinalIgnoreCase))
            {
                throw new LodgeException($"'-o {path}' does not end in .ova", ExitStatus.Usage);
            }
            OvfMachine machine = new(
                parsed.GetValue(name) ?? Path.GetFileNameWithoutExtension(path),
                parsed.GetValue(processors) is not { } count ? 1 : count is >= 1 and <= MostProcessors ? count : throw new LodgeException($"'--cpus {count}' is not between 1 and {MostProcessors}", ExitStatus.Usage),
                ParseMemory(parsed.GetValue(memory)),
                parsed.GetValue(bus) switch
                {
                    null or "sata" => OvfBus.Sata,
                    "scsi" => OvfBus.Scsi,
                    "ide" => OvfBus.Ide,
                    { } other => throw new LodgeException($"'--bus {other}' is not known; give sata, scsi or ide", ExitStatus.Usage),
                });
            List<IImage> sources = [];
            try
            {
                foreach (string disk in parsed.GetValue(disks)!)
                {
                    ImageLocation location = shared.Locate(parsed, disk);
                    sources.Add(await ImageOpener.OpenAsync(location.Path, location.Options, session.Cancellation).ConfigureAwait(false));
                    ConvertCommand.Guard(location.Path, path);
                }
                using ImageProgress progress = new($"exporting {Path.GetFileName(path)}", shared.ShowsProgress(parsed), shared.Quiet(parsed));
                await OvaExport.RunAsync([.. sources.Select(IDisk (source) => source)], path, machine, new DiskCopyOptions { Progress = progress }, session.Cancellation).ConfigureAwait(false);
                progress.Complete();
            }
            finally
            {
                foreach (IImage source in sources)
                {
                    await source.DisposeAsync().ConfigureAwait(false);
                }
            }
            string told = string.Create(CultureInfo.InvariantCulture, $"{path}: {sources.Count} {(sources.Count == 1 ? "disk" : "disks")}, {SizeText.Of(new FileInfo(path).Length)}");
            return shared.Quiet(parsed) ? 0 : ImageSession.Print(told);
        }));
        return command;
    }

    private static long ParseMemory(string? text)
    {
        const long Unit = 1 << 20;
        long bytes = ImageArguments.ParseSizeOrNull(text, "size") ?? 1L << 30;
        return bytes is >= Unit and <= 1L << 46 && bytes % Unit == 0 ? bytes : throw new LodgeException($"'--memory {text}' is not a number of whole MiB", ExitStatus.Usage);
    }
}
