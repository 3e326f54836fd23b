using System.CommandLine;
using System.CommandLine.Parsing;
using Lodge.Cli.Console;
using Lodge.Cli.DefaultSystem;
using Lodge.Management;
using Lodge.Management.Images;
using Lodge.Storage.Formats;

namespace Lodge.Cli.Image.Store;

/// <summary>The verb <c>image build</c>: makes an image from a distribution's packages.</summary>
internal static class BuildCommand
{
    private const long LeastSize = 1L << 30;

    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> source = new("SOURCE") { Description = "debian or debian:SUITE, for example debian:trixie" };
        Option<string?> name = new("--name", "-t") { Description = "Name in the store [default: SOURCE]", HelpName = "NAME[:TAG]" };
        Option<string?> mirror = new("--mirror") { Description = "Package mirror [default: that of the host]", HelpName = "URL" };
        Option<string?> size = new("--size") { Description = "Size of the disk [default: 8G]; its file is sparse", HelpName = "SIZE" };
        Option<string[]> packages = new("--package") { Description = "One more package; may be repeated", HelpName = "NAME" };
        Option<bool> cloudInit = new("--cloud-init") { Description = "Put cloud-init into it" };
        Command command = new("build", "Make an image from a distribution's packages (Debian); needs no root where the host allows user namespaces")
        {
            source, name, mirror, size, packages, cloudInit,
        };
        command.SetAction(parsed => Run(
            parsed.GetValue(source)!, parsed.GetValue(name), parsed.GetValue(mirror), parsed.GetValue(size), parsed.GetValue(packages) ?? [], parsed.GetValue(cloudInit)));
        return command;
    }

    private static int Run(string source, string? name, string? mirror, string? size, string[] packages, bool cloudInit)
    {
        ImageName from = ImageName.Parse(source);
        if (from.Name != "debian")
        {
            throw new LodgeException($"'{source}' cannot be built; debian and debian:SUITE can. 'lodge image pull {source}' fetches ready images", ExitStatus.Usage);
        }
        long bytes = DebianBuilder.DefaultSize;
        if (size is not null && (!FormatOptions.TryParseSize(size, out bytes) || bytes < LeastSize || bytes > 1L << 44))
        {
            throw new LodgeException($"size '{size}' is not usable for a disk with Debian; give 1G to 16T", ExitStatus.Usage);
        }
        if (packages.FirstOrDefault(package => package.Length == 0 || !package.All(c => char.IsAsciiLetterOrDigit(c) || c is '+' or '-' or '.' or ':')) is { } bad)
        {
            throw new LodgeException($"'{bad}' is not the name of a package", ExitStatus.Usage);
        }
        StoredImage image = Build(name is null ? from : ImageName.Parse(name), new DebianBuildOptions(from.Tag, mirror, bytes / 4096 * 4096, packages, cloudInit));
        HostFile.Write(HostFile.StandardOutput, System.Text.Encoding.UTF8.GetBytes($"{image.Name}\n"));
        return 0;
    }

    /// <summary>Builds an image with progress on standard error and stores it.</summary>
    public static StoredImage Build(ImageName name, DebianBuildOptions options)
    {
        FetchProgress progress = new();
        IDisposable? current = null;
        DebianBuilder builder = new(text =>
        {
            current?.Dispose();
            current = progress.Begin(text);
        });
        try
        {
            return ImageStore.ForUser().AddAsync(name, folder => Task.FromResult(builder.Build(name, options, folder))).GetAwaiter().GetResult();
        }
        finally
        {
            current?.Dispose();
        }
    }
}
