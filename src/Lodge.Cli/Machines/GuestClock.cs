using Lodge.Cli.Console;
using Lodge.Management.GuestAgent;

namespace Lodge.Cli.Machines;

/// <summary>
/// The clock of a guest that stood still: its agent sets it, unless it is right. A guest without an agent has to look at its real-time clock itself.
/// </summary>
/// <param name="agent">The guest's agent.</param>
internal sealed class GuestClock(GuestAgentClient agent)
{
    // How long a guest that goes on may take to answer before its clock is left to itself.
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(1);

    // What a guest's own time service finds and takes back in steps that nobody notices.
    private static readonly TimeSpan Near = TimeSpan.FromMilliseconds(100);

    // An answer that comes sooner tells what the time was.
    private static readonly TimeSpan Quick = TimeSpan.FromMilliseconds(400);

    // A guest that is busy may read what it is told late; then it is told again.
    private const int MostTries = 10;

    private int _wanted;

    /// <summary>Begins, in the background; a time that is just being set is looked at once more. Any thread.</summary>
    public void SetSoon()
    {
        if (Interlocked.Exchange(ref _wanted, 2) == 0)
        {
            _ = Task.Run(SetAsync);
        }
    }

    private async Task SetAsync()
    {
        do
        {
            Volatile.Write(ref _wanted, 1);
            try
            {
                await agent.SynchronizeAsync(Patience).ConfigureAwait(false);
                GuestAgentException? refused = null;
                bool? right = false;
                for (int i = 0; i < MostTries && right != true; i++)
                {
                    TimeSpan way;
                    (right, way) = await IsRightAsync().ConfigureAwait(false);
                    if (right == false)
                    {
                        refused = await TrySetAsync(way).ConfigureAwait(false);
                    }
                }
                if (right == false && refused is not null)
                {
                    throw refused;
                }
            }
            catch (GuestAgentException e) when (e.Failure != GuestAgentFailure.Closed)
            {
                HostFile.Error($"lodge: the guest's clock was not set: {e.Message}");
            }
            catch (Exception e) when (e is GuestAgentException or ObjectDisposedException)
            {
                return; // the machine ends
            }
        }
        while (Interlocked.CompareExchange(ref _wanted, 0, 1) != 1);
    }

    /// <summary>Sets it. An agent that has set it and cannot set the guest's hardware clock by it refuses, too (Debian without hwclock): whether it did is seen by the time.</summary>
    private async Task<GuestAgentException?> TrySetAsync(TimeSpan way)
    {
        try
        {
            await agent.SetTimeAsync(DateTimeOffset.UtcNow + way).ConfigureAwait(false);
            return null;
        }
        catch (GuestAgentException e) when (e.Failure == GuestAgentFailure.Refused)
        {
            return e;
        }
    }

    /// <summary>
    /// The guest has read its clock at some time between question and answer; null when that was long, and it may be right or wrong. And how long a question was under way, more or less.
    /// </summary>
    private async Task<(bool? Right, TimeSpan Way)> IsRightAsync()
    {
        DateTimeOffset before = DateTimeOffset.UtcNow;
        DateTimeOffset told = await agent.GetTimeAsync().ConfigureAwait(false);
        DateTimeOffset after = DateTimeOffset.UtcNow;
        bool? right = told < before - Near || told > after + Near ? false : after - before < Quick ? true : null;
        return (right, (after - before) / 2);
    }
}
