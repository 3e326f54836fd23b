using System.Globalization;
using System.Text;

namespace Lodge.Engine.Kvm.Probing;

/// <summary>
/// Keeps a verdict in one file, so that a host is probed once and not at each start. What it depends on is part of the file; another host, or a file that is damaged,
/// is as if there were none. The file is replaced whole.
/// </summary>
/// <param name="path">The file.</param>
/// <param name="identity">What the verdict depends on besides what is tried: kernel, processor, KVM's modules, Lodge.</param>
public sealed class ProbeCache(string path, string identity)
{
    private const string Title = "lodge kvm probe 1";
    private const int MaximumLength = 64 << 10, MaximumResults = 256;

    private readonly string _key = Digest($"{identity}\n{KvmProbe.Fingerprint}");

    /// <summary>The kept verdict, or null.</summary>
    public ProbeReport? Read()
    {
        try
        {
            var info = new FileInfo(path);
            return info.Exists && info.Length <= MaximumLength ? Parse(File.ReadAllText(path)) : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException)
        {
            return null;
        }
    }

    /// <summary>Keeps a verdict. Where that cannot be done the next start probes again.</summary>
    public void Write(ProbeReport report)
    {
        string temporary = $"{path}.{Environment.ProcessId}.{Environment.CurrentManagedThreadId}.new";
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            File.WriteAllText(temporary, Format(report));
            File.Move(temporary, path, overwrite: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            try
            {
                File.Delete(temporary);
            }
            catch (Exception again) when (again is IOException or UnauthorizedAccessException)
            {
                // It was not made, or the folder is gone.
            }
        }
    }

    private string Format(ProbeReport report)
    {
        StringBuilder text = new();
        text.Append(CultureInfo.InvariantCulture, $"{Title}\n{_key}\n{report.Time.ToUnixTimeMilliseconds()}\n{(long)report.Duration.TotalMicroseconds}\n");
        foreach (ProbeResult result in report.Results)
        {
            text.Append($"{result.Outcome}\t{Word(result.Name)}\t{Word(result.Purpose)}\t{Word(result.Detail)}\n");
        }
        return text + Digest(text.ToString()) + "\n";
    }

    private ProbeReport? Parse(string text)
    {
        int end = text.Length - 1, last = end > 0 && text[end] == '\n' ? text.LastIndexOf('\n', end - 1) : -1;
        if (last < 0 || text[(last + 1)..end] != Digest(text[..(last + 1)]))
        {
            return null;
        }
        string[] lines = text[..last].Split('\n');
        if (lines.Length is < 5 or > MaximumResults || lines[0] != Title || lines[1] != _key
            || !long.TryParse(lines[2], NumberStyles.None, CultureInfo.InvariantCulture, out long time) || time > DateTimeOffset.MaxValue.ToUnixTimeMilliseconds()
            || !long.TryParse(lines[3], NumberStyles.None, CultureInfo.InvariantCulture, out long duration) || duration > int.MaxValue)
        {
            return null;
        }
        List<ProbeResult> results = [];
        foreach (string line in lines.Skip(4))
        {
            if (line.Split('\t') is not [{ } outcome, { } name, { } purpose, { } detail] || !Enum.TryParse(outcome, out ProbeOutcome known) || !Enum.IsDefined(known))
            {
                return null;
            }
            results.Add(new ProbeResult(name, purpose, known, detail));
        }
        return new ProbeReport(results, DateTimeOffset.FromUnixTimeMilliseconds(time), TimeSpan.FromMicroseconds(duration));
    }

    private static string Word(string text) => text.Replace('\t', ' ').Replace('\n', ' ').Replace('\r', ' ');

    private static string Digest(string text)
    {
        ProbeDigest digest = new();
        digest.Add(text);
        return digest.ToString();
    }
}
