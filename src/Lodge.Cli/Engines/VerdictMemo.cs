using System.Globalization;
using Lodge.Management;
using Lodge.Management.Host;

namespace Lodge.Cli.Engines;

/// <summary>
/// What was last found out about KVM, for as long as the host has not been started again, KVM's modules were not loaded again and Lodge is the same: then neither kernel nor
/// processor need to be looked at. A file beside the cache of the probe.
/// </summary>
internal sealed class VerdictMemo
{
    private const string FileName = "kvm-verdict";
    private readonly string? _path;
    private readonly string _stamp;

    /// <summary>Looks at what the verdict holds for.</summary>
    public VerdictMemo()
    {
        try
        {
            FileInfo device = new("/dev/kvm");
            _stamp = string.Create(
                CultureInfo.InvariantCulture,
                $"{File.ReadAllText("/proc/sys/kernel/random/boot_id").Trim()} {(device.Exists ? device.CreationTimeUtc.Ticks : 0)} {Program.Version} {typeof(VerdictMemo).Module.ModuleVersionId}");
            _path = Path.Combine(HostFolders.Cache, FileName);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ManagementException)
        {
            _stamp = "";
        }
    }

    /// <summary>Why KVM cannot run a kernel; null when that is not known, or it can.</summary>
    public string? Problem()
    {
        try
        {
            if (_path is null || !File.Exists(_path))
            {
                return null;
            }
            string[] lines = File.ReadAllLines(_path);
            return lines.Length == 2 && lines[0] == _stamp && lines[1].Length != 0 ? lines[1] : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>Keeps why KVM cannot run a kernel. Where that cannot be done it is found out each time.</summary>
    public void Keep(string problem)
    {
        try
        {
            if (_path is not null && !problem.Contains('\n', StringComparison.Ordinal))
            {
                AtomicFile.Write(_path, $"{_stamp}\n{problem}\n");
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // As if there were no cache.
        }
    }
}
