using System.Text;
using Lodge.Management.Host;

namespace Lodge.Management.Networks;

/// <summary>
/// The dnsmasq(8) of a network: DHCP, DHCPv6, router advertisements and DNS on its bridge. It is found by its command line and network namespace in /proc, so that none is
/// lost or mistaken whoever died when.
/// </summary>
internal sealed class DhcpServer(NetworkDefinition network, NetworkFolder folder)
{
    private const string Program = "dnsmasq";
    private const int SignalHangUp = 1, SignalKill = 9, SignalTerminate = 15;
    private const int LeastForPool = 62; // addresses

    private string Argument => $"--conf-file={folder.ServerConfiguration}";

    /// <summary>Whether it runs.</summary>
    public bool IsRunning => Processes().Any();

    /// <summary>The first address that hosts which are not Lodge's machines get; machines get lower ones. Without such a pool one more than the last.</summary>
    public static int PoolStart(IpSubnet? subnet) => subnet is null ? 0x1_0000 : subnet.LastHost < LeastForPool ? subnet.LastHost + 1 : subnet.LastHost - (subnet.LastHost / 4) + 1;

    /// <summary>Starts it, or tells a running one of the machines that are on the network now.</summary>
    /// <param name="machines">The machines that live.</param>
    /// <exception cref="ManagementException">dnsmasq is missing or does not start.</exception>
    public void Ensure(IReadOnlyCollection<AttachedMachine> machines)
    {
        if (!network.Dhcp)
        {
            Stop();
            return;
        }
        HostProgram.Require(Program, "dnsmasq-base");
        bool newConfiguration = WriteIfChanged(folder.ServerConfiguration, Configuration());
        bool newHosts = WriteIfChanged(folder.ServerHosts, Hosts(machines));
        if (newConfiguration)
        {
            Stop();
        }
        int[] running = [.. Processes()];
        if (running.Length == 0)
        {
            if (HostProgram.Run(Program, [Argument]) is { Status: not 0 } failed)
            {
                throw new ManagementException($"the DHCP and DNS server of network '{network.Name}' does not start: {failed.Error}");
            }
        }
        else if (newHosts)
        {
            Signal(running, SignalHangUp);
        }
    }

    /// <summary>Ends it and waits until it has ended.</summary>
    /// <exception cref="ManagementException">It does not end.</exception>
    public void Stop()
    {
        for (int i = 0; i < 500; i++)
        {
            int[] running = [.. Processes()];
            if (running.Length == 0)
            {
                return;
            }
            if (i is 0 or 100)
            {
                Signal(running, i == 0 ? SignalTerminate : SignalKill);
            }
            Thread.Sleep(10);
        }
        throw new ManagementException($"the DHCP and DNS server of network '{network.Name}' does not end (process {Processes().FirstOrDefault()})");
    }

    /// <summary>What it has given to whom.</summary>
    public static IEnumerable<(DateTimeOffset? Expires, string Hardware, string Address, string? Name)> ReadLeases(string file)
    {
        string[] lines;
        try
        {
            lines = File.ReadAllLines(file);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            yield break;
        }
        foreach (string line in lines)
        {
            // EXPIRY MAC ADDRESS NAME CLIENT-ID; for DHCPv6 the second is the IAID.
            string[] words = line.Split(' ');
            if (words.Length >= 4 && long.TryParse(words[0], out long expiry))
            {
                yield return (expiry == 0 ? null : DateTimeOffset.FromUnixTimeSeconds(expiry), words[1], words[2], words[3] == "*" ? null : words[3]);
            }
        }
    }

    private static bool WriteIfChanged(string file, string text)
    {
        if (File.Exists(file) && File.ReadAllText(file) == text)
        {
            return false;
        }
        AtomicFile.Write(file, text);
        return true;
    }

