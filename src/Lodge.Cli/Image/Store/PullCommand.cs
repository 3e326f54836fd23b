using System.CommandLine;
using Lodge.Cli.Console;
using Lodge.Cli.DefaultSystem;
using Lodge.Management;
using Lodge.Management.Images;

namespace Lodge.Cli.Image.Store;

/// <summary>The verb <c>image pull</c>: fetches an official cloud image.</summary>
internal static class PullCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string?> source = new("NAME") { Description = "For example ubuntu:noble, fedora, almalinux:9", Arity = ArgumentArity.ZeroOrOne };
        Option<string?> name = new("--name", "-t") { Description = "Name in the store [default: NAME]", HelpName = "NAME[:TAG]" };
        Option<string?> mirror = new("--mirror") { Description = "Address of a mirror in place of the distribution's site", HelpName = "URL" };
        Option<bool> unsigned = new("--no-signature") { Description = "Do not ask for the checksums' signature; HTTPS alone vouches for them" };
        Option<bool> list = new("--list") { Description = "List what can be pulled" };
        Command command = new("pull", "Fetch an official cloud image, its checksum and signature verified, into the local store") { source, name, mirror, unsigned, list };
        command.SetAction(parsed =>
        {
            if (parsed.GetValue(list))
            {
                HostFile.Write(HostFile.StandardOutput, System.Text.Encoding.UTF8.GetBytes(string.Concat(CloudImageCatalog.All.Select(image => $"{image.Name}\n"))));
                return 0;
            }
            string text = parsed.GetValue(source) ?? throw new LodgeException("which image? 'lodge image pull --list' shows them", ExitStatus.Usage);
            return Run(text, parsed.GetValue(name), parsed.GetValue(mirror), !parsed.GetValue(unsigned));
        });
        return command;
    }

    private static int Run(string source, string? name, string? mirror, bool signed)
    {
        CloudImage image = CloudImageCatalog.Find(ImageName.Parse(source));
        if (mirror is not null && !(Uri.TryCreate(mirror, UriKind.Absolute, out Uri? address) && address.Scheme is "http" or "https"))
        {
            throw new LodgeException($"mirror '{mirror}' is not an address; give http://... or https://...", ExitStatus.Usage);
        }
        ImageName stored = name is null ? image.Name : ImageName.Parse(name);
        FetchProgress progress = new();
        IDisposable? current = null;
        try
        {
            using HttpClient client = new();
            CloudImagePuller puller = new(
                client,
                text =>
                {
                    current?.Dispose();
                    current = progress.Begin(text);
                },
                progress.Report);
            StoredImage made = ImageStore.ForUser().AddAsync(stored, folder => puller.PullAsync(image, stored, mirror, signed, folder)).GetAwaiter().GetResult();
            if (made.KernelPath is null)
            {
                HostFile.Error($"lodge: no kernel was found in {made.Name} that Lodge can start directly; its disk can be used and converted");
            }
            HostFile.Write(HostFile.StandardOutput, System.Text.Encoding.UTF8.GetBytes($"{made.Name}\n"));
            return 0;
        }
        finally
        {
            current?.Dispose();
        }
    }
}
