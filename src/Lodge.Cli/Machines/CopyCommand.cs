using System.CommandLine;
using Lodge.Cli.Console;
using Lodge.Cli.Image;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>copy</c>.</summary>
internal static class CopyCommand
{
    private const int Piece = 4 << 20;

    private const string Manual = """

        Files pass through the guest's agent (qemu-guest-agent), as root. '-' is standard input or output. A folder is packed and unpacked by tar on both sides, as in the last example.

        Examples:
          lodge copy site.conf web:/etc/nginx/sites-enabled/
          lodge copy web:/var/log/nginx/access.log .
          lodge copy web:/etc/os-release - | head -1
          tar -c src | lodge exec -i web -- tar -x -C /root

        """;

    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> from = new("FROM") { Description = "File of this host, or MACHINE:PATH" };
        Argument<string> to = new("TO") { Description = "File or folder of this host, or MACHINE:PATH" };
        Command command = new("copy", "Copy a file to or from a machine's guest") { from, to };
        command.Aliases.Add("cp");
        command.SetAction(parsed => Run(parsed.GetValue(from)!, parsed.GetValue(to)!));
        ImageManual.AddTo(command, Manual);
        return command;
    }

    private static int Run(string from, string to)
    {
        (string? fromMachine, string fromPath) = Split(from);
        (string? toMachine, string toPath) = Split(to);
        switch (fromMachine, toMachine)
        {
            case (null, null):
                throw new LodgeException($"neither '{from}' nor '{to}' is in a machine; write one as MACHINE:PATH", ExitStatus.Usage);
            case ({ } source, { } target):
                Between(source, fromPath, target, toPath);
                break;
            case ({ } source, null):
                FromGuest(source, fromPath, toPath);
                break;
            case (null, { } target):
                ToGuest(fromPath, target, toPath);
                break;
        }
        return 0;
    }

    /// <summary>MACHINE:PATH; a path of the host has a slash before its first colon, or no colon.</summary>
    private static (string? Machine, string Path) Split(string text)
    {
        int colon = text.IndexOf(':', StringComparison.Ordinal);
        return colon <= 0 || !MachineName.IsName(text[..colon]) ? (null, text) : (text[..colon], text[(colon + 1)..] is { Length: > 0 } path ? path : "/root/");
    }

    private static void FromGuest(string machine, string guestPath, string path)
    {
        if (path == "-")
        {
            using Stream output = new DescriptorStream(HostFile.StandardOutput);
            Fetch(machine, guestPath, output);
            return;
        }
        string final = Directory.Exists(path) ? Path.Combine(path, Path.GetFileName(guestPath.TrimEnd('/'))) : path;
        string part = $"{final}.{Environment.ProcessId}.part";
        try
        {
            using (FileStream output = new(part, FileMode.Create, FileAccess.Write))
            {
                Fetch(machine, guestPath, output);
            }
            File.Move(part, final, overwrite: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException($"'{final}' cannot be written: {e.Message}", e);
        }
        finally
        {
            File.Delete(part);
        }
    }

    private static void ToGuest(string path, string machine, string guestPath)
    {
        string final = guestPath.EndsWith('/') ? guestPath + (path == "-" ? throw new LodgeException("give standard input a file name in the guest", ExitStatus.Usage) : Path.GetFileName(path)) : guestPath;
        try
        {
            using Stream input = path == "-" ? new DescriptorStream(HostFile.StandardInput) : new FileStream(path, FileMode.Open, FileAccess.Read);
            Send(machine, final, input);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException(Directory.Exists(path) ? $"'{path}' is a folder; pack it: tar -c {path} | lodge exec -i {machine} -- tar -x -C {guestPath}" : $"'{path}' cannot be read: {e.Message}", e);
        }
    }

    private static void Between(string source, string fromPath, string target, string toPath)
    {
        string file = Path.GetTempFileName();
        try
        {
            using FileStream through = new(file, FileMode.Create, FileAccess.ReadWrite);
            Fetch(source, fromPath, through);
            through.Position = 0;
            Send(target, toPath.EndsWith('/') ? toPath + Path.GetFileName(fromPath) : toPath, through);
        }
        finally
        {
            File.Delete(file);
        }
    }

    private static void Fetch(string machine, string path, Stream output)
    {
        using ControlClient client = ControlClient.Connect(MachineStore.ForUser().Get(machine));
        client.FetchAsync($"/v1/agent/file?path={Uri.EscapeDataString(path)}", output).GetAwaiter().GetResult();
    }

    /// <summary>Piece by piece, so that neither side holds all of a large file.</summary>
    private static void Send(string machine, string path, Stream input)
    {
        using ControlClient client = ControlClient.Connect(MachineStore.ForUser().Get(machine));
        byte[] piece = new byte[Piece];
        bool first = true;
        while (true)
        {
            int count = input.ReadAtLeast(piece, piece.Length, throwOnEndOfStream: false);
            if (count == 0 && !first)
            {
                return;
            }
            client.SendBytesAsync("PUT", $"/v1/agent/file?path={Uri.EscapeDataString(path)}{(first ? "" : "&append=true")}", piece.AsMemory(0, count)).GetAwaiter().GetResult();
            first = false;
        }
    }
}
