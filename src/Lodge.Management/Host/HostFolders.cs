namespace Lodge.Management.Host;

/// <summary>Where Lodge keeps what belongs to one host: for a user under the XDG base directories, for root system-wide.</summary>
public static class HostFolders
{
    /// <summary>Images and machines: <c>$XDG_DATA_HOME/lodge</c> or <c>~/.local/share/lodge</c>; for root without XDG_DATA_HOME <c>/var/lib/lodge</c>.</summary>
    /// <exception cref="ManagementException">There is no home directory.</exception>
    public static string Data => Named("XDG_DATA_HOME", ".local/share", "/var/lib/lodge");

    /// <summary>What can be made again: <c>$XDG_CACHE_HOME/lodge</c> or <c>~/.cache/lodge</c>.</summary>
    /// <exception cref="ManagementException">There is no home directory.</exception>
    public static string Cache => Named("XDG_CACHE_HOME", ".cache", null);

    /// <summary>Settings of programs: <c>$XDG_CONFIG_HOME</c> or <c>~/.config</c>, without a folder of Lodge's.</summary>
    /// <exception cref="ManagementException">There is no home directory.</exception>
    internal static string Configuration => Path.GetDirectoryName(Named("XDG_CONFIG_HOME", ".config", null))!;

    private static string Named(string variable, string underHome, string? ofRoot)
    {
        string? root = Environment.GetEnvironmentVariable(variable);
        if (!string.IsNullOrEmpty(root) && Path.IsPathRooted(root))
        {
            return Path.Combine(root, "lodge");
        }
        if (ofRoot is not null && Environment.IsPrivilegedProcess)
        {
            return ofRoot;
        }
        string? home = Environment.GetEnvironmentVariable("HOME");
        return string.IsNullOrEmpty(home) || !Path.IsPathRooted(home)
            ? throw new ManagementException($"there is no place for images; set HOME or {variable}")
            : Path.Combine(home, underHome, "lodge");
    }
}
