using Lodge.Management.Sandbox;
using Lodge.Storage.Images;

namespace Lodge.Cli.Run;

/// <summary>The sandbox of a run in the foreground: the filter of system calls, and no new privileges. Its files are its user's, as those of any program that is started by hand.</summary>
internal static class RunSandbox
{
    /// <summary>Shuts it: all is open, the guest has not run yet.</summary>
    public static void Shut(RunOptions options)
    {
        try
        {
            ProcessSeal.FilterSystemCalls(new SystemCallNeeds(Environment.ProcessId)
            {
                Internet = options.Networks?.Any(card => card.Kind == NetworkKind.User) != false || options.Disks.Any(disk => DiskAddresses.IsAddress(disk.Path)),
                UnixSockets = options.Vsock is not null || options.Disks.Any(disk => DiskAddresses.IsAddress(disk.Path)),
                // A card is taken off a network of the host by programs, when the run ends.
                Programs = options.Networks?.Any(card => card.Kind is not (NetworkKind.User or NetworkKind.None)) == true,
                Shares = options.Shares.Count != 0,
            });
        }
        catch (IOException e)
        {
            throw new LodgeException($"{e.Message}; without it: --no-sandbox");
        }
    }
}
