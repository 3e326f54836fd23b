namespace Lodge.Management.GuestAgent;

/// <summary>
/// Client of the agent that runs in a guest (qemu-guest-agent; QEMU Guest Agent Protocol Reference). Calls may come from any thread and are answered one after the other.
/// All fail with <see cref="GuestAgentException"/>. What is returned is the guest's word: bounded in size, but not to be believed.
/// </summary>
/// <param name="stream">The channel to the guest's port <see cref="PortName"/>; closed with the client.</param>
/// <param name="answerTime">How long an answer may take that the guest gives at once; 20 s when null.</param>
public sealed partial class GuestAgentClient(Stream stream, TimeSpan? answerTime = null) : IDisposable
{
    /// <summary>The console port that an agent opens in the guest.</summary>
    public const string PortName = "org.qemu.guest_agent.0";

    /// <summary>Bytes of an answer that holds no data.</summary>
    internal const int SmallAnswer = 1 << 20;

    private readonly GuestAgentChannel _channel = new(stream);
    private readonly TimeSpan _time = answerTime ?? TimeSpan.FromSeconds(20);

    /// <summary>Waits until an agent answers (<c>guest-sync-delimited</c>).</summary>
    /// <param name="time">For how long; a guest that boots needs a while.</param>
    /// <param name="cancellation">Gives up.</param>
    public Task SynchronizeAsync(TimeSpan time, CancellationToken cancellation = default) => _channel.SynchronizeAsync(time, cancellation);

    /// <summary>Asks for a sign of life (<c>guest-ping</c>).</summary>
    public Task PingAsync(CancellationToken cancellation = default) => NothingAsync("guest-ping", _time, cancellation);

    /// <summary>What the agent is and can do (<c>guest-info</c>).</summary>
    public async Task<GuestAgentInfo> InfoAsync(CancellationToken cancellation = default)
    {
        GuestAgentInfo info = Required(
            await _channel.AskAsync(Bare("guest-info"), Json.GuestAgentRequestGuestNothing, Json.GuestAgentReplyGuestAgentInfo, SmallAnswer, _time, cancellation).ConfigureAwait(false), "guest-info");
        return new GuestAgentInfo(info.Version ?? "", [.. (info.SupportedCommands ?? []).Where(command => command?.Name is not null)]);
    }

    /// <summary>The guest's network interfaces with their addresses (<c>guest-network-get-interfaces</c>).</summary>
    public async Task<IReadOnlyList<GuestNetworkInterface>> NetworkInterfacesAsync(CancellationToken cancellation = default)
    {
        const string Name = "guest-network-get-interfaces";
        List<GuestNetworkInterface> interfaces = Required(
            await _channel.AskAsync(Bare(Name), Json.GuestAgentRequestGuestNothing, Json.GuestAgentReplyListGuestNetworkInterface, SmallAnswer, _time, cancellation).ConfigureAwait(false), Name);
        return [.. interfaces.Where(one => one?.Name is not null).Select(one => one with { Addresses = [.. (one.Addresses ?? []).Where(address => address?.Address is not null)] })];
    }

    /// <summary>What the guest's clock says (<c>guest-get-time</c>).</summary>
    public async Task<DateTimeOffset> GetTimeAsync(CancellationToken cancellation = default)
    {
        long nanoseconds = await NumberAsync("guest-get-time", _time, cancellation).ConfigureAwait(false);
        return nanoseconds >= 0 ? DateTimeOffset.UnixEpoch.AddTicks(nanoseconds / 100) : DateTimeOffset.UnixEpoch; // up to the year 2262
    }

    /// <summary>Sets the guest's clock (<c>guest-set-time</c>).</summary>
    /// <param name="time">The time; null: what the machine's real-time clock says.</param>
    /// <param name="cancellation">Gives up.</param>
    public Task SetTimeAsync(DateTimeOffset? time, CancellationToken cancellation = default)
    {
        // Nanoseconds since 1970.
        GuestTimeArguments arguments = new(time is { } given ? (given - DateTimeOffset.UnixEpoch).Ticks * 100 : null);
        return _channel.AskAsync(new("guest-set-time", arguments), Json.GuestAgentRequestGuestTimeArguments, Json.GuestAgentReplyGuestNothing, SmallAnswer, _time, cancellation);
    }

    /// <summary>Asks the guest to end (<c>guest-shutdown</c>). An agent that does so answers nothing: returns when it has taken the command and not refused it.</summary>
    public async Task ShutdownAsync(GuestShutdownMode mode = GuestShutdownMode.PowerDown, CancellationToken cancellation = default)
    {
        await _channel.SynchronizeAsync(_time, cancellation).ConfigureAwait(false);
        try
        {
            GuestModeArguments arguments = new(mode.ToString().ToLowerInvariant());
            await _channel.AskAsync(new("guest-shutdown", arguments), Json.GuestAgentRequestGuestModeArguments, Json.GuestAgentReplyGuestNothing, SmallAnswer, Silence, cancellation).ConfigureAwait(false);
        }
        catch (GuestAgentException e) when (e.Failure is GuestAgentFailure.NoAnswer or GuestAgentFailure.Closed)
        {
            // Only a refusal is an answer.
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _channel.Dispose();

    private static GuestAgentJson Json => GuestAgentJson.Default;

    private static TimeSpan Silence => TimeSpan.FromSeconds(2);

    private static GuestAgentRequest<GuestNothing> Bare(string command) => new(command, null);

    private static T Required<T>(T? value, string command)
        where T : class => value ?? throw NoValue(command);

    private static long Required(long? value, string command) => value ?? throw NoValue(command);

    private static GuestAgentException NoValue(string command) => new(GuestAgentFailure.Malformed, $"the guest agent's answer to {command} has no value");

    private Task NothingAsync(string command, TimeSpan time, CancellationToken cancellation) =>
        _channel.AskAsync(Bare(command), Json.GuestAgentRequestGuestNothing, Json.GuestAgentReplyGuestNothing, SmallAnswer, time, cancellation);

    private async Task<long> NumberAsync(string command, TimeSpan time, CancellationToken cancellation) => Required(
        await _channel.AskAsync(Bare(command), Json.GuestAgentRequestGuestNothing, Json.GuestAgentReplyNullableInt64, SmallAnswer, time, cancellation).ConfigureAwait(false), command);
}
