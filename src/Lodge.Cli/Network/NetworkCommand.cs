using System.CommandLine;
using System.Text;
using Lodge.Cli.Console;
using Lodge.Cli.Image;

namespace Lodge.Cli.Network;

/// <summary>The group <c>lodge network</c>: the networks of this host, which root makes and machines are plugged into.</summary>
internal static class NetworkCommand
{
    private const string Manual = """

        Kinds: nat (a bridge of its own with a way out through the host, DHCP and DNS), isolated (the same without a way out), bridge (one that exists).
        A network is up until it is stopped or removed; after a restart of the host the next command on it or machine brings it up again.

        Examples:
          sudo lodge run --net default                          the network 'default' (nat) is made when it is first used
          sudo lodge network create lab --subnet 10.9.0.0/24 --lease 52:54:00:00:00:07=10.9.0.7,db
          sudo lodge network create closed --kind isolated --isolate-machines
          sudo lodge network create office --kind bridge --bridge br0 --vlan 30
          sudo lodge network leases lab
          sudo lodge network remove lab

        Each verb has its own: lodge network create --help

        """;

    /// <summary>Builds the group.</summary>
    public static Command Create()
    {
        Command group = new("network", "Make, show and remove the networks of this host (needs root; without root there is 'lodge run --net user')")
        {
            CreateCommand.Create(),
            ListCommand.Create(),
            ShowCommand.Create(),
            LeasesCommand.Create(),
            LifeCommands.CreateStart(),
            LifeCommands.CreateStop(),
            LifeCommands.CreateRemove(),
        };
        ImageManual.AddTo(group, Manual);
        return group;
    }

    /// <summary>Writes a text to standard output.</summary>
    public static int Print(string text)
    {
        HostFile.Write(HostFile.StandardOutput, Encoding.UTF8.GetBytes(text));
        return 0;
    }

    /// <summary>Tells what was changed on the host besides.</summary>
    public static void Tell(IEnumerable<string> notes)
    {
        foreach (string note in notes)
        {
            HostFile.Error($"lodge: {note}");
        }
    }

    /// <summary>Lines up columns.</summary>
    public static string Table(params string[][] rows)
    {
        int columns = rows[0].Length;
        int[] widths = [.. Enumerable.Range(0, columns).Select(column => rows.Max(row => row[column].Length))];
        return string.Concat(rows.Select(row => string.Join("  ", row.Select((text, column) => text.PadRight(widths[column]))).TrimEnd() + "\n"));
    }
}
