using Lodge.Management.Host;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Networks;

/// <summary>
/// The networks of a host, in <c>FOLDER/NAME/</c>. A network is up from its creation or first use until it is stopped or removed; what the host really has is looked at anew by
/// each command, and put right: after a restart of the host, a killed server, or a command that was killed half-way. One command at a time changes
/// networks (flock(2) on <c>FOLDER/.lock</c>).
/// </summary>
public sealed partial class NetworkStore(string folder)
{
    private const string LockFile = ".lock", GonePrefix = ".gone-";

    /// <summary>The networks of this host: <c>/var/lib/lodge/networks</c>; root's elsewhere with XDG_DATA_HOME.</summary>
    public static NetworkStore OfHost() => new(Path.Combine(Environment.IsPrivilegedProcess ? HostFolders.Data : "/var/lib/lodge", "networks"));

    /// <summary>Where it is.</summary>
    public string Folder => folder;

    /// <summary>All networks by name, put right where this process may. A folder without a readable definition is left out and named in <paramref name="damaged"/>.</summary>
    /// <exception cref="ManagementException">The store cannot be read.</exception>
    public IReadOnlyList<NetworkReport> List(out IReadOnlyList<string> damaged)
    {
        List<NetworkReport> reports = [];
        List<string> bad = [];
        if (Directory.Exists(folder))
        {
            using StoreLock? held = Environment.IsPrivilegedProcess ? Enter() : null;
            foreach (NetworkFolder one in Folders())
            {
                if (one.Read() is not { } network)
                {
                    bad.Add(one.Path);
                }
                else if (held is null || !FinishRemoval(network, one))
                {
                    reports.Add(Report(network, one, repair: held is not null));
                }
            }
        }
        damaged = bad;
        return reports;
    }

