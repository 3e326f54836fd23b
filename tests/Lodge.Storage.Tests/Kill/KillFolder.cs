using System.Diagnostics;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Tests.Harness;

namespace Lodge.Storage.Tests.Kill;

/// <summary>The folder of a run with its files.</summary>
public sealed class KillFolder(string path, Random random, string program)
{
    public Random Random => random;

    /// <summary>Contents that the disks may have; what they are is the command's matter.</summary>
    public List<byte[]> Contents { get; } = [];

    public string this[string name] => Path.Combine(path, name);

    /// <summary>Fails the run.</summary>
    public void Require(bool condition, string what)
    {
        if (!condition)
        {
            throw new KillFailure(what);
        }
    }

    /// <summary>Fails if there are other files than these.</summary>
    public void RequireOnly(params string[] names)
    {
        var others = Directory.EnumerateFileSystemEntries(path).Select(Path.GetFileName).Except(names).ToArray();
        Require(others.Length == 0, $"left behind: {string.Join(", ", others)}");
    }

    public async Task CreateAsync(string name, string format, long length, string options)
    {
        var known = DiskFormats.Named(format);
        var given = options.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(option => option.Split('=')).Select(pair => KeyValuePair.Create(pair[0], pair[1]));
        await using var made = await NewImage.CreateAsync(new NewImageOptions(this[name], format, length) { Options = FormatOptions.Parse(known, given), Cache = CacheMode.Unsafe });
        await made.CompleteAsync();
    }

    /// <summary>Makes an image with content.</summary>
    public async Task<byte[]> MakeAsync(string name, string format, int length, string options = "")
    {
        await CreateAsync(name, format, length, options);
        await using var image = await OpenAsync(name, format, readOnly: false);
        return await FillAsync(image, new byte[image.Length]);
    }

    /// <summary>Writes here and there and gives what the disk then holds.</summary>
    public async Task<byte[]> FillAsync(IImage image, byte[] content)
    {
        for (var count = 0; count < 25; count++)
        {
            var bytes = new byte[random.Next(1, 400) * 1024];
            random.NextBytes(bytes);
            var at = random.Next(content.Length - bytes.Length);
            bytes.CopyTo(content, at);
            await image.WriteAsync(at, bytes);
        }

        return content;
    }

    public async Task<IImage> OpenAsync(string name, string format, bool readOnly = true, string? snapshot = null) =>
        await ImageOpener.OpenAsync(this[name], new ImageOpenOptions { Format = format, ReadOnly = readOnly, Snapshot = snapshot, Cache = CacheMode.Unsafe });

    /// <summary>Fails unless the disk has one of these contents.</summary>
    public async Task RequireContentAsync(string name, string format, params byte[][] contents)
    {
        await using var image = await OpenAsync(name, format);
        var read = await image.ReadBytesAsync(0, (int)Math.Min(image.Length, 64 << 20));
        Require(contents.Any(content => read.AsSpan().StartsWith(content) && !read.AsSpan(content.Length).ContainsAnyExcept((byte)0)), $"{name} has another content");
    }

    /// <summary>Checks by qemu-img.</summary>
    public void Check(string name, bool leaks = true, string format = "qcow2")
    {
        if (QemuImg.IsInstalled)
        {
            var (status, output) = QemuImg.RunProgramIn(path, "qemu-img", "check", "-f", format, name);
            Require(status == 0 || (leaks && status == 3), $"qemu-img check of {name} ended with {status}: {output.Trim()}");
        }
    }

    /// <summary>Checks by Lodge, where the format has a check.</summary>
    public void CheckOurs(string name, string format)
    {
        var (status, output) = QemuImg.RunProgramIn(path, program, "image", "check", "-f", format, name);
        Require(status is 0 or 3 or 63, $"lodge image check of {name} ended with {status}: {output.Trim()}");
    }

    /// <summary>Frees leaks; nothing is left.</summary>
    public void Repair()
    {
        var (status, output) = QemuImg.RunProgramIn(path, program, "image", "check", "-f", "qcow2", "-r", "leaks", "disk");
        Require(status == 0, $"lodge image check -r leaks ended with {status}: {output.Trim()}");
        Check("disk", leaks: false);
    }

    /// <summary>Runs the command; killed after so many microseconds, or to its end.</summary>
    /// <returns>Whether it was killed.</returns>
    public async Task<bool> RunAsync(string arguments, long? microseconds)
    {
        var start = new ProcessStartInfo(program) { WorkingDirectory = path, RedirectStandardError = true, RedirectStandardOutput = true, RedirectStandardInput = true };
        start.ArgumentList.Add("image");
        foreach (var argument in arguments.Split(' '))
        {
            start.ArgumentList.Add(argument == "''" ? "" : argument);
        }

        var watch = Stopwatch.StartNew();
        using var process = Process.Start(start)!;
        var output = process.StandardError.ReadToEndAsync();
        var other = process.StandardOutput.ReadToEndAsync();
        if (microseconds is { } most)
        {
            while (watch.Elapsed.TotalMicroseconds < most && !process.HasExited)
            {
                await Task.Delay(1);
            }

            process.Kill();
        }

        await process.WaitForExitAsync();
        Require(process.ExitCode == 0 || (microseconds is not null && process.ExitCode is 137 or 9), $"lodge image {arguments} ended with {process.ExitCode}: {await output}");
        await other;
        return process.ExitCode != 0;
    }
}

/// <summary>What a killed process left is not as it should be.</summary>
public sealed class KillFailure(string message) : Exception(message);
