using System.CommandLine;
using Lodge.Cli.Console;
using Lodge.Cli.Image;
using Lodge.Management.Control;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>exec</c>.</summary>
internal static class ExecCommand
{
    private const int LargestInput = 16 << 20, DefaultWait = 10;

    private const string Manual = """

        The command is run by the guest's agent (qemu-guest-agent), as root. Its exit status becomes this command's. Standard input goes to it as a whole when --interactive is given, up to 16 MiB; output comes
        when it has ended. For a terminal in the guest use 'lodge console'.

        Examples:
          lodge exec web systemctl status nginx
          lodge exec -e LANG=C web -- sh -c 'df -h / | tail -1'
          lodge exec -i db -- psql < dump.sql

        """;

    /// <summary>Builds the verb.</summary>
    /// <param name="words">The command.</param>
    public static Command Create(IReadOnlyList<string>? words)
    {
        Argument<string> name = MachineCommands.Name();
        Option<string[]> environment = new("--env", "-e") { Description = "Set a variable; repeatable", HelpName = "NAME=VALUE" };
        Option<bool> interactive = new("--interactive", "-i") { Description = "Give it this command's standard input" };
        Option<int?> wait = MachineCommands.Number("--wait", "How many seconds to wait for a guest that boots, up to 3600 [default: 10]", "SECONDS");
        Command command = new("exec", "Run a command in a machine's guest") { name, environment, interactive, wait };
        command.SetAction(parsed => words is not { Count: > 0 }
            ? throw new LodgeException("no command is given; write for example: lodge exec web -- uname -a", ExitStatus.Usage)
            : Run(parsed.GetValue(name)!, words, parsed.GetValue(environment) ?? [], parsed.GetValue(interactive), parsed.GetValue(wait) ?? DefaultWait));
        ImageManual.AddTo(command, Manual);
        return command;
    }

    /// <summary>Puts <c>--</c> between the machine's name and the command, where people leave it out.</summary>
    public static string[] WithSeparator(string[] arguments)
    {
        for (int i = 1; i < arguments.Length; i++)
        {
            if (arguments[i] is "--env" or "-e" or "--wait")
            {
                i++;
            }
            else if (arguments[i] == "--")
            {
                return arguments;
            }
            else if (!arguments[i].StartsWith('-'))
            {
                return i + 1 < arguments.Length && arguments[i + 1] != "--" ? [.. arguments[..(i + 1)], "--", .. arguments[(i + 1)..]] : arguments;
            }
        }
        return arguments;
    }

    private static int Run(string name, IReadOnlyList<string> words, string[] environment, bool interactive, int wait)
    {
        ControlExec exec = new() { Command = words, Environment = environment, Input = interactive ? ReadInput() : null };
        ControlExecEnd end = MachineCommands.Ask(name, async client =>
        {
            await client.GetAsync($"/v1/agent?wait={wait}", ControlJson.Default.ControlAgent).ConfigureAwait(false);
            return await client.AskAsync("POST", "/v1/agent/exec", exec, ControlJson.Default.ControlExec, ControlJson.Default.ControlExecEnd).ConfigureAwait(false);
        });
        HostFile.Write(HostFile.StandardOutput, end.Output);
        HostFile.Write(HostFile.StandardError, end.Error);
        if (end.Truncated)
        {
            HostFile.Error("lodge: the command's output is longer than the guest agent keeps (16 MiB); the rest is missing");
        }
        return end.Status;
    }

    private static byte[] ReadInput()
    {
        using MemoryStream all = new();
        byte[] buffer = new byte[1 << 16];
        for (int count; (count = HostFile.Read(HostFile.StandardInput, buffer)) != 0;)
        {
            all.Write(buffer, 0, count);
            if (all.Length > LargestInput)
            {
                throw new LodgeException($"standard input is longer than the guest agent takes ({LargestInput >> 20} MiB)");
            }
        }
        return all.ToArray();
    }
}
