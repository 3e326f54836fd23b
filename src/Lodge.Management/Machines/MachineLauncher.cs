using System.IO.Pipes;
using System.Text;
using Lodge.Management.Host;
using Lodge.Management.Limits;
using Lodge.Management.Sandbox;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Machines;

/// <summary>Starts a machine's process and waits until it says that the guest runs, or why it does not.</summary>
public static class MachineLauncher
{
    /// <summary>The hidden verb of the machine's process.</summary>
    public const string Verb = "machine-process";

    /// <summary>What the process writes to <see cref="DetachedProcess.ReportDescriptor"/> when the guest runs.</summary>
    public const string Started = "started\n";

    /// <summary>Argument of the process: the journal's descriptor.</summary>
    public const string JournalArgument = "--journal=";

    /// <summary>Argument of the process: a pipe from which it reads a byte before it does anything.</summary>
    public const string GateArgument = "--gate=";

    private const int LongestReport = 1 << 16;

    /// <summary>Starts it; nobody else may be changing the machine.</summary>
    /// <param name="machine">The machine.</param>
    /// <param name="arguments">More arguments of the process.</param>
    /// <param name="confinement">What the process is born with; null: nothing.</param>
    /// <param name="group">The control group that it is in before it does anything; null: that of this process.</param>
    /// <param name="handed">Open files that it gets, each group under an argument to which their numbers are added.</param>
    /// <param name="tell">Gets lines for the user.</param>
    /// <exception cref="ManagementException">It runs already or cannot be started.</exception>
    public static void Start(
        MachineFolder machine, IReadOnlyList<string> arguments, Confinement? confinement, MachineGroup? group, IReadOnlyList<(string Argument, IReadOnlyList<SafeFileHandle> Files)> handed, Action<string> tell)
    {
        if (machine.IsRunning())
        {
            throw new ManagementException($"machine '{machine.Name}' runs already");
        }
        RemoveLeftovers(machine);
        string text;
        List<SafeFileHandle> files = [];
        try
        {
            Directory.CreateDirectory(machine.Work, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            HostSystemCalls.OpenUnlocked(machine.RunLock, create: true)!.Dispose(); // a confined process cannot make it
            using ConfinedThread? confined = confinement?.Prepare();
            using SafeFileHandle journalFile = new MachineJournal(Path.GetDirectoryName(machine.Path)!).OpenForAppending(), journal = HostSystemCalls.DuplicateHigh(journalFile);
            using AnonymousPipeServerStream go = new(PipeDirection.Out, HandleInheritability.None);
            using SafeFileHandle gate = HostSystemCalls.DuplicateHigh(go.ClientSafePipeHandle);
            go.DisposeLocalCopyOfClientHandle();
            List<string> words = [.. arguments];
            foreach ((string argument, IReadOnlyList<SafeFileHandle> all) in handed)
            {
                List<SafeFileHandle> copies = [];
                foreach (SafeFileHandle file in all)
                {
                    copies.Add(HostSystemCalls.DuplicateHigh(file));
                    files.Add(copies[^1]);
                }
                words.Add(argument + string.Join(',', copies.Select(copy => copy.DangerousGetHandle())));
            }
            (int process, SafeFileHandle report) = DetachedProcess.Start(
                [.. DetachedProcess.Self, Verb, machine.Path, $"{JournalArgument}{journal.DangerousGetHandle()}", $"{GateArgument}{gate.DangerousGetHandle()}", .. words],
                machine.ProcessLog, [journal, gate, .. files], confined);
            using FileStream stream = new(report, FileAccess.Read, 1);
            group?.Add(process);
            go.WriteByte(0);
            go.Dispose();
            text = ReadReport(stream);
        }
        catch (IOException e)
        {
            throw new ManagementException($"machine '{machine.Name}' cannot be started: {e.Message}", e);
        }
        finally
        {
            files.ForEach(static file => file.Dispose());
        }
        string[] lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        if (!text.EndsWith(Started, StringComparison.Ordinal))
        {
            string reason = lines is [.., { } last] ? last : $"its process ended without a word; see {machine.ProcessLog}";
            throw new ManagementException($"machine '{machine.Name}' cannot be started: {reason}");
        }
        foreach (string line in lines[..^1])
        {
            tell(line);
        }
    }

    /// <summary>Kills the process of a machine that does not answer, and waits until it has ended.</summary>
    /// <exception cref="ManagementException">It is not known, or cannot be killed.</exception>
    public static void Kill(MachineFolder machine)
    {
        const int kill = 9;
        if (machine.ReadStatus()?.Process is not { } process || !HostSystemCalls.Signal(process, kill, () => IsProcessOf(process, machine) && machine.IsRunning()))
        {
            throw new ManagementException($"the process of machine '{machine.Name}' cannot be killed; look for it: pgrep -f '{Verb} {machine.Path}'");
        }
        for (int i = 0; machine.IsRunning() && i < 500; i++)
        {
            Thread.Sleep(10);
        }
    }

    /// <summary>Whether a process is a machine's: what a guest that has taken its process over writes into the status file is not believed.</summary>
    private static bool IsProcessOf(int process, MachineFolder machine)
    {
        try
        {
            string[] words = File.ReadAllText($"/proc/{process}/cmdline").Split('\0');
            int verb = Array.IndexOf(words, Verb);
            return verb is 1 or 2 && verb + 1 < words.Length && words[verb + 1] == machine.Path;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>Files that a killed process left half written.</summary>
    private static void RemoveLeftovers(MachineFolder machine)
    {
        foreach (string left in new[] { machine.Path, machine.Work }.Where(Directory.Exists).SelectMany(folder => Directory.EnumerateFiles(folder, "*.new")))
        {
            File.Delete(left);
        }
        MachineDiskClone.RemoveLeftovers(machine);
    }

    private static string ReadReport(Stream stream)
    {
        using MemoryStream all = new();
        byte[] buffer = new byte[4096];
        for (int count; all.Length < LongestReport && (count = stream.Read(buffer)) != 0;)
        {
            all.Write(buffer, 0, count);
        }
        return Encoding.UTF8.GetString(all.ToArray());
    }
}
