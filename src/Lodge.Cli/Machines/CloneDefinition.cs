using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Machines;
using Lodge.Network.User;

namespace Lodge.Cli.Machines;

/// <summary>What a clone is made from: the options of the other machine, but for those that make it that machine.</summary>
internal static class CloneDefinition
{
    /// <summary>Makes the definition of a clone: fixed addresses of network cards are left out.</summary>
    /// <param name="definition">The other machine's, whose options are understood.</param>
    /// <param name="name">The other machine's name.</param>
    /// <exception cref="ManagementException">Both would write to one disk.</exception>
    public static MachineDefinition Make(MachineDefinition definition, string name)
    {
        if (Values(definition, "disk").Select(DiskOption.Parse).FirstOrDefault(disk => !disk.ReadOnly) is { } disk)
        {
            throw new ManagementException($"machine '{name}' writes to disk '{disk.Path}', which two machines must not: give it readonly, or take it away before (lodge edit {name} --unset disk)");
        }
        return definition.Options.TryGetValue("net", out IReadOnlyList<string>? cards)
            ? definition with { Options = new Dictionary<string, IReadOnlyList<string>>(definition.Options, StringComparer.Ordinal) { ["net"] = [.. cards.Select(WithoutAddress)] } }
            : definition;
    }

    /// <summary>Options that only one machine can have at a time, as they were written.</summary>
    public static IReadOnlyList<string> Exclusive(MachineDefinition definition) =>
    [
        .. Values(definition, "publish").Where(value => IsFixed(PortForward.Parse(value))).Select(value => $"--publish {value}"),
        .. Values(definition, "net").Where(IsExclusive).Select(value => $"--net {value}"),
        .. Values(definition, "vsock").Select(value => $"--vsock {value}"),
        .. Values(definition, "capture").Select(value => $"--capture {value}"),
    ];

    private static IReadOnlyList<string> Values(MachineDefinition definition, string option) => definition.Options.TryGetValue(option, out IReadOnlyList<string>? values) ? values : [];

    private static string WithoutAddress(string card) =>
        string.Join(',', OptionWords.Split(card).Where((part, index) => index == 0 || OptionWords.Pair(part).Name != "mac").Select(part => part.Replace(",", ",,", StringComparison.Ordinal)));

    private static bool IsExclusive(string card)
    {
        NetworkOption option = NetworkOption.Parse(card);
        return option.Kind == NetworkKind.Tap || option.Capture is not null || option.Addresses.Count != 0 || IsFixed(option.User.Forwards);
    }

    private static bool IsFixed(IEnumerable<PortForward> ports) => ports.Any(port => port.HostPort != 0);
}
