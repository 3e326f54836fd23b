using Lodge.Management.Host;
using Lodge.Management.Machines;
using Lodge.Management.Sandbox;

namespace Lodge.Cli.Machines;

/// <summary>The sandbox of a machine that runs, as <c>lodge show</c> tells of it: what the host's kernel says, not the machine's process.</summary>
internal static class SandboxText
{
    /// <summary>One line; null when it is not known.</summary>
    public static string? Of(MachineReport report)
    {
        if (report.Definition?.Option("no-sandbox") == "true")
        {
            return "none (--no-sandbox)";
        }
        if (report.Process is not { } process || !HostSystem.IsFiltered(process))
        {
            return report.State == MachineStates.Starting ? null : "none";
        }
        List<string> parts = [];
        if (HostOwner.Of(Path.Combine(report.Folder, "work")) is { } user && MachineUser.IsOne(user))
        {
            parts.Add($"user {user}");
        }
        parts.Add(ProcessSeal.Landlock switch
        {
            (true, true) => "files and signals (Landlock)",
            (true, false) => "files (Landlock)",
            _ => "no Landlock in this kernel",
        });
        parts.Add("system calls (seccomp)");
        return string.Join(", ", parts);
    }

    private static class HostSystem
    {
        /// <summary>Whether a process has a filter of system calls (proc_pid_status(5)).</summary>
        public static bool IsFiltered(int process)
        {
            try
            {
                return File.ReadLines($"/proc/{process}/status").Any(line => line.StartsWith("Seccomp:", StringComparison.Ordinal) && line.EndsWith('2'));
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                return false;
            }
        }
    }
}