    private string Configuration()
    {
        StringBuilder text = new($"# Made by lodge for network {network.Name}; changes are overwritten.\n");
        void Line(string line) => text.Append(line).Append('\n');
        Line($"interface={network.Bridge}");
        Line("except-interface=lo");
        Line("bind-dynamic");
        Line("no-hosts");
        Line("pid-file=");
        Line($"dhcp-leasefile={folder.ServerLeases}");
        Line($"dhcp-hostsfile={folder.ServerHosts}");
        Line("dhcp-authoritative");
        Line("dhcp-no-override");
        Line("dhcp-ignore-names"); // names are the host's to give, so that no machine takes another's
        Line("quiet-dhcp");
        Line("quiet-dhcp6");
        Line("quiet-ra");
        Line($"domain={network.Domain}");
        Line($"local=/{network.Domain}/");
        Line("domain-needed");
        Line("bogus-priv");
        if (network.Kind == NetworkKind.Isolated)
        {
            Line("no-resolv"); // DNS that is passed on is a way out
        }
        if (network.Subnet is { } v4)
        {
            int pool = PoolStart(v4);
            Line(pool > v4.LastHost ? $"dhcp-range={v4.Network},static,{v4.Mask},1h" : $"dhcp-range={v4.Host(pool)},{v4.Host(v4.LastHost)},{v4.Mask},1h");
            Line($"dhcp-option=option:domain-search,{network.Domain}");
            Line(network.Kind == NetworkKind.Nat ? $"dhcp-option=option:router,{v4.Gateway}" : "dhcp-option=option:router");
            if (network.Mtu != 0)
            {
                Line($"dhcp-option=option:mtu,{network.Mtu}");
            }
        }
        if (network.Subnet6 is { } v6)
        {
            // Managed addresses only (RFC 4861, 4.2): those that machines make up themselves could not be told from forged ones.
            Line("enable-ra");
            Line($"dhcp-range={v6.Network},static,{v6.Prefix},1h");
            Line($"dhcp-option=option6:dns-server,[{v6.Gateway}]");
            Line($"dhcp-option=option6:domain-search,{network.Domain}");
            string mtu = network.Mtu == 0 ? "" : $"mtu:{network.Mtu},";
            Line(network.Kind == NetworkKind.Nat ? $"ra-param={network.Bridge},{mtu}60,1800" : $"ra-param={network.Bridge},{mtu}60,0");
        }
        return text.ToString();
    }

    /// <summary>A line for each machine: its MAC address, addresses and name.</summary>
    private string Hosts(IReadOnlyCollection<AttachedMachine> machines)
    {
        StringBuilder text = new();
        foreach (AttachedMachine machine in machines)
        {
            Host(machine.Mac.ToString(), machine.Address, machine.Address6, machine.DnsName);
        }
        foreach (StaticLease lease in network.Leases.Where(lease => machines.All(machine => machine.Mac != lease.Mac)))
        {
            Host(lease.Mac.ToString(), lease.Address, lease.Address6, lease.Name); // also for hosts on the bridge that are not Lodge's
        }
        return text.ToString();

        void Host(string mac, System.Net.IPAddress? address, System.Net.IPAddress? address6, string? name) => text
            .Append(mac).Append(address is null ? "" : $",{address}").Append(address6 is null ? "" : $",[{address6}]").Append(name is null ? "" : $",{name}").Append(",1h\n");
    }

    private void Signal(IEnumerable<int> processes, int signal)
    {
        foreach (int process in processes)
        {
            HostSystemCalls.Signal(process, signal, () => IsServer(process));
        }
    }

    /// <summary>Processes that are this network's server.</summary>
    private IEnumerable<int> Processes() =>
        Directory.EnumerateDirectories("/proc").Select(path => int.TryParse(Path.GetFileName(path), out int process) ? process : 0).Where(process => process != 0 && IsServer(process));

    private bool IsServer(int process)
    {
        try
        {
            string[] words = File.ReadAllText($"/proc/{process}/cmdline").Split('\0');
            return words.Length >= 2 && Path.GetFileName(words[0]) == Program && words[1] == Argument
                && File.ResolveLinkTarget($"/proc/{process}/ns/net", returnFinalTarget: false)?.Name == File.ResolveLinkTarget("/proc/thread-self/ns/net", returnFinalTarget: false)?.Name;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false; // it has just ended
        }
    }
}
