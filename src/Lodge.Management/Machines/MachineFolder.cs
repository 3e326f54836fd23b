using System.Text.Json;
using Lodge.Management.Host;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Machines;

/// <summary>
/// The files of one machine, <c>FOLDER/NAME/</c>: all that Lodge keeps of it. What its own process makes, replaces and removes is in <c>work/</c>: there is nothing else that it can change, but for
/// what is on its disks.
/// </summary>
/// <param name="path">The folder.</param>
public sealed class MachineFolder(string path)
{
    private const int BetweenTries = 40;
    private static readonly TimeSpan BetweenPause = TimeSpan.FromMilliseconds(5);

    /// <summary>Where it is.</summary>
    public string Path => path;

    /// <summary>The machine's name.</summary>
    public string Name => System.IO.Path.GetFileName(path);

    /// <summary>The system disk.</summary>
    public string Disk => System.IO.Path.Combine(path, "disk.qcow2");

    /// <summary>The folder that the machine's process writes to.</summary>
    public string Work { get; init; } = System.IO.Path.Combine(path, "work");

    /// <summary>The file whose lock the machine's process holds.</summary>
    public string RunLock => System.IO.Path.Combine(path, "run.lock");

    /// <summary>What the guest printed on its console.</summary>
    public string ConsoleLog => System.IO.Path.Combine(Work, "console.log");

    /// <summary>Lines of the machine's process.</summary>
    public string ProcessLog => System.IO.Path.Combine(path, "lodge.log");

    /// <summary>The control socket.</summary>
    public string ControlSocket => System.IO.Path.Combine(Work, "control.sock");

    /// <summary>A saved machine, which the next start goes on with.</summary>
    public string Saved => System.IO.Path.Combine(Work, "saved.lodge");

    /// <summary>Folder with memory and state of the template where a machine's first start goes on; not there when it has started.</summary>
    public string Template => System.IO.Path.Combine(Work, "template");

    /// <summary>Is there as long as a clone's guest has not made keys and such of its own.</summary>
    public string FreshIdentity => System.IO.Path.Combine(Work, "fresh-identity");

    /// <summary>Snapshots, a folder each.</summary>
    public string Snapshots => System.IO.Path.Combine(Work, "snapshots");

    /// <summary>Whether there is such a folder.</summary>
    public bool Exists => Directory.Exists(path);

    private string DefinitionFile => System.IO.Path.Combine(path, "machine.json");

    private string StatusFile => System.IO.Path.Combine(Work, "status.json");

    private string ChangeLock => System.IO.Path.Combine(path, "change.lock");

    /// <summary>Lets the first start boot, if there was none yet: for good when it returns.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    /// <exception cref="UnauthorizedAccessException">Likewise.</exception>
    public void ForgetTemplate()
    {
        if (Directory.Exists(Template))
        {
            Directory.Delete(Template, recursive: true);
            AtomicFile.SyncFolder(Work);
        }
    }

    /// <summary>Reads the definition.</summary>
    /// <param name="problem">Why there is none.</param>
    public MachineDefinition? ReadDefinition(out string? problem)
    {
        try
        {
            MachineDefinition? definition = JsonSerializer.Deserialize(File.ReadAllText(DefinitionFile), MachineJson.Default.MachineDefinition);
            problem = definition switch
            {
                null => $"{DefinitionFile} is empty",
                { Version: > MachineDefinition.CurrentVersion or < 1 } => $"{DefinitionFile} has version {definition.Version}, made by a newer Lodge; this one knows {MachineDefinition.CurrentVersion}",
                _ => null,
            };
            return problem is null ? definition : null;
        }
        catch (FileNotFoundException)
        {
            problem = File.Exists(Disk) ? $"it is only a kept disk of 'lodge run --keep --name {Name}'" : $"{DefinitionFile} is missing";
            return null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException)
        {
            problem = $"{DefinitionFile} cannot be read: {e.Message}";
            return null;
        }
    }

    /// <summary>Writes the definition, durable.</summary>
    /// <exception cref="IOException">The host refuses; the old one stands.</exception>
    public void WriteDefinition(MachineDefinition definition) => AtomicFile.Write(DefinitionFile, JsonSerializer.Serialize(definition, MachineJson.Default.MachineDefinition) + "\n");

