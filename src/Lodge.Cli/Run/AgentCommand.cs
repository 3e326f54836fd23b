using Lodge.Cli.Console;
using Lodge.Management.GuestAgent;

namespace Lodge.Cli.Run;

/// <summary>
/// Runs the command of a run by the guest's agent, for images without Lodge's command service. The agent takes the whole of standard input with the command and gives the
/// output when the command has ended.
/// </summary>
/// <param name="agent">The agent's client.</param>
/// <param name="words">The command and its arguments.</param>
internal sealed class AgentCommand(GuestAgentClient agent, IReadOnlyList<string> words)
{
    private const int LargestInput = 16 << 20;
    private const int Attempts = 30;

    /// <summary>Gives a command, which follows as arguments, the environment of the command service.</summary>
    public const string Script = "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root USER=root LOGNAME=root; umask 022; cd; exec \"$@\"";
    private static readonly TimeSpan Attempt = TimeSpan.FromSeconds(20);

    /// <summary>Runs it to its end and writes its output; returns its status as a shell has it.</summary>
    /// <param name="ended">Told the status when the output is written.</param>
    /// <param name="powerOff">Whether the machine is turned off then.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="GuestAgentException">There is no agent, or it refuses.</exception>
    /// <exception cref="LodgeException">Standard input is too long.</exception>
    public async Task<int> RunAsync(Action<int> ended, bool powerOff, CancellationToken cancellation)
    {
        Task<byte[]?> input = Task.Run(ReadInput, cancellation);
        await MeetAsync(cancellation).ConfigureAwait(false);
        GuestProcessStatus status = await agent.RunAsync(
            new GuestCommand("/bin/sh") { Arguments = ["-c", Script, "sh", .. words], Input = await input.ConfigureAwait(false) }, cancellation).ConfigureAwait(false);
        HostFile.Write(HostFile.StandardOutput, status.Output);
        HostFile.Write(HostFile.StandardError, status.Error);
        if (status.OutputTruncated || status.ErrorTruncated)
        {
            HostFile.Error("lodge: the command's output is longer than the guest agent keeps (16 MiB); the rest is missing");
        }
        int code = status.Signal is { } signal ? 128 + (signal & 0x7F) : (status.ExitCode ?? 0) & 0xFF;
        ended(code);
        if (powerOff)
        {
            await agent.ShutdownAsync(GuestShutdownMode.PowerDown, cancellation).ConfigureAwait(false);
        }
        return code;
    }

    /// <summary>Waits for the agent of a guest that boots. Asked again and again: what was asked of an agent that a guest's reset took away is lost.</summary>
    private async Task MeetAsync(CancellationToken cancellation)
    {
        for (int i = 1; ; i++)
        {
            try
            {
                await agent.SynchronizeAsync(Attempt, cancellation).ConfigureAwait(false);
                return;
            }
            catch (GuestAgentException e) when (e.Failure == GuestAgentFailure.NoAnswer && i < Attempts)
            {
                // It boots still.
            }
            catch (GuestAgentException e) when (e.Failure == GuestAgentFailure.NoAnswer)
            {
                throw new GuestAgentException(e.Failure, $"no guest agent answered in {Attempt.TotalMinutes * Attempts:0} minutes; the image may have none: start it without a command and log in", e);
            }
        }
    }

    private static byte[]? ReadInput()
    {
        if (Terminal.IsTerminal(HostFile.StandardInput))
        {
            return null;
        }
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
