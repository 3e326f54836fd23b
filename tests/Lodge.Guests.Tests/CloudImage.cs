using System.Diagnostics;
using System.Security.Cryptography;
using System.Text.RegularExpressions;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>Makes out of a built Debian with cloud-init what a distribution's cloud image is: without Lodge's command service and login, to be fetched from a site.</summary>
internal static class CloudImage
{
    private static readonly string[] OfLodge =
    [
        "/etc/systemd/system/lodge-command.service", "/usr/lib/lodge/command", "/etc/systemd/system/serial-getty@hvc0.service.d/lodge.conf",
        "/etc/systemd/system/serial-getty@ttyS0.service.d/lodge.conf",
    ];

    /// <summary>Changes whether an image in the store has something, by its manifest.</summary>
    public static void Change(string image, params (string Property, string Value)[] changes)
    {
        string manifest = Path.Combine(image, "image.json");
        string text = File.ReadAllText(manifest);
        foreach ((string property, string value) in changes)
        {
            string changed = Regex.Replace(text, $"\"{property}\": [^,\n]*", $"\"{property}\": {value}");
            Assert.NotEqual(text, changed);
            text = changed;
        }
        File.WriteAllText(manifest, text);
    }

    /// <summary>Puts the image where Debian's site has its own.</summary>
    /// <param name="image">Folder of the built image.</param>
    /// <param name="site">Folder of the site.</param>
    /// <param name="convert">Converts a raw disk into a qcow2 one.</param>
    public static void Publish(string image, string site, Action<string, string> convert)
    {
        string folder = Directory.CreateDirectory(Path.Combine(site, "trixie", "latest")).FullName;
        string raw = Path.Combine(folder, "disk.raw"), commands = Path.Combine(folder, "commands");
        const string Name = "debian-13-genericcloud-amd64.qcow2";
        Run("cp", "--sparse=always", "--reflink=auto", Path.Combine(image, "disk.raw"), raw);
        File.WriteAllLines(commands, OfLodge.Select(path => $"rm {path}"));
        // The root file system begins at 1 MiB.
        string disk = raw + "?offset=1048576";
        Run("debugfs", "-w", "-f", commands, disk);
        Assert.DoesNotContain("lodge", Run("debugfs", "-R", "ls /etc/systemd/system/serial-getty@hvc0.service.d", disk));
        Assert.DoesNotContain("command", Run("debugfs", "-R", "ls /usr/lib/lodge", disk));
        convert(raw, Path.Combine(folder, Name));
        File.Delete(raw);
        using FileStream made = File.OpenRead(Path.Combine(folder, Name));
        File.WriteAllText(Path.Combine(folder, "SHA512SUMS"), $"{Convert.ToHexStringLower(SHA512.HashData(made))}  {Name}\n");
    }

    private static string Run(string program, params string[] arguments)
    {
        ProcessStartInfo start = new(program, arguments) { RedirectStandardError = true, RedirectStandardOutput = true };
        start.Environment["PATH"] += ":/usr/sbin:/sbin";
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"{program} ended with {process.ExitCode}: {error.Result}");
        return output;
    }
}
