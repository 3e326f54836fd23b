namespace Lodge.Management.CloudInit;

/// <summary>The public SSH keys of the host's user.</summary>
public static class SshKeys
{
    private const int LargestFile = 64 << 10;
    private const int MostFiles = 32;
    private static readonly string[] Kinds = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"];

    /// <summary>Keys in <c>FOLDER/*.pub</c> (sshd(8), AUTHORIZED_KEYS FILE FORMAT); none when the folder is not there or not readable.</summary>
    public static IReadOnlyList<string> Of(string folder)
    {
        List<string> keys = [];
        try
        {
            foreach (string file in Directory.EnumerateFiles(folder, "*.pub").Order(StringComparer.Ordinal).Take(MostFiles).Where(file => new FileInfo(file).Length <= LargestFile))
            {
                keys.AddRange(File.ReadLines(file).Select(line => line.Trim()).Where(line => Array.Exists(Kinds, kind => line.StartsWith(kind, StringComparison.Ordinal))));
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // A login by key is a convenience: the console needs none.
        }
        return [.. keys.Distinct()];
    }

    /// <summary>Keys of the user who runs this process.</summary>
    public static IReadOnlyList<string> OfUser() =>
        Environment.GetEnvironmentVariable("HOME") is { Length: > 0 } home ? Of(Path.Combine(home, ".ssh")) : [];
}
