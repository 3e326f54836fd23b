using System.CommandLine;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image create</c>.</summary>
internal static class CreateCommand
{
    private const string Manual = """

        An existing file is replaced, unless another process holds it. With -b the size may be left out: it is then the parent's.

        Examples:
          lodge image create disk.img 10G                                        a raw disk
          lodge image create -f qcow2 -o cluster_size=128k,compression_type=zstd disk.qcow2 10G
          lodge image create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2       keeps what differs from base.qcow2
          lodge image create -f qcow2 -o encrypt.format=luks --secret pass.txt secret.qcow2 10G
          lodge image create -f vmdk -o help

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        shared.Format.Description = "Format [default: raw]";
        Option<string[]> options = TargetArguments.Create();
        Option<string?> backing = new("-b") { Description = "Parent (backing file), relative to the new image", HelpName = "FILE" };
        Option<string?> backingFormat = new("-F") { Description = "Format of the parent", HelpName = "FORMAT" };
        Option<bool> unchecked_ = new("-u") { Description = "Do not open the parent; then the size is needed" };
        Argument<string?> path = new("FILE") { Arity = ArgumentArity.ZeroOrOne };
        Argument<string?> size = new("SIZE") { Arity = ArgumentArity.ZeroOrOne };
        Command command = new("create", "Make an image") { path, size, options, backing, backingFormat, unchecked_ };
        shared.AddTo(command, share: false);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            IDiskFormat format = DiskFormats.Named(parsed.GetValue(shared.Format) ?? "raw");
            if (TargetArguments.Help(format, parsed.GetValue(options)) is { } help)
            {
                return ImageSession.Print(help);
            }
            string file = parsed.GetValue(path) ?? throw new LodgeException("the file to make is missing, as in: lodge image create -f qcow2 disk.qcow2 20G", ExitStatus.Usage);
            TargetOptions target = TargetArguments.Parse(format, parsed.GetValue(options), parsed.GetValue(backing), parsed.GetValue(backingFormat));
            ImageLocation location = shared.Locate(parsed, file, writable: true, format: format.Name);
            file = location.Path;
            long? length = ImageArguments.ParseSizeOrNull(parsed.GetValue(size), "size") ?? target.Size;
            string[] allowed = shared.Allowed(parsed);
            if (target.Options.Text("backing_file") is { Length: > 0 } parentName && !parsed.GetValue(unchecked_))
            {
                ImageLocation parent = TargetArguments.Parent(file, parentName, target.Options.Text("backing_fmt"), location.Options with { Secret = null });
                allowed = [.. parent.Options.AllowedFolders];
                await using IImage opened = await ImageOpener.OpenAsync(parent.Path, parent.Options with { ForceShare = true }, session.Cancellation).ConfigureAwait(false);
                length ??= opened.Length;
            }
            NewImageOptions made = new(file, format.Name, length ?? throw new LodgeException($"the size of {file} is missing, as in: lodge image create {file} 20G", ExitStatus.Usage))
            {
                Options = target.Options,
                Secret = target.KeyId is null ? location.Options.Secret : shared.Secret(parsed, target.KeyId),
                AllowedFolders = allowed,
            };
            await using (NewImage image = await NewImage.CreateAsync(made, session.Cancellation).ConfigureAwait(false))
            {
                await image.CompleteAsync().ConfigureAwait(false);
            }
            string told = string.Concat(target.Options.Names.Select(name => $" {name}={target.Options.Text(name)}"));
            return shared.Quiet(parsed) ? 0 : ImageSession.Print($"Formatting '{file}', fmt={format.Name} size={made.Length}{told}");
        }));
        return command;
    }
}
