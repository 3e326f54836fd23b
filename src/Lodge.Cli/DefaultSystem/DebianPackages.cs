using System.Formats.Tar;
using System.Globalization;

namespace Lodge.Cli.DefaultSystem;

/// <summary>A package as apt knows it.</summary>
/// <param name="Name">Package name.</param>
/// <param name="Version">Candidate version.</param>
/// <param name="Size">Bytes of the .deb.</param>
/// <param name="Depends">Names of the packages it depends on, first alternatives only.</param>
internal sealed record DebianPackage(string Name, string Version, long Size, IReadOnlyList<string> Depends)
{
    /// <summary>Parses what <c>apt-cache show</c> prints for one package; null when there is none.</summary>
    public static DebianPackage? Parse(string text)
    {
        string? name = null, version = null;
        long size = 0;
        string[] depends = [];
        foreach (string line in text.Split('\n'))
        {
            if (line.Length == 0 && name is not null)
            {
                break;
            }
            int colon = line.IndexOf(": ", StringComparison.Ordinal);
            if (colon <= 0 || line[0] == ' ')
            {
                continue;
            }
            string value = line[(colon + 2)..].Trim();
            switch (line[..colon])
            {
                case "Package":
                    name = value;
                    break;
                case "Version":
                    version = value;
                    break;
                case "Size":
                    _ = long.TryParse(value, CultureInfo.InvariantCulture, out size);
                    break;
                case "Depends":
                    depends = [.. value.Split(',').Select(d => d.Split('|')[0].Trim().Split(' ', ':')[0])];
                    break;
            }
        }
        return name is null || version is null ? null : new DebianPackage(name, version, size, depends);
    }
}

/// <summary>
/// Fetches packages through the host's apt, with its sources, proxies and keys, into a directory; nothing is installed and the host's apt
/// state is only read. When the host has no package lists (or outdated ones), lists of our own are fetched beside the cache.
/// </summary>
internal sealed class DebianPackages(string workDirectory, FetchProgress progress)
{
    private readonly List<string> _options = ["-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2"];
    private bool _ownLists;

    /// <summary>Looks packages up, fetching package lists when the host has none.</summary>
    /// <exception cref="LodgeException">The host has no apt, or none of the names is known.</exception>
    public DebianPackage Find(params string[] names)
    {
        if (!HostProgram.Exists("apt-get") || !HostProgram.Exists("apt-cache") || !HostProgram.Exists("dpkg-deb"))
        {
            throw new LodgeException("the default system is fetched with apt-get, which this host does not have; give a kernel with --kernel (and --initrd)");
        }
        if ((TryFind(names) ?? (UpdateOwnLists() ? TryFind(names) : null)) is { } package)
        {
            return package;
        }
        throw new LodgeException($"apt knows no package {string.Join(" or ", names.Select(n => $"'{n}'"))}; check /etc/apt/sources.list, or give a kernel with --kernel");
    }

    /// <summary>Fetches a package, verified by apt against the signed lists.</summary>
    /// <returns>Path of the .deb.</returns>
    public string Download(DebianPackage package)
    {
        string error = TryDownload(package);
        if (error.Length != 0 && UpdateOwnLists())
        {
            // The host's lists name a version that the archive no longer has: look again with fresh ones.
            package = TryFind([package.Name]) ?? package;
            error = TryDownload(package);
        }
        if (error.Length != 0)
        {
            throw new LodgeException($"package '{package.Name}' {package.Version} cannot be fetched: {error}; check the network, or give a kernel with --kernel");
        }
        return Directory.EnumerateFiles(workDirectory, $"{package.Name}_*.deb").First();
    }

    /// <summary>Goes through the files of a .deb.</summary>
    public static void ReadFiles(string deb, Action<string, Func<byte[]>> file)
    {
        (int status, string error) = HostProgram.Run("dpkg-deb", ["--fsys-tarfile", deb], null, stream =>
        {
            using TarReader tar = new(stream, leaveOpen: true);
            while (tar.GetNextEntry() is { } entry)
            {
                if (entry.EntryType is TarEntryType.RegularFile or TarEntryType.V7RegularFile)
                {
                    string name = entry.Name.StartsWith("./", StringComparison.Ordinal) ? entry.Name[2..] : entry.Name;
                    file(name, () =>
                    {
                        using MemoryStream contents = new();
                        entry.DataStream?.CopyTo(contents);
                        return contents.ToArray();
                    });
                }
            }
        });
        if (status != 0)
        {
            throw new LodgeException($"package file '{deb}' cannot be unpacked: {error}");
        }
    }

    private DebianPackage? TryFind(string[] names)
    {
        foreach (string name in names)
        {
            if (HostProgram.Text("apt-cache", [.. _options, "show", "--no-all-versions", name]) is { } text && DebianPackage.Parse(text) is { } package)
            {
                return package;
            }
        }
        return null;
    }

    private string TryDownload(DebianPackage package)
    {
        foreach (string old in Directory.EnumerateFiles(workDirectory, $"{package.Name}_*.deb"))
        {
            File.Delete(old);
        }
        using IDisposable task = progress.Begin($"Fetching {package.Name} {package.Version} ({package.Size / 1e6:F1} MB)");
        (int status, string error) = HostProgram.Run("apt-get", [.. _options, "-o", "APT::Status-Fd=1", "download", $"{package.Name}={package.Version}"], workDirectory, ReadStatus);
        if (status == 0 && Directory.EnumerateFiles(workDirectory, $"{package.Name}_*.deb").Any())
        {
            return "";
        }
        return error.Length == 0 ? $"apt-get ended with status {status}" : error;
    }

    private bool UpdateOwnLists()
    {
        if (_ownLists)
        {
            return false;
        }
        _ownLists = true;
        string lists = Path.Combine(workDirectory, "lists");
        string cache = Path.Combine(workDirectory, "cache");
        Directory.CreateDirectory(Path.Combine(lists, "partial"));
        Directory.CreateDirectory(Path.Combine(cache, "archives", "partial"));
        _options.AddRange(["-o", $"Dir::State::lists={lists}", "-o", $"Dir::Cache={cache}"]);
        using IDisposable task = progress.Begin("Fetching package lists");
        (int status, string error) = HostProgram.Run("apt-get", [.. _options, "-o", "APT::Status-Fd=1", "update"], workDirectory, ReadStatus);
        if (status != 0 && !Directory.EnumerateFiles(lists, "*Packages*").Any())
        {
            throw new LodgeException($"package lists cannot be fetched: {(error.Length == 0 ? $"apt-get ended with status {status}" : error)}; check the network, or give a kernel with --kernel");
        }
        return true;
    }

    /// <summary>Reads apt's status lines: <c>dlstatus:count:percent:text</c> (apt's doc, progress-reporting).</summary>
    private void ReadStatus(Stream stream)
    {
        using StreamReader reader = new(stream, leaveOpen: true);
        while (reader.ReadLine() is { } line)
        {
            string[] parts = line.Split(':', 4);
            if (parts.Length >= 3 && parts[0] == "dlstatus" && double.TryParse(parts[2], CultureInfo.InvariantCulture, out double percent))
            {
                progress.Report(percent);
            }
        }
    }
}
