using System.CommandLine;
using Lodge.Cli.Console;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>logs</c>.</summary>
internal static class LogsCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> name = MachineCommands.Name();
        Option<bool> follow = new("--follow", "-f") { Description = "Go on until the machine ends" };
        Option<int?> lines = MachineCommands.Number("--lines", "Only the last lines", "N", "-n");
        Option<bool> process = new("--process") { Description = "The lines of the machine's process in place of its guest's" };
        Command command = new("logs", "Show what a machine printed on its serial console, or what its command printed; of a long log the last one to two MiB") { name, follow, lines, process };
        command.SetAction(parsed => Run(MachineStore.ForUser().Get(parsed.GetValue(name)!), parsed.GetValue(process), parsed.GetValue(follow), parsed.GetValue(lines)));
        return command;
    }

    private static int Run(MachineFolder machine, bool process, bool follow, int? lines)
    {
        string file = process ? machine.ProcessLog : machine.ConsoleLog;
        byte[] old = [.. process ? [] : Read(file + ".1"), .. Read(file)];
        if (!HostFile.Write(HostFile.StandardOutput, lines is { } count ? Last(old, count) : old))
        {
            return ExitStatus.BrokenPipe;
        }
        if (!follow)
        {
            return 0;
        }
        FileStream? stream = Open(file);
        stream?.Seek(0, SeekOrigin.End);
        byte[] buffer = new byte[1 << 16];
        while (true)
        {
            bool running = machine.Exists && machine.IsRunning(); // before the read, so that nothing of a machine that ends is missed
            int read = stream?.Read(buffer) ?? 0;
            if (!HostFile.Write(HostFile.StandardOutput, buffer.AsSpan(0, read)))
            {
                return ExitStatus.BrokenPipe;
            }
            if (read != 0)
            {
                continue;
            }
            if (stream is null || new FileInfo(file) is { Exists: true } now && now.Length < stream.Position)
            {
                stream?.Dispose();
                stream = Open(file); // a new log was begun
            }
            else if (!running)
            {
                return 0;
            }
            if (stream is null && !running)
            {
                return 0;
            }
            Thread.Sleep(50);
        }
    }

    private static byte[] Read(string file)
    {
        using FileStream? stream = Open(file);
        if (stream is null)
        {
            return [];
        }
        using MemoryStream all = new();
        stream.CopyTo(all);
        return all.ToArray();
    }

    private static FileStream? Open(string file)
    {
        try
        {
            return new FileStream(file, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, 1);
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            return null;
        }
    }

    private static ReadOnlySpan<byte> Last(byte[] text, int lines)
    {
        int at = text.Length > 0 && text[^1] == '\n' ? text.Length - 1 : text.Length;
        for (; lines > 0 && at > 0; lines--)
        {
            at = text.AsSpan(0, at).LastIndexOf((byte)'\n');
            if (at < 0)
            {
                return text;
            }
        }
        return at == text.Length ? [] : text.AsSpan(at + (at < text.Length && text[at] == '\n' ? 1 : 0));
    }
}