    /// <summary>What the machine's process last said; null when none did, or nobody understands it.</summary>
    public MachineStatus? ReadStatus()
    {
        try
        {
            return JsonSerializer.Deserialize(ReadBounded(StatusFile), MachineJson.Default.MachineStatus);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException)
        {
            return null;
        }
    }

    /// <summary>Writes what the machine's process says of itself.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public void WriteStatus(MachineStatus status) => AtomicFile.Write(StatusFile, JsonSerializer.Serialize(status, MachineJson.Default.MachineStatus) + "\n", durable: false);

    /// <summary>Whether the machine's process lives.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public bool IsRunning()
    {
        using SafeFileHandle? handle = HostSystemCalls.OpenUnlocked(RunLock, create: false);
        return handle is not null && HostSystemCalls.IsOwnedLockTaken(handle);
    }

    /// <summary>Makes this process the machine's. The lock is free when the process has ended, however it ended.</summary>
    /// <returns>The lock; null when another process has it.</returns>
    /// <exception cref="IOException">The host refuses.</exception>
    public SafeFileHandle? TryRun() => Take(RunLock, wait: false);

    /// <summary>Keeps other commands from changing the machine.</summary>
    /// <param name="wait">Whether to wait for a command that changes it now.</param>
    /// <returns>The lock; null when another command has it.</returns>
    /// <exception cref="IOException">The host refuses, or the machine is gone.</exception>
    public SafeFileHandle? TryChange(bool wait) => Take(ChangeLock, wait);

    /// <summary>How the machine stands now.</summary>
    public MachineReport Report()
    {
        MachineDefinition? definition = ReadDefinition(out string? problem);
        bool running;
        try
        {
            running = IsRunning();
        }
        catch (IOException e)
        {
            running = false;
            problem ??= e.Message;
        }
        // Read after the lock: a process writes before it lets go, so what a free lock is read with is final.
        MachineStatus? status = ReadStatus();
        for (int i = 0; running && i < BetweenTries && status is null or { State: MachineStates.Stopped or MachineStates.Saved }; i++)
        {
            Thread.Sleep(BetweenPause); // a process that has the lock and has not written yet, or has written its end and still has the lock
            running = IsRunning();
            status = ReadStatus();
        }
        string resting = File.Exists(Saved) ? MachineStates.Saved : MachineStates.Stopped;
        if (definition is null)
        {
            return new MachineReport { Name = Name, State = "damaged", Folder = path, Problem = problem, Process = running ? status?.Process : null };
        }
        if (running)
        {
            bool current = status is { State: not (MachineStates.Stopped or MachineStates.Saved) };
            return new MachineReport
            {
                Name = Name,
                State = current ? status!.State : MachineStates.Starting,
                Since = current ? status!.Since : null,
                Process = current ? status!.Process : null,
                Engine = current ? status!.Engine : null,
                Definition = definition,
                Folder = path,
                Problem = problem,
            };
        }
        bool killed = status is { State: not (MachineStates.Stopped or MachineStates.Saved) };
        return new MachineReport
        {
            Name = Name,
            State = resting,
            Since = killed ? null : status?.Since,
            End = killed ? new MachineEnd(137, "its process ended without a word: it was killed, or the host went down", status!.Since) : status?.End,
            Definition = definition,
            Folder = path,
            Problem = problem,
        };
    }

    /// <summary>Reads a small file that the machine's process has made, which may have been taken over by its guest.</summary>
    private static string ReadBounded(string file)
    {
        const int most = 64 << 10;
        byte[] buffer = new byte[most];
        using FileStream stream = new(file, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, 1);
        return System.Text.Encoding.UTF8.GetString(buffer, 0, stream.ReadAtLeast(buffer, most, throwOnEndOfStream: false));
    }

    private static SafeFileHandle? Take(string file, bool wait)
    {
        SafeFileHandle handle = HostSystemCalls.OpenUnlocked(file, create: true)!;
        try
        {
            if (HostSystemCalls.TakeOwnedLock(handle, wait))
            {
                return handle;
            }
        }
        catch
        {
            handle.Dispose();
            throw;
        }
        handle.Dispose();
        return null;
    }
}
