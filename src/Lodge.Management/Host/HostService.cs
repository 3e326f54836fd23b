using System.Text;

namespace Lodge.Management.Host;

/// <summary>The systemd unit that starts a host's machines with it and stops them before it goes down (systemd.service(5)).</summary>
/// <param name="ofUser">Whether it is a user's own unit rather than the host's.</param>
public sealed class HostService(bool ofUser)
{
    /// <summary>The unit's name.</summary>
    public const string Unit = "lodge-machines.service";

    // Variables on which it depends where Lodge finds machines and images.
    private static readonly string[] Variables = ["HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"];

    /// <summary>The unit's file.</summary>
    /// <exception cref="ManagementException">There is no home directory.</exception>
    public string Path => System.IO.Path.Combine(ofUser ? HostFolders.Configuration : "/etc", "systemd", ofUser ? "user" : "system", Unit);

    /// <summary>The unit's text.</summary>
    /// <param name="command">How lodge is started: absolute path, and arguments before its own.</param>
    /// <param name="environment">Gives the values of environment variables.</param>
    public string Text(IReadOnlyList<string> command, Func<string, string?> environment)
    {
        string lodge = string.Join(' ', command.Select(word => Quote(word.Replace("$", "$$", StringComparison.Ordinal))));
        StringBuilder text = new();
        text.Append("# Written by 'lodge host install'; 'lodge host uninstall' removes it.\n");
        text.Append("[Unit]\nDescription=Virtual machines of Lodge that start with the host\n");
        if (!ofUser)
        {
            text.Append("Wants=network-online.target\nAfter=network-online.target nss-lookup.target local-fs.target remote-fs.target time-sync.target\n");
        }
        text.Append("\n[Service]\nType=oneshot\nRemainAfterExit=yes\n");
        foreach (string name in Variables)
        {
            if (environment(name) is { Length: > 0 } value)
            {
                text.Append($"Environment={Quote($"{name}={value}")}\n");
            }
        }
        text.Append($"ExecStart={lodge} start --autostart\nExecStop={lodge} stop --all\n");
        // Machines have control groups of their own; a user's must lie in one that is delegated.
        text.Append("Delegate=yes\nKillMode=mixed\nTimeoutStartSec=infinity\nTimeoutStopSec=180\n");
        text.Append($"\n[Install]\nWantedBy={(ofUser ? "default.target" : "multi-user.target")}\n");
        return text.ToString();
    }

    /// <summary>Writes the unit and turns it on: machines with autostart are started now and with the host.</summary>
    /// <param name="command">How lodge is started.</param>
    /// <returns>Lines for the user.</returns>
    /// <exception cref="ManagementException">The host has no systemd, or refuses.</exception>
    public IReadOnlyList<string> Install(IReadOnlyList<string> command)
    {
        RequireRight("install");
        HostProgram.Require("systemctl", "systemd");
        try
        {
            Directory.CreateDirectory(System.IO.Path.GetDirectoryName(Path)!);
            AtomicFile.Write(Path, Text(command, Environment.GetEnvironmentVariable));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException($"the unit cannot be written to {Path}: {e.Message}", e);
        }
        if (!Directory.Exists("/run/systemd/system"))
        {
            Control("enable");
            return [$"wrote {Path}", "systemd does not run here; machines with autostart are started when the host starts by it"];
        }
        Control("daemon-reload");
        Control("enable", "--now");
        return ofUser
            ? [$"wrote {Path}", $"machines with autostart start when you log in; with the host: loginctl enable-linger {Environment.UserName}"]
            : [$"wrote {Path}", "machines with autostart start with the host"];
    }

    /// <summary>Turns the unit off and removes it. Machines that run go on.</summary>
    /// <exception cref="ManagementException">It is not there, or the host refuses.</exception>
    public IReadOnlyList<string> Uninstall()
    {
        RequireRight("uninstall");
        if (!File.Exists(Path))
        {
            throw new ManagementException($"it is not installed: there is no {Path}");
        }
        HostProgram.Require("systemctl", "systemd");
        Control("disable");
        try
        {
            File.Delete(Path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException($"{Path} cannot be removed: {e.Message}", e);
        }
        if (Directory.Exists("/run/systemd/system"))
        {
            Control("daemon-reload");
        }
        return [$"removed {Path}; machines that run go on"];
    }

    private void RequireRight(string verb)
    {
        if (!ofUser && !Environment.IsPrivilegedProcess)
        {
            throw new ManagementException($"the host's own unit needs root: sudo lodge host {verb}; for your machines alone: lodge host {verb} --user");
        }
    }

    private void Control(string action, params string[] more)
    {
        (int status, string error) = HostProgram.Run("systemctl", [.. ofUser ? ["--user"] : Array.Empty<string>(), action, .. more, .. action == "daemon-reload" ? Array.Empty<string>() : [Unit]]);
        if (status != 0)
        {
            throw new ManagementException($"systemctl {action} failed: {(error.Length == 0 ? $"status {status}" : error)}");
        }
    }

    /// <summary>A word of a command line or assignment (systemd.syntax(7), "Quoting"; what begins a specifier is written twice).</summary>
    private static string Quote(string word)
    {
        string text = word.Replace("\\", "\\\\", StringComparison.Ordinal).Replace("\"", "\\\"", StringComparison.Ordinal).Replace("%", "%%", StringComparison.Ordinal)
            .Replace("\n", "\\n", StringComparison.Ordinal);
        return text.All(c => char.IsAsciiLetterOrDigit(c) || c is '/' or '.' or '-' or '_' or '=' or ':' or '%') ? text : $"\"{text}\"";
    }
}
