using System.Diagnostics;
using System.Text.RegularExpressions;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>
/// Makes out of a built Debian with cloud-init what a distribution's cloud image is: without Lodge's command service and login, started with its initial RAM disk
/// from a virtio disk.
/// </summary>
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

    /// <summary>Copies an image in the store under another name.</summary>
    public static void Make(string image, string copy, string name)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
        Run("cp", "--recursive", "--sparse=always", "--reflink=auto", image, copy);
        Change(copy, ("name", $"\"{name}\""), ("tag", "\"latest\""), ("hasCommandService", "false"), ("hasCloudInit", "true"), ("bootsWithoutInitrd", "false"));
        string commands = Path.Combine(copy, ".commands");
        File.WriteAllLines(commands, OfLodge.Select(path => $"rm {path}"));
        // The root file system begins at 1 MiB.
        string disk = Path.Combine(copy, "disk.raw") + "?offset=1048576";
        Run("debugfs", "-w", "-f", commands, disk);
        File.Delete(commands);
        Assert.DoesNotContain("lodge", Run("debugfs", "-R", "ls /etc/systemd/system/serial-getty@hvc0.service.d", disk));
        Assert.DoesNotContain("command", Run("debugfs", "-R", "ls /usr/lib/lodge", disk));
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
