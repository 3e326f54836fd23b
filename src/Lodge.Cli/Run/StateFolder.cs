namespace Lodge.Cli.Run;

/// <summary>What is kept with a named machine between its runs: <c>$XDG_STATE_HOME/lodge/NAME</c>, by default under <c>~/.local/state</c>.</summary>
internal static class StateFolder
{
    /// <summary>The folder of a machine, made when it is not there; null when there is no place for it.</summary>
    /// <exception cref="LodgeException">It cannot be made.</exception>
    public static string? Of(string name)
    {
        string? root = Environment.GetEnvironmentVariable("XDG_STATE_HOME");
        if (string.IsNullOrEmpty(root) || !Path.IsPathRooted(root))
        {
            string? home = Environment.GetEnvironmentVariable("HOME");
            if (string.IsNullOrEmpty(home) || !Path.IsPathRooted(home))
            {
                return null;
            }
            root = Path.Combine(home, ".local", "state");
        }
        string folder = Path.Combine(root, "lodge", name);
        try
        {
            Directory.CreateDirectory(folder);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LodgeException($"the state of machine '{name}' cannot be kept in '{folder}': {e.Message}; set XDG_STATE_HOME to a writable directory");
        }
        return folder;
    }
}
