using System.Text.Json;
using Lodge.Management.Host;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Networks;

/// <summary>The files of one network, <c>FOLDER/NAME/</c>: all that Lodge keeps of it.</summary>
internal sealed class NetworkFolder(string path)
{
    /// <summary>Where it is.</summary>
    public string Path => path;

    /// <summary>Its name.</summary>
    public string Name => System.IO.Path.GetFileName(path);

    /// <summary>Whether the network's definition was written: nothing of it is on the host before.</summary>
    public bool IsBegun => File.Exists(DefinitionFile);

    /// <summary>The DHCP server's configuration.</summary>
    public string ServerConfiguration => System.IO.Path.Combine(path, "dnsmasq.conf");

    /// <summary>The DHCP server's list of machines, which it reads again when told.</summary>
    public string ServerHosts => System.IO.Path.Combine(path, "dnsmasq.hosts");

    /// <summary>The DHCP server's list of leases, its own.</summary>
    public string ServerLeases => System.IO.Path.Combine(path, "dnsmasq.leases");

    private string DefinitionFile => System.IO.Path.Combine(path, "network.json");

    private string ReservationsFile => System.IO.Path.Combine(path, "addresses.json");

    private string Machines => System.IO.Path.Combine(path, "machines");

    /// <summary>The network, or null when there is none or its file is damaged.</summary>
    public NetworkDefinition? Read()
    {
        try
        {
            NetworkDefinition? definition = JsonSerializer.Deserialize(File.ReadAllText(DefinitionFile), NetworkJson.Default.NetworkDefinition);
            return definition is { Version: <= NetworkDefinition.CurrentVersion } && definition.Name == Name && NetworkName.IsInterface(definition.Bridge) ? definition : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException)
        {
            return null;
        }
    }

    /// <summary>Writes the network, durable.</summary>
    public void Write(NetworkDefinition definition)
    {
        Directory.CreateDirectory(path);
        AtomicFile.Write(DefinitionFile, JsonSerializer.Serialize(definition, NetworkJson.Default.NetworkDefinition) + "\n");
    }

    /// <summary>The addresses that machines keep.</summary>
    public List<AddressReservation> ReadReservations()
    {
        try
        {
            return JsonSerializer.Deserialize(File.ReadAllText(ReservationsFile), NetworkJson.Default.ListAddressReservation) ?? [];
        }
        catch (Exception e) when (e is IOException or JsonException)
        {
            return []; // machines then get new addresses
        }
    }

    /// <summary>Writes the addresses that machines keep.</summary>
    public void WriteReservations(List<AddressReservation> reservations) =>
        AtomicFile.Write(ReservationsFile, JsonSerializer.Serialize(reservations, NetworkJson.Default.ListAddressReservation) + "\n");

    /// <summary>The machines that live. With <paramref name="clean"/> the files of dead ones are removed.</summary>
    public List<AttachedMachine> ReadMachines(bool clean)
    {
        List<AttachedMachine> machines = [];
        if (!Directory.Exists(Machines))
        {
            return machines;
        }
        foreach (string file in Directory.EnumerateFiles(Machines).Order(StringComparer.Ordinal))
        {
            try
            {
                using SafeFileHandle? handle = HostSystemCalls.OpenUnlocked(file, create: false);
                if (handle is null)
                {
                    continue;
                }
                if (HostSystemCalls.TryLock(handle, exclusive: false))
                {
                    if (clean)
                    {
                        File.Delete(file);
                    }
                    continue;
                }
                byte[] text = new byte[RandomAccess.GetLength(handle)];
                int length = RandomAccess.Read(handle, text, 0);
                if (JsonSerializer.Deserialize(text.AsSpan(0, length), NetworkJson.Default.AttachedMachine) is { } machine)
                {
                    machines.Add(machine);
                }
            }
            catch (JsonException)
            {
                // It is just being written, by a process that has the lock of the store.
            }
        }
        return machines;
    }

    /// <summary>Writes the file of a machine of this process.</summary>
    /// <returns>The lock: closing it, or the end of the process, frees the network.</returns>
    public SafeFileHandle WriteMachine(AttachedMachine machine)
    {
        Directory.CreateDirectory(Machines);
        DeleteMachine(machine.Tap); // of a dead one, if any
        SafeFileHandle handle = HostSystemCalls.OpenUnlocked(MachineFile(machine.Tap), create: true)!;
        HostSystemCalls.TryLock(handle, exclusive: true);
        RandomAccess.Write(handle, JsonSerializer.SerializeToUtf8Bytes(machine, NetworkJson.Default.AttachedMachine), 0);
        return handle;
    }

    /// <summary>Writes the file of a machine anew, to which this process has a lock.</summary>
    public static void Rewrite(SafeFileHandle file, AttachedMachine machine)
    {
        byte[] text = JsonSerializer.SerializeToUtf8Bytes(machine, NetworkJson.Default.AttachedMachine);
        RandomAccess.SetLength(file, text.Length);
        RandomAccess.Write(file, text, 0);
    }

    /// <summary>Removes the file of a machine.</summary>
    public void DeleteMachine(string tap) => File.Delete(MachineFile(tap));

    private string MachineFile(string tap) => System.IO.Path.Combine(Machines, tap + ".json");
}
