namespace Lodge.Management.GuestAgent;

/// <summary>Processes: <c>guest-exec</c> and <c>guest-exec-status</c>.</summary>
public sealed partial class GuestAgentClient
{
    // 16 MiB of each stream is what the agent keeps, in base64.
    private const int LargestStatus = 48 << 20;
    private static readonly TimeSpan FirstPause = TimeSpan.FromMilliseconds(20), LongestPause = TimeSpan.FromMilliseconds(500);

    /// <summary>Starts a process; returns its number.</summary>
    public async Task<long> StartAsync(GuestCommand command, CancellationToken cancellation = default) => Required(
        await _channel.AskAsync(new("guest-exec", command), Json.GuestAgentRequestGuestCommand, Json.GuestAgentReplyGuestPid, SmallAnswer, _time, cancellation).ConfigureAwait(false), "guest-exec").Pid;

    /// <summary>How a process stands. Its output comes with the answer that says that it ended, once.</summary>
    public async Task<GuestProcessStatus> StatusAsync(long process, CancellationToken cancellation = default) => Required(
        await _channel.AskAsync(new("guest-exec-status", new(process)), Json.GuestAgentRequestGuestPidArguments, Json.GuestAgentReplyGuestProcessStatus, LargestStatus, _time, cancellation)
            .ConfigureAwait(false),
        "guest-exec-status");

    /// <summary>Runs a process to its end.</summary>
    public async Task<GuestProcessStatus> RunAsync(GuestCommand command, CancellationToken cancellation = default)
    {
        long process = await StartAsync(command, cancellation).ConfigureAwait(false);
        for (TimeSpan pause = FirstPause; ; pause = pause * 1.5 < LongestPause ? pause * 1.5 : LongestPause)
        {
            GuestProcessStatus status = await StatusAsync(process, cancellation).ConfigureAwait(false);
            if (status.Exited)
            {
                return status;
            }
            await Task.Delay(pause, cancellation).ConfigureAwait(false);
        }
    }
}
