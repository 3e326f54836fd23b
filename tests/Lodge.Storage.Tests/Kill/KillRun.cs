using System.Diagnostics;
using System.Text.RegularExpressions;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Tests.Harness;

namespace Lodge.Storage.Tests.Kill;

/// <summary>What came of one killed writer.</summary>
/// <param name="Completed">Requests that it had acknowledged.</param>
/// <param name="Flushes">Acknowledgements after which something must be durable.</param>
/// <param name="Leaks">Whether a check found leaked room.</param>
/// <param name="Failure">What is wrong, or null.</param>
public sealed record KillResult(int Completed, int Flushes, bool Leaks, string? Failure);

/// <summary>One writer: it gets an image, is killed at a random moment, and the image is looked at.</summary>
public sealed class KillRun(KillCase kind, int seed)
{
    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "Lodge.Storage.Tests");
    private const int LongestMilliseconds = 3000;
    private readonly Random _random = new(seed);
    private string _image = "";

    /// <summary>Makes the image in a folder of its own, and removes it unless something is wrong and <paramref name="keep"/> is given.</summary>
    public async Task<KillResult> RunAsync(string? keep = null)
    {
        var folder = Directory.CreateTempSubdirectory("lodge-kill-").FullName;
        string? failure = null;
        try
        {
            _image = Path.Combine(folder, "disk");
            KillModel? model = null;
            var leaks = false;
            try
            {
                var content = await kind.CreateAsync(folder, _random);
                long length;
                int unit;
                await using (var image = await kind.OpenAsync(_image, true))
                {
                    (length, unit) = (image.Length, image is ICompressedWrite compressed ? compressed.CompressionUnit : 512);
                }

                model = new KillModel(new KillPlan(kind, seed, unit), seed, content, length);
                model.Take(await KillAsync());
                leaks = await LookAsync(model);
            }
            catch (Exception found) when (found is DiskException or KillFailure or IOException)
            {
                failure = found is DiskException or KillFailure ? found.Message : found.ToString();
            }

            return new KillResult(model?.Completed ?? 0, model?.Flushes ?? 0, leaks, failure);
        }
        finally
        {
            if (failure is not null && keep is not null)
            {
                Directory.Move(folder, Path.Combine(keep, $"{kind.Name.Replace(' ', '-').Replace(",", "")}.{seed}"));
            }
            else
            {
                Directory.Delete(folder, recursive: true);
            }
        }
    }

    private static void Require(bool condition, string what)
    {
        if (!condition)
        {
            throw new KillFailure(what);
        }
    }

    private async Task<List<KillRecord>> KillAsync()
    {
        var cache = _random.Next(4) == 0 ? CacheMode.None : CacheMode.WriteBack;
        var closesAfter = _random.Next(6) == 0 ? _random.Next(1, 60) : 0;
        var start = new ProcessStartInfo(Program, ["kill-writer", kind.Name, _image, seed.ToString(), cache.ToString(), closesAfter.ToString()])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            RedirectStandardInput = true,
        };

        // Small and soon compiled: it lives for a fraction of a second.
        start.Environment["DOTNET_TieredPGO"] = "0";
        start.Environment["DOTNET_gcServer"] = "0";
        start.Environment["DOTNET_gcConcurrent"] = "0";
        using var process = Process.Start(start)!;
        var error = process.StandardError.ReadToEndAsync();
        var bytes = new byte[1 << 16];
        using var received = new MemoryStream();
        var pipe = process.StandardOutput.BaseStream;

        // So many messages, and then a moment; time only bounds it.
        var most = KillRecord.Size * (int)double.Exp2(1 + (_random.NextDouble() * 11.5));
        using var timeout = new CancellationTokenSource();
        try
        {
            while (received.Length < most)
            {
                var count = await pipe.ReadAsync(bytes, timeout.Token);
                if (count == 0)
                {
                    break;
                }

                if (received.Length == 0)
                {
                    timeout.CancelAfter(LongestMilliseconds);
                }

                received.Write(bytes, 0, count);
            }
        }
        catch (OperationCanceledException)
        {
        }

        var moment = Stopwatch.StartNew();
        var microseconds = _random.Next(3) == 0 ? 0 : _random.Next(3000);
        while (moment.Elapsed.TotalMicroseconds < microseconds)
        {
            Thread.SpinWait(20);
        }

        process.Kill();
        int last;
        while ((last = await pipe.ReadAsync(bytes)) > 0)
        {
            received.Write(bytes, 0, last);
        }

        await process.WaitForExitAsync();
        Require(process.ExitCode is 137 or 9, $"the writer ended by itself with {process.ExitCode}: {await error}");
        var all = received.ToArray();
        var records = Enumerable.Range(0, all.Length / KillRecord.Size).Select(index => KillRecord.Read(all.AsSpan(index * KillRecord.Size, KillRecord.Size))).ToList();
        Require(records.TrueForAll(record => record.Event != KillEvent.Failed), $"a request failed: {await error}");
        return records;
    }

    /// <summary>Looks at what the killed writer left; whether there were leaks.</summary>
    private async Task<bool> LookAsync(KillModel model)
    {
        var qemuFirst = _random.Next(2) == 0;
        var leaks = false;
        if (qemuFirst && !kind.Lazy)
        {
            leaks |= Check("after the kill", leaksAllowed: true);
        }

        // At once for writing: no lock is left. With lazy refcounts this rebuilds them.
        await using (var image = await kind.OpenAsync(_image, false))
        {
            await CompareAsync(image, model, "opened for writing");
            leaks |= await CheckAsync(image, CheckRepair.None, "opened for writing");
        }

        if (!qemuFirst || kind.Lazy)
        {
            leaks |= Check("after it was opened", leaksAllowed: true);
        }

        await CompareSnapshotsAsync(model);

        // It goes on: a block is written and the leaks are freed, and nothing else changes.
        var block = new byte[4096];
        _random.NextBytes(block);
        var at = 0L;
        var forCheck = _random.Next(2) == 0;
        await using (var image = await kind.OpenAsync(_image, false, checking: forCheck))
        {
            if (image.Length >= block.Length)
            {
                at = _random.NextInt64(image.Length - block.Length + 1) / 512 * 512;
                await image.WriteAsync(at, block);
            }

            if (image is ICheck check)
            {
                var result = await check.CheckAsync(CheckRepair.Leaks);
                Require(result.Corruptions == 0, $"the check after another write found: {string.Join("; ", result.Messages)}");
            }
        }

        Check("repaired", leaksAllowed: false);
        await using (var image = await kind.OpenAsync(_image, true))
        {
            await CheckAsync(image, CheckRepair.None, "repaired", leaksAllowed: false);
            if (image.Length >= block.Length)
            {
                Require((await image.ReadBytesAsync(at, block.Length)).AsSpan().SequenceEqual(block), "what was written after the kill is not there");
            }

            await CompareAsync(image, model, "repaired", at, block.Length);
        }

        await CompareSnapshotsAsync(model);
        return leaks;
    }

    private async Task CompareAsync(IImage image, KillModel model, string when, long except = -1, int exceptLength = 0)
    {
        Require(model.Lengths.Contains(image.Length), $"{when}: the disk has {image.Length} bytes, not {string.Join(" or ", model.Lengths)}");
        string? wrong;
        if (image.Length <= KillPlan.Large)
        {
            var content = await image.ReadBytesAsync(0, (int)image.Length);
            wrong = model.Compare(content, except, exceptLength);
        }
        else
        {
            wrong = await model.CompareAsync(async sector => sector * 512 < except + exceptLength && (sector + 1) * 512 > except ? null : await image.ReadBytesAsync(sector * 512, 512));
        }

        Require(wrong is null, $"{when}: {wrong}");
    }

    private async Task CompareSnapshotsAsync(KillModel model)
    {
        if (!kind.Snapshots)
        {
            return;
        }

        string[] names;
        await using (var image = await kind.OpenAsync(_image, true))
        {
            names = [.. ((ISnapshots)image).Snapshots.Select(snapshot => snapshot.Name)];
        }

        var (must, may) = model.SnapshotNames();
        Require(must.IsSubsetOf(names), $"the snapshots {string.Join(", ", must.Except(names))} are lost");
        Require(may.IsSupersetOf(names), $"the snapshots {string.Join(", ", names.Except(may))} were deleted");
        foreach (var name in names)
        {
            await using var image = await kind.OpenAsync(_image, true, snapshot: name);
            var wrong = model.CompareSnapshot(name, await image.ReadBytesAsync(0, (int)image.Length));
            Require(wrong is null, wrong ?? "");
        }
    }

    private static async Task<bool> CheckAsync(IImage image, CheckRepair repair, string when, bool leaksAllowed = true)
    {
        if (image is not ICheck check)
        {
            return false;
        }

        var result = await check.CheckAsync(repair);
        Require(
            result.Corruptions == 0 && result.CheckErrors == 0 && (leaksAllowed || result.Leaks == 0),
            $"{when}: our check finds {result.Corruptions} corruptions, {result.Leaks} leaks: {string.Join("; ", result.Messages.Take(5))}");
        return result.Leaks > 0;
    }

    private bool Check(string when, bool leaksAllowed)
    {
        if (!kind.QemuChecks || !QemuImg.IsInstalled)
        {
            return false;
        }

        // In the image's folder: QEMU takes the name of an external data file as relative to where it runs.
        string[] arguments = kind.Encrypted
            ? ["check", "--object", "secret,id=s,data=" + KillCase.Secret, "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename=" + _image]
            : ["check", "-f", kind.Format, _image];
        var (status, output) = QemuImg.RunProgramIn(Path.GetDirectoryName(_image)!, "qemu-img", arguments);
        if (leaksAllowed && kind.Format == "vhdx" && output.Contains("contains a log that needs to be replayed", StringComparison.Ordinal))
        {
            // As the format means it: whoever opens it for writing does.
            return false;
        }

        if (leaksAllowed && kind.MayOvercount && OnlyOvercounts(output))
        {
            return true;
        }

        Require(status == 0 || (leaksAllowed && status == 3) || status == 63, $"{when}: qemu-img check ended with {status}: {output.Trim()}");
        return status == 3;
    }

    /// <summary>Whether all that a check of a VDI says is that the header counts more blocks than the map: the kernel may cut the one write of both in two.</summary>
    private static bool OnlyOvercounts(string output) =>
        Regex.Match(output, "allocated blocks mismatch, is ([0-9]+), should be ([0-9]+)") is { Success: true } match
        && int.Parse(match.Groups[1].Value) < int.Parse(match.Groups[2].Value) && output.Contains("1 errors were found", StringComparison.Ordinal);
}
