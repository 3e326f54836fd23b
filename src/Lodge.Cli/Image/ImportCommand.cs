using System.CommandLine;
using System.Globalization;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;
using Lodge.Storage.Ovf;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image import</c>: disks out of OVF packages.</summary>
internal static class ImportCommand
{
    private const string Manual = """

        The package's manifest, if there is one, is verified before anything is written; a certificate is not. Nothing is unpacked but the disks.

        Examples:
          lodge image import machine.ova                        machine.qcow2, or machine-disk1.qcow2, ... for several
          lodge image import machine.ovf -O raw -o disks/        into a folder
          lodge image import machine.ova -o system.qcow2         the only disk into a file

        """;

    public static Command Create()
    {
        Argument<string> path = new("PACKAGE") { Description = "NAME.ova or NAME.ovf" };
        Option<string?> name = new("--name") { Description = "Name of the disks [default: the machine's]", HelpName = "NAME" };
        Option<string?> format = new("-O") { Description = "Format of the disks [default: qcow2]", HelpName = "FORMAT" };
        Option<string?> output = new("-o") { Description = "Folder, or the file of the only disk [default: this folder]", HelpName = "PATH" };
        Option<bool> quiet = new("--quiet", "-q") { Description = "Print nothing but errors" };
        Option<bool> progress = new("-p") { Description = "Show progress also where the output is no terminal" };
        Command command = new("import", "Take the disks out of an OVA or OVF package") { path, name, format, output, quiet, progress };
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(session => RunAsync(
            session,
            parsed.GetValue(path)!,
            DiskFormats.Named(parsed.GetValue(format) ?? "qcow2"),
            parsed.GetValue(name),
            parsed.GetValue(output),
            (show, text) => new ImageProgress(text, parsed.GetValue(progress), parsed.GetValue(quiet) || !show),
            parsed.GetValue(quiet))));
        return command;
    }

    private static async Task<int> RunAsync(
        ImageSession session, string path, IDiskFormat format, string? name, string? output, Func<bool, string, ImageProgress> progress, bool quiet)
    {
        await using OvfPackage package = await OvfPackage.OpenAsync(path, session.Cancellation).ConfigureAwait(false);
        IReadOnlyList<OvfDisk> disks = package.Descriptor.Disks;
        if (disks.Count == 0)
        {
            throw new LodgeException($"{path} has no disks");
        }
        List<string> targets = Targets(package, path, format, name, output);
        using (ImageProgress verifying = progress(package.HasManifest, $"verifying {Path.GetFileName(path)}"))
        {
            await package.VerifyAsync(verifying, session.Cancellation).ConfigureAwait(false);
        }

        List<NewImage> made = [];
        StringBuilder text = new();
        try
        {
            for (int index = 0; index < disks.Count; index++)
            {
                await using IDisk source = await package.OpenDiskAsync(disks[index], session.Cancellation).ConfigureAwait(false);
                long length = Math.Max(source.Length, disks[index].Capacity);
                NewImage image = await NewImage.CreateAsync(new NewImageOptions(targets[index], format.Name, length) { Replace = false }, session.Cancellation).ConfigureAwait(false);
                made.Add(image);
                IImage disk = await image.OpenAsync(cancellation: session.Cancellation).ConfigureAwait(false);
                using ImageProgress copying = progress(true, $"importing {Path.GetFileName(targets[index])}");
                DiskCopyOptions copy = new() { TargetIsZero = format.NewImageReadsZero, Progress = copying };
                await ImageConvert.RunAsync(source, disk, copy, session.Cancellation).ConfigureAwait(false);
                copying.Complete();
                text.Append(CultureInfo.InvariantCulture, $"{targets[index]}: {format.Name}, {SizeText.Of(length)}\n");
            }
            foreach (NewImage image in made)
            {
                await image.CompleteAsync().ConfigureAwait(false);
            }
        }
        finally
        {
            foreach (NewImage image in made)
            {
                await image.DisposeAsync().ConfigureAwait(false);
            }
        }
        if (package.Descriptor.Processors is { } processors)
        {
            text.Append(CultureInfo.InvariantCulture, $"processors: {processors}\n");
        }
        if (package.Descriptor.Memory is { } memory)
        {
            text.Append(CultureInfo.InvariantCulture, $"memory: {SizeText.Of(memory)}\n");
        }
        text.Append(package.HasCertificate ? "note: the package's certificate was not verified\n" : "");
        return quiet ? 0 : ImageSession.Print(text.ToString());
    }

    private static List<string> Targets(OvfPackage package, string path, IDiskFormat format, string? name, string? output)
    {
        bool folder = output is null || output.EndsWith('/') || Directory.Exists(output);
        int count = package.Descriptor.Disks.Count;
        if (!folder)
        {
            return count == 1 ? [output!] : throw new LodgeException($"{path} has {count} disks; give a folder with -o, as in: -o {output}/", ExitStatus.Usage);
        }
        string stem = name ?? (package.Descriptor.Name is { Length: > 0 } own ? own : Path.GetFileNameWithoutExtension(path));

        // The name comes from the package: only what is plain in a file's name stays.
        stem = new string([.. stem.Select(character => char.IsLetterOrDigit(character) || character is '-' or '_' or '.' or ' ' or '+' ? character : '_')]).TrimStart('.', '-').Trim();
        stem = stem.Length == 0 ? "disk" : stem.Length > 100 ? stem[..100] : stem;
        string extension = format.Name switch { "vpc" => "vhd", "raw" => "img", { } other => other };
        if (output is not null)
        {
            Directory.CreateDirectory(output);
        }
        return [.. Enumerable.Range(1, count).Select(index => Path.Combine(output ?? "", count == 1 ? $"{stem}.{extension}" : $"{stem}-disk{index}.{extension}"))];
    }
}
