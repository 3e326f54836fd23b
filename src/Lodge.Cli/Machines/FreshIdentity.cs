using Lodge.Cli.Console;
using Lodge.Management.GuestAgent;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>
/// Makes the guest of a clone another one than that of the machine that it is a clone of, when its agent answers for the first time: host keys of its SSH server, the random seed on its disk, and the machine ID where the
/// kernel's command line did not set it. What was interrupted is done at the next start.
/// </summary>
internal sealed class FreshIdentity : IDisposable
{
    /// <summary>What the guest runs; its argument is the machine ID.</summary>
    public const string Script = """
        set -e
        if [ -e /etc/machine-id ] && [ "$(cat /etc/machine-id)" != "$1" ]; then echo "$1" > /etc/machine-id; fi
        if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then echo "$1" > /var/lib/dbus/machine-id; fi
        rm -f /var/lib/systemd/random-seed
        if [ -d /etc/ssh ] && [ -x /usr/sbin/sshd ]; then
            rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
            ssh-keygen -A
            if [ -d /run/systemd/system ]; then systemctl try-reload-or-restart ssh.service sshd.service 2>/dev/null || :; fi
        fi
        sync
        """;

    private static readonly TimeSpan AnswerTime = TimeSpan.FromSeconds(3), Between = TimeSpan.FromSeconds(1);
    private readonly CancellationTokenSource _end = new();
    private readonly Task _work;

    private FreshIdentity(Func<CancellationToken, Task> work) => _work = Task.Run(() => work(_end.Token));

    /// <summary>Begins, in the background, if it is to be done.</summary>
    /// <param name="folder">The machine's files.</param>
    /// <param name="id">Its identity.</param>
    /// <param name="agent">The guest's agent; null where there can be none.</param>
    /// <param name="runs">Whether the guest runs now.</param>
    /// <param name="record">Adds to the journal.</param>
    public static FreshIdentity? Begin(MachineFolder folder, Guid id, GuestAgentClient? agent, Func<bool> runs, Action<string, string?> record) => agent is not null && File.Exists(folder.FreshIdentity)
        ? new FreshIdentity(end => WorkAsync(folder.FreshIdentity, id, agent, runs, record, end))
        : null;

    public void Dispose()
    {
        _end.Cancel();
        _work.Wait();
        _end.Dispose();
    }

    private static async Task WorkAsync(string mark, Guid id, GuestAgentClient agent, Func<bool> runs, Action<string, string?> record, CancellationToken end)
    {
        try
        {
            while (!runs() || !await AnswersAsync(agent, end).ConfigureAwait(false))
            {
                await Task.Delay(Between, end).ConfigureAwait(false);
            }
            GuestProcessStatus status = await agent.RunAsync(new GuestCommand("/bin/sh") { Arguments = ["-c", Script, "sh", id.ToString("n")] }, end).ConfigureAwait(false);
            if (status.ExitCode == 0)
            {
                File.Delete(mark);
                record("identity renewed", null);
                return;
            }
            HostFile.Error($"lodge: the guest could not make an identity of its own, and is asked again at its next start: {FirstLine(status.Error)}");
        }
        catch (OperationCanceledException)
        {
            // The machine ends; its next start tries again.
        }
        catch (Exception e) when (e is GuestAgentException or IOException or UnauthorizedAccessException or ObjectDisposedException)
        {
            HostFile.Error($"lodge: the guest's identity is not renewed, and will be at its next start: {e.Message}");
        }
    }

    private static async Task<bool> AnswersAsync(GuestAgentClient agent, CancellationToken end)
    {
        try
        {
            await agent.SynchronizeAsync(AnswerTime, end).ConfigureAwait(false);
            return true;
        }
        catch (GuestAgentException)
        {
            return false; // it still boots
        }
    }

    private static string FirstLine(byte[]? text)
    {
        const int most = 200;
        string line = System.Text.Encoding.UTF8.GetString(text ?? []).Trim().Split('\n')[0];
        line = new string([.. line.Where(c => !char.IsControl(c))]);
        return line.Length == 0 ? "it said nothing" : line.Length > most ? line[..most] : line;
    }
}