    /// <summary>The networks that are defined, whatever state they are in; nothing is put right. None where the store cannot be read.</summary>
    public IReadOnlyList<NetworkDefinition> Definitions()
    {
        try
        {
            return [.. Folders().Select(one => one.Read()).OfType<NetworkDefinition>().Where(network => !network.Removing)];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    /// <summary>One network, put right where this process may.</summary>
    /// <exception cref="ManagementException">There is none.</exception>
    public NetworkReport Show(string name)
    {
        using StoreLock? held = Environment.IsPrivilegedProcess && Directory.Exists(folder) ? Enter() : null;
        (NetworkFolder one, NetworkDefinition network) = Get(name);
        return Report(network, one, repair: held is not null);
    }

    /// <summary>Makes a network and brings it up. Subnets and the bridge that <paramref name="request"/> leaves open are chosen.</summary>
    /// <returns>The network, and what was changed on the host besides.</returns>
    /// <exception cref="ManagementException">The name or a subnet is in use, or the host refuses; nothing is left.</exception>
    public (NetworkDefinition Network, IReadOnlyList<string> Notes) Create(NetworkRequest request)
    {
        RequireRoot();
        using StoreLock held = Enter();
        return CreateLocked(request);
    }

    /// <summary>Brings a network up.</summary>
    /// <exception cref="ManagementException">There is none, or the host refuses.</exception>
    public IReadOnlyList<string> Start(string name)
    {
        RequireRoot();
        using StoreLock held = Enter();
        (NetworkFolder one, NetworkDefinition network) = Get(name);
        network = network with { Started = true };
        one.Write(network);
        return Ensure(network, one);
    }

    /// <summary>Takes a network down; it stays known.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="force">Also when machines are on it: they lose their link.</param>
    /// <exception cref="ManagementException">There is none, machines are on it, or the host refuses.</exception>
    public void Stop(string name, bool force)
    {
        RequireRoot();
        using StoreLock held = Enter();
        (NetworkFolder one, NetworkDefinition network) = Get(name);
        CheckUnused(one, name, force);
        network = network with { Started = false };
        one.Write(network);
        TakeDown(network, one);
    }

    /// <summary>Removes a network and all that the host has for it.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="force">Also when machines are on it: they lose their link.</param>
    /// <exception cref="ManagementException">There is none, machines are on it, or the host refuses; a later try goes on where this one stopped.</exception>
    public void Remove(string name, bool force)
    {
        RequireRoot();
        using StoreLock held = Enter();
        NetworkFolder one = FolderOf(name);
        NetworkDefinition? network = one.Read();
        if (network is null)
        {
            if (!Directory.Exists(one.Path))
            {
                throw NoNetwork(name);
            }
            // Its file is damaged: what bears the names that it would have goes.
            network = new NetworkDefinition { Name = name, Bridge = NetworkName.Bridge(name), BridgeMac = NetworkName.BridgeMac(Path.GetFullPath(folder), name) };
        }
        CheckUnused(one, name, force);
        one.Write(network with { Removing = true });
        TakeDown(network, one);
        Delete(one);
    }

    /// <summary>Addresses that networks gave, or keep for machines; of one network or of all.</summary>
    /// <exception cref="ManagementException">There is no such network.</exception>
    public IReadOnlyList<NetworkLease> Leases(string? name)
    {
        List<NetworkLease> all = [];
        foreach (NetworkFolder one in name is null ? Folders() : [Get(name).Folder])
        {
            if (one.Read() is { Removing: false } network)
            {
                all.AddRange(LeasesOf(network, one));
            }
        }
        return all;
    }

    private (NetworkDefinition Network, IReadOnlyList<string> Notes) CreateLocked(NetworkRequest request)
    {
        NetworkFolder one = FolderOf(NetworkName.Check(request.Name));
        if (one.Read() is { } old && !FinishRemoval(old, one))
        {
            throw new ManagementException($"network '{request.Name}' exists; 'lodge network show {request.Name}' shows it");
        }
        if (Directory.Exists(one.Path))
        {
            throw new ManagementException($"{one.Path} holds a damaged network; remove it: lodge network remove {request.Name}");
        }
        List<NetworkDefinition> others = [.. Folders().Select(other => other.Read()).OfType<NetworkDefinition>()];
        HostInterfaces host = HostInterfaces.Read();
        NetworkDefinition network = request.Plan(Path.GetFullPath(folder), host, others, DateTimeOffset.Now);
        try
        {
            one.Write(network);
            return (network, Ensure(network, one));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ManagementException)
        {
            try
            {
                one.Write(network with { Removing = true });
                TakeDown(network, one);
                Delete(one);
            }
            catch (Exception also) when (also is IOException or UnauthorizedAccessException or ManagementException)
            {
                // The next command goes on with the removal; the first failure is the one to tell.
            }
            throw e as ManagementException ?? new ManagementException($"network '{request.Name}' cannot be kept in {folder}: {e.Message}", e);
        }
    }

    /// <summary>Brings everything of a network into the state that it is to have, whatever there is.</summary>
    private static IReadOnlyList<string> Ensure(NetworkDefinition network, NetworkFolder one)
    {
        List<AttachedMachine> machines = one.ReadMachines(clean: true);
        BridgeDevice.Ensure(network, HostInterfaces.Read());
        IReadOnlyList<string> notes = HostForwarding.Ensure(network);
        Firewalld? firewalld = Firewalld.Of(network);
        NetworkRules.Load(network, machines, closeHost: firewalld?.MustCloseHost == true);
        ForeignFirewall.Ensure(network);
        firewalld?.Enter();
        new DhcpServer(network, one).Ensure(machines);
        return notes;
    }

    private static void TakeDown(NetworkDefinition network, NetworkFolder one)
    {
        new DhcpServer(network, one).Stop();
        ForeignFirewall.Remove(network);
        Firewalld.Leave(network);
        BridgeDevice.Remove(network, HostInterfaces.Read());
        NetworkRules.Remove(network);
    }

    /// <summary>Whether a network is one whose removal had begun; it is then finished.</summary>
    private bool FinishRemoval(NetworkDefinition network, NetworkFolder one)
    {
        if (network.Removing)
        {
            TakeDown(network, one);
            Delete(one);
        }
        return network.Removing;
    }

    private void Delete(NetworkFolder one)
    {
        string gone = Path.Combine(folder, GonePrefix + one.Name);
        if (Directory.Exists(gone))
        {
            Directory.Delete(gone, recursive: true);
        }
        Directory.Move(one.Path, gone);
        AtomicFile.SyncFolder(folder);
        Directory.Delete(gone, recursive: true);
    }

    private static NetworkReport Report(NetworkDefinition network, NetworkFolder one, bool repair)
    {
        string? problem = null;
        if (repair && network.Started)
        {
            try
            {
                Ensure(network, one);
            }
            catch (ManagementException e)
            {
                problem = e.Message;
            }
        }
        else if (network.Started)
        {
            problem = !BridgeDevice.IsUp(network, HostInterfaces.Read()) ? $"its bridge {network.Bridge} is not up; a command of root's on it puts that right" : null;
        }
        return new NetworkReport
        {
            Network = network,
            State = !network.Started ? "stopped" : problem is null ? "up" : "failed",
            Problem = problem,
            Machines = one.ReadMachines(clean: repair),
        };
    }

    private static IEnumerable<NetworkLease> LeasesOf(NetworkDefinition network, NetworkFolder one)
    {
        List<AttachedMachine> machines = one.ReadMachines(clean: false);
        DateTimeOffset now = DateTimeOffset.Now;
        Dictionary<string, NetworkLease> leases = [];
        foreach (StaticLease lease in network.Leases)
        {
            foreach (System.Net.IPAddress address in new[] { lease.Address, lease.Address6 }.OfType<System.Net.IPAddress>())
            {
                leases[$"{address}"] = new NetworkLease { Network = network.Name, Address = address, Mac = $"{lease.Mac}", Name = lease.Name, Static = true };
            }
        }
        foreach (AttachedMachine machine in machines)
        {
            foreach (System.Net.IPAddress address in new[] { machine.Address, machine.Address6 }.OfType<System.Net.IPAddress>())
            {
                bool isStatic = leases.ContainsKey($"{address}");
                leases[$"{address}"] = new NetworkLease
                {
                    Network = network.Name,
                    Address = address,
                    Mac = $"{machine.Mac}",
                    Name = machine.DnsName,
                    Machine = machine.Machine,
                    Static = isStatic,
                };
            }
        }
        foreach ((DateTimeOffset? expires, string hardware, string text, string? name) in DhcpServer.ReadLeases(one.ServerLeases))
        {
            if (IpSubnet.TryParseAddress(text, out System.Net.IPAddress? address) && expires is { } end && end > now)
            {
                leases[text] = leases.TryGetValue(text, out NetworkLease? known)
                    ? known with { Expires = end, Name = name ?? known.Name }
                    : new NetworkLease { Network = network.Name, Address = address, Mac = hardware.Contains(':') ? hardware : null, Name = name, Expires = end };
            }
        }
        return leases.Values.OrderBy(lease => lease.Address.GetAddressBytes().Length).ThenBy(lease => Convert.ToHexString(lease.Address.GetAddressBytes()), StringComparer.Ordinal);
    }

    private IEnumerable<NetworkFolder> Folders() => !Directory.Exists(folder) ? [] : Directory.EnumerateDirectories(folder)
        .Where(path => !Path.GetFileName(path).StartsWith('.')).Order(StringComparer.Ordinal).Select(path => new NetworkFolder(path));

    private NetworkFolder FolderOf(string name) => new(Path.Combine(Path.GetFullPath(folder), NetworkName.Check(name)));

    private (NetworkFolder Folder, NetworkDefinition Network) Get(string name)
    {
        NetworkFolder one = FolderOf(name);
        return one.Read() switch
        {
            { Removing: false } network => (one, network),
            null when Directory.Exists(one.Path) => throw new ManagementException($"{one.Path} holds a damaged network; remove it: lodge network remove {name}"),
            _ => throw NoNetwork(name),
        };
    }

    private static ManagementException NoNetwork(string name) => new($"there is no network '{name}'; 'lodge network list' shows the networks");

    private static void CheckUnused(NetworkFolder one, string name, bool force)
    {
        List<AttachedMachine> machines = one.ReadMachines(clean: true);
        if (machines.Count != 0 && !force)
        {
            throw new ManagementException($"network '{name}' is in use by {string.Join(", ", machines.Select(machine => $"{machine.Machine} (process {machine.Process})"))}; end them, or give --force");
        }
    }

    private static void RequireRoot()
    {
        if (!Environment.IsPrivilegedProcess)
        {
            throw new ManagementException("networks of the host are root's; run this with sudo, or use user-mode networking (--net user)");
        }
    }

    private StoreLock Enter()
    {
        try
        {
            Directory.CreateDirectory(folder);
            StoreLock held = new(HostSystemCalls.OpenUnlocked(Path.Combine(folder, LockFile), create: true)!);
            RemoveLeftovers();
            return held;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException($"networks cannot be kept in {folder}: {e.Message}", e);
        }
    }

    /// <summary>Removes what commands that were killed left in the store: folders on their way out, those whose definition was not yet written, and files that were to replace others.</summary>
    private void RemoveLeftovers()
    {
        foreach (string gone in Directory.EnumerateDirectories(folder, GonePrefix + "*"))
        {
            Directory.Delete(gone, recursive: true);
        }
        foreach (NetworkFolder one in Folders())
        {
            if (!one.IsBegun)
            {
                Directory.Delete(one.Path, recursive: true);
                continue;
            }
            foreach (string file in Directory.EnumerateFiles(one.Path, "*.new"))
            {
                File.Delete(file);
            }
        }
    }

    /// <summary>The lock of the store. Programs that are started under it hold it too, so that after a kill the next command waits for them.</summary>
    private sealed class StoreLock : IDisposable
    {
        private readonly SafeFileHandle _handle;

        public StoreLock(SafeFileHandle handle)
        {
            _handle = handle;
            HostSystemCalls.Lock(handle, inherited: true);
        }

        public void Dispose()
        {
            HostSystemCalls.Release(_handle);
            _handle.Dispose();
        }
    }
}
