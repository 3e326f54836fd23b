using System.Net;
using Lodge.Network.Packets;

namespace Lodge.Management.Networks;

/// <summary>Gives machines addresses: a machine keeps its own by its MAC address until the network is full of newer ones.</summary>
internal static class NetworkAddresses
{
    private const int FirstMachine = 2; // 1 is the host

    /// <summary>Chooses the addresses of a card and keeps them.</summary>
    /// <exception cref="ManagementException">All are in use by machines that run.</exception>
    public static (IPAddress? V4, IPAddress? V6) Assign(NetworkDefinition network, NetworkFolder folder, MacAddress mac, IReadOnlyCollection<AttachedMachine> machines, DateTimeOffset now)
    {
        if (!network.Dhcp)
        {
            return (null, null);
        }
        StaticLease? lease = network.Leases.FirstOrDefault(lease => lease.Mac == mac);
        List<AddressReservation> reservations = folder.ReadReservations();
        AddressReservation? kept = reservations.Find(reservation => reservation.Mac == mac);
        int number = lease?.Address is { } v4 ? network.Subnet!.NumberOf(v4)
            : kept is not null && IsFree(network, kept.Number, mac, machines) && kept.Number < End(network) ? kept.Number
            : Free(network, folder, reservations, machines, mac, now);
        reservations.RemoveAll(reservation => reservation.Mac == mac || reservation.Number == number);
        reservations.Add(new AddressReservation { Mac = mac, Number = number, LastUsed = now });
        folder.WriteReservations(reservations);
        return (lease?.Address ?? network.Subnet?.Host(number), lease?.Address6 ?? (network.Subnet6 is { } v6 && number <= v6.LastHost ? v6.Host(number) : null));
    }

    private static int End(NetworkDefinition network) => DhcpServer.PoolStart(network.Subnet ?? network.Subnet6);

    private static bool IsFree(NetworkDefinition network, int number, MacAddress mac, IReadOnlyCollection<AttachedMachine> machines)
    {
        IPAddress? v4 = network.Subnet?.Host(number), v6 = network.Subnet6 is { } subnet && number <= subnet.LastHost ? subnet.Host(number) : null;
        return !network.Leases.Any(lease => lease.Mac != mac && (Same(lease.Address, v4) || Same(lease.Address6, v6)))
            && !machines.Any(machine => Same(machine.Address, v4) || Same(machine.Address6, v6));
    }

    private static bool Same(IPAddress? one, IPAddress? other) => one is not null && one.Equals(other);

    private static int Free(
        NetworkDefinition network, NetworkFolder folder, List<AddressReservation> reservations, IReadOnlyCollection<AttachedMachine> machines, MacAddress mac, DateTimeOffset now)
    {
        HashSet<int> kept = [.. reservations.Select(reservation => reservation.Number)];
        // An address that was leased to another machine is not given by the server before that lease ends.
        HashSet<string> leased =
            [.. DhcpServer.ReadLeases(folder.ServerLeases).Where(lease => lease.Expires is not { } end || end > now).Where(lease => lease.Hardware != mac.ToString()).Select(lease => lease.Address)];
        int end = End(network);
        bool Usable(int number) => number >= FirstMachine && number < end && IsFree(network, number, mac, machines) && !leased.Contains($"{network.Subnet?.Host(number)}");
        for (int number = FirstMachine; number < end; number++)
        {
            if (!kept.Contains(number) && Usable(number))
            {
                return number;
            }
        }
        return reservations.OrderBy(reservation => reservation.LastUsed).FirstOrDefault(reservation => Usable(reservation.Number))?.Number
            ?? throw new ManagementException($"network '{network.Name}' has no free address left");
    }
}
