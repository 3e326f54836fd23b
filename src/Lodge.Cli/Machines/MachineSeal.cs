using System.Globalization;
using Lodge.Management.Host;
using Lodge.Management.Sandbox;

namespace Lodge.Cli.Machines;

/// <summary>What a machine's process gives up once all is open and before its guest runs.</summary>
internal sealed record MachineSeal
{
    private const string UserArgument = "--seal-user=", InternetWord = "--seal-internet", UnixWord = "--seal-unix", SharesWord = "--seal-shares", Word = "--seal";

    /// <summary>The user that it becomes; null: it stays who it is.</summary>
    public uint? User { get; init; }

    /// <summary>It opens sockets of the Internet.</summary>
    public bool Internet { get; init; }

    /// <summary>It opens Unix sockets.</summary>
    public bool UnixSockets { get; init; }

    /// <summary>It serves shared folders.</summary>
    public bool Shares { get; init; }

    /// <summary>As arguments of the process.</summary>
    public IReadOnlyList<string> Arguments =>
        [Word, .. User is { } user ? [UserArgument + user.ToString(CultureInfo.InvariantCulture)] : Array.Empty<string>(), .. Internet ? [InternetWord] : Array.Empty<string>(), .. UnixSockets ? [UnixWord] : Array.Empty<string>(), .. Shares ? [SharesWord] : Array.Empty<string>()];

    /// <summary>From arguments of the process; null: it is not confined.</summary>
    public static MachineSeal? Read(IReadOnlyList<string> arguments) => !arguments.Contains(Word) ? null : new MachineSeal
    {
        User = arguments.FirstOrDefault(word => word.StartsWith(UserArgument, StringComparison.Ordinal)) is { } word ? uint.Parse(word.AsSpan(UserArgument.Length), CultureInfo.InvariantCulture) : null,
        Internet = arguments.Contains(InternetWord),
        UnixSockets = arguments.Contains(UnixWord),
        Shares = arguments.Contains(SharesWord),
    };

    /// <summary>Does it.</summary>
    /// <param name="work">The folder that the process goes on writing to; it gets the machine's user.</param>
    /// <exception cref="IOException">The host refuses.</exception>
    public void Apply(string work)
    {
        ProcessSeal.LimitResources(User is not null);
        if (User is { } user)
        {
            HostOwner.Give(work, user);
            ProcessSeal.Become(user);
        }
        ProcessSeal.FilterSystemCalls(new SystemCallNeeds(Environment.ProcessId)
        {
            Internet = Internet,
            UnixSockets = UnixSockets,
            Shares = Shares,
            KillsChildren = ProcessSeal.Landlock.Signals,
        });
    }
}
