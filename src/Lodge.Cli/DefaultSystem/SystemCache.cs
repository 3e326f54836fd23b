using System.Globalization;
using System.Text;
using System.Numerics;
using System.Runtime.InteropServices;
using Lodge.Cli.Console;

namespace Lodge.Cli.DefaultSystem;

/// <summary>The files of a default system.</summary>
/// <param name="Kernel">Path of the bzImage.</param>
/// <param name="Initramfs">Path of the uncompressed initramfs.</param>
internal sealed record SystemFiles(string Kernel, string Initramfs);

/// <summary>
/// The cache of default systems, <c>$XDG_CACHE_HOME/lodge</c> or <c>~/.cache/lodge</c>: a directory for each combination of package versions
/// and init script, made whole or not at all, and a file <c>default</c> that names the current one. A checksum over both files finds damage.
/// </summary>
internal sealed class SystemCache(string directory)
{
    private const string KernelFile = "vmlinuz";
    private const string InitramfsFile = "initramfs.cpio";
    private const string ManifestFile = "manifest";
    private const string Header = "lodge default system 1";

    /// <summary>The cache of this user.</summary>
    /// <exception cref="LodgeException">There is no home directory.</exception>
    public static SystemCache ForUser()
    {
        string? root = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
        if (string.IsNullOrEmpty(root) || !Path.IsPathRooted(root))
        {
            string? home = Environment.GetEnvironmentVariable("HOME");
            root = string.IsNullOrEmpty(home) || !Path.IsPathRooted(home)
                ? throw new LodgeException("there is no place for the default system; set HOME or XDG_CACHE_HOME")
                : Path.Combine(home, ".cache");
        }
        return new SystemCache(Path.Combine(root, "lodge"));
    }

    /// <summary>Returns the default system, making it first when it is missing, damaged or of another version of Lodge.</summary>
    /// <param name="make">Makes the system in an empty directory it is given (files vmlinuz and initramfs.cpio); returns what it is made of, which names it.</param>
    /// <exception cref="LodgeException">It cannot be made.</exception>
    public SystemFiles Get(Func<string, string> make)
    {
        if (Current() is { } files)
        {
            return files;
        }
        try
        {
            Directory.CreateDirectory(directory, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            using FileStream turn = WaitForTurn();
            return Current() ?? Make(make);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LodgeException($"the default system cannot be written to '{directory}': {e.Message}; set XDG_CACHE_HOME to a writable directory");
        }
    }

    /// <summary>The version of the scripts and of the list of modules, so that another version of Lodge makes a system of its own.</summary>
    private static string ScriptVersion =>
        Checksum([.. SystemImage.Script(), .. SystemImage.DhcpScript(), .. CloneProgram.File(), .. Encoding.ASCII.GetBytes(string.Join(' ', SystemImage.AllModules))]).ToString("x8", CultureInfo.InvariantCulture);

    private SystemFiles? Current()
    {
        try
        {
            return Named() is { } files && File.ReadAllText(Path.Combine(Path.GetDirectoryName(files.Kernel)!, ManifestFile)) == Manifest(files) ? files : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>The files that are the current system by their name, not looked into; null when there are none or it is another version's.</summary>
    public SystemFiles? Named()
    {
        string pointer = Path.Combine(directory, "default");
        if (!File.Exists(pointer))
        {
            return null;
        }
        try
        {
            string name = File.ReadAllText(pointer).Trim();
            if (name.Length == 0 || name.Contains('/', StringComparison.Ordinal) || !name.EndsWith(ScriptVersion, StringComparison.Ordinal))
            {
                return null;
            }
            string system = Path.Combine(directory, name);
            return new SystemFiles(Path.Combine(system, KernelFile), Path.Combine(system, InitramfsFile));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private SystemFiles Make(Func<string, string> make)
    {
        foreach (string leftover in Directory.EnumerateDirectories(directory).Where(IsSystem))
        {
            Directory.Delete(leftover, recursive: true); // running machines keep their files open
        }
        string work = Path.Combine(directory, $".new-{Environment.ProcessId}");
        Directory.CreateDirectory(work);
        try
        {
            string name = $"{make(work)}-{ScriptVersion}".Replace('/', '_');
            SystemFiles made = new(Path.Combine(work, KernelFile), Path.Combine(work, InitramfsFile));
            File.WriteAllText(Path.Combine(work, ManifestFile), Manifest(made));
            string final = Path.Combine(directory, name);
            Directory.Move(work, final);
            string pointer = Path.Combine(directory, $".default-{Environment.ProcessId}");
            File.WriteAllText(pointer, name + "\n");
            File.Move(pointer, Path.Combine(directory, "default"), overwrite: true);
            return new SystemFiles(Path.Combine(final, KernelFile), Path.Combine(final, InitramfsFile));
        }
        finally
        {
            if (Directory.Exists(work))
            {
                Directory.Delete(work, recursive: true);
            }
        }
    }

    /// <summary>Other things are cached beside the systems.</summary>
    private static bool IsSystem(string folder) =>
        Path.GetFileName(folder).StartsWith(".new-", StringComparison.Ordinal) || File.Exists(Path.Combine(folder, KernelFile)) || File.Exists(Path.Combine(folder, ManifestFile));

    private FileStream WaitForTurn()
    {
        for (bool told = false; ; Thread.Sleep(100))
        {
            try
            {
                return new FileStream(Path.Combine(directory, "lock"), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (File.Exists(Path.Combine(directory, "lock")))
            {
                if (!told)
                {
                    HostFile.Error("lodge: waiting for another lodge that makes the default system");
                    told = true;
                }
            }
        }
    }

    private static string Manifest(SystemFiles files) => $"{Header}\n{Line(files.Kernel)}{Line(files.Initramfs)}";

    private static string Line(string path)
    {
        byte[] contents = File.ReadAllBytes(path);
        return string.Create(CultureInfo.InvariantCulture, $"{Path.GetFileName(path)} {contents.Length} {Checksum(contents):x8}\n");
    }

    /// <summary>CRC-32C, against accidents.</summary>
    private static uint Checksum(ReadOnlySpan<byte> data)
    {
        uint crc = uint.MaxValue;
        ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(data);
        foreach (ulong word in words)
        {
            crc = BitOperations.Crc32C(crc, word);
        }
        foreach (byte b in data[(words.Length * 8)..])
        {
            crc = BitOperations.Crc32C(crc, b);
        }
        return ~crc;
    }
}
