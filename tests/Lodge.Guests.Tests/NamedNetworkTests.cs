using System.Diagnostics;
using Iced.Intel;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary><c>lodge network</c> and machines on networks, with the built command, in namespaces of the test's own.</summary>
[Collection("guests")]
public class NamedNetworkTests
{
    private const string Prefix = "export XDG_DATA_HOME={0}/data XDG_STATE_HOME={0}/state; L={1}; ";

    [Fact]
    public void Two_guests_on_a_nat_network_reach_each_other_by_name()
    {
        Need();
        LodgeProcess.Run(["run", "--net", "none", "--", "true"]); // the default system is fetched where there is a network
        Test((space, script) =>
        {
            space.Shell(script("$L network create lab"));
            using Process web = space.Start(script("$L run --engine translate --net lab --name web -- sh -c 'echo hello from web >/tmp/index.html; httpd -p 8000 -h /tmp; cat; exit 0'"));
            (int status, string text) = space.Try(script("""
                $L run --engine translate --net lab --name db -- sh -c '
                    for i in $(seq 100); do wget -q -O - http://web:8000/index.html 2>/dev/null && exit 0; sleep 0.2; done; exit 1'
                """));
            Assert.Equal((0, "hello from web\n"), (status, text));
            Assert.Contains(" web ", space.Shell(script("$L network leases lab")));
            Assert.Contains("Machine:           web, 52:54:00", space.Shell(script("$L network show lab")));

            // With another address a guest is mute.
            (_, text) = space.Try(script("""
                $L run --engine translate --net lab --name thief -- sh -c '
                    ping -c 1 -W 10 web >/dev/null && echo reached
                    a=$(ip -o -4 address show eth0 | sed "s/.*inet \([0-9.]*\)\..*/\1/")
                    ip address flush dev eth0; ip address add $a.77/24 dev eth0
                    ping -c 2 -W 1 $a.1 >/dev/null && echo forged'
                """));
            Assert.Equal("reached\n", text);
            web.StandardInput.Close();
            web.WaitForExit();
            Assert.Contains(" 0\n", space.Shell(script("$L network list")));
            space.Shell(script("$L network remove lab"));
        });
    }

    [Fact]
    public void A_machine_that_goes_on_tells_its_network_where_it_is()
    {
        NetworkNamespace.Need(("nft", "nftables"));
        LodgeProcess.Run(["run", "--net", "none", "--", "true"]); // the default system is fetched where there is a network
        Test((space, script) =>
        {
            // Packets by which somebody with the address tells it unasked (RFC 5944, 4.6).
            space.Shell("ip link add br0 type bridge forward_delay 0; ip link set br0 up; nft 'table bridge watch { chain c { type filter hook prerouting priority 0; }; }'");
            (int status, string text) = space.Try(script("""
                $L create --name one --engine translate --memory 256M --net bridge=br0,address=10.1.1.2 -- sh -c '
                    ip address add 10.1.1.2/24 dev eth0; echo its address: $(ip -o -4 address show dev eth0); sleep 10000' >/dev/null
                trap '$L stop --force one' EXIT
                until_it() { # what is said when it is not, condition
                    i=0
                    until eval "$2"; do i=$((i+1)); [ $i -lt 600 ] || { echo "$1"; nft list table bridge watch; $L logs one; exit 9; }; sleep 0.1; done
                }
                heard() { ! nft list chain bridge watch c | grep -q 'packets 0 '; }
                again() { nft flush chain bridge watch c; nft add rule bridge watch c arp operation request arp saddr ip 10.1.1.2 arp daddr ip 10.1.1.2 counter; }
                $L start one
                until_it 'the guest has no address' '$L logs one | grep -q "its address: .*10.1.1.2"'
                again
                $L save one
                heard && { echo 'it told without a reason'; exit 8; }
                $L restore one
                until_it 'a restored machine is silent' heard
                $L snapshot create one here
                again
                $L snapshot revert one here
                until_it 'a machine that was brought back is silent' heard
                """));
            Assert.True(status == 0, $"{status}: {text}");
        });
    }

    [Fact]
    public void Nothing_is_left_whenever_commands_and_machines_are_killed()
    {
        Need();
        int rounds = int.TryParse(Environment.GetEnvironmentVariable("LODGE_KILL_ROUNDS"), out int asked) ? asked : 4;
        int seed = Environment.TickCount;
        Random random = new(seed);
        using SmallGuest idle = new(c =>
        {
            Label again = c.CreateLabel();
            c.Label(ref again);
            c.hlt();
            c.jmp(again);
        });
        Test((space, script) =>
        {
            string before = Traces(space), file = space.Shell(script("printf %s $XDG_DATA_HOME/lodge/networks/lab/network.json"));
            for (int round = 0; round < rounds; round++)
            {
                string what = $"seed {seed}, round {round}";
                List<Process> machines = [];
                bool exists = false;
                for (int step = 0; step < 4; step++)
                {
                    string name = "lab";
                    switch (random.Next(4))
                    {
                        case 0:
                        case 1 when !exists:
                            Killed(space, script($"exec $L network create {name} --kind {(random.Next(2) == 0 ? "nat" : "isolated")}"), file, random);
                            break;
                        case 1:
                            Killed(space, script($"exec $L network remove --force {name}"), file, random);
                            break;
                        default:
                            machines.Add(space.Start(script($"exec $L run --kernel {idle.Path} --memory 16M --net {(random.Next(2) == 0 ? name : "default")} --name m{step}")));
                            Thread.Sleep(random.Next(1200));
                            break;
                    }
                    // What the list says is true: what is up has its bridge, what is not known has none.
                    (int status, string list) = space.Try(script("$L network list"));
                    Assert.True(status == 0, $"{what}: {list}");
                    Assert.True(list.StartsWith("NETWORK ") && !list.Contains("failed"), $"{what}: {list}");
                    exists = list.Contains("\nlab ");
                    Assert.Equal(exists, space.Shell("ip -o link show").Contains(": lodge-lab:"));
                    if (machines.Count != 0 && random.Next(2) == 0)
                    {
                        int index = random.Next(machines.Count);
                        machines[index].Kill();
                        machines[index].WaitForExit();
                        machines.RemoveAt(index);
                    }
                }
                foreach (Process machine in machines)
                {
                    machine.Kill();
                    machine.WaitForExit();
                    machine.Dispose();
                }
                foreach (string line in space.Shell(script("$L network list")).Split('\n', StringSplitOptions.RemoveEmptyEntries).Skip(1))
                {
                    Assert.True(line.EndsWith(" 0"), $"{what}: {line}"); // the dead are off
                    space.Shell(script($"$L network remove {line.Split(' ')[0]}"));
                }
                Assert.Equal($"{what}\n{before}", $"{what}\n{Traces(space)}");
            }
        });
    }

    private static void Need()
    {
        NetworkNamespace.Need(("nft", "nftables"), ("dnsmasq", "dnsmasq-base"));
    }

    /// <summary>Runs a command and kills it at a random moment after it has begun to change what is kept of the network.</summary>
    private static void Killed(NetworkNamespace space, string script, string file, Random random)
    {
        using Process process = space.Start(script);
        DateTime before = File.GetLastWriteTimeUtc(file);
        while (File.GetLastWriteTimeUtc(file) == before && !process.WaitForExit(1))
        {
            // it starts
        }
        Thread.Sleep(random.Next(300));
        process.Kill();
        process.WaitForExit();
    }

    /// <summary>What networks leave on a host: interfaces, rules, servers (those that have ended and wait for their parent are none).</summary>
    private static string Traces(NetworkNamespace space) =>
        space.Shell("""
            ip -o link show | sed 's/<.*//'
            nft list ruleset
            here=$(readlink /proc/$$/ns/net)
            for i in /proc/[0-9]*; do
                [ "$(readlink $i/ns/net)" != "$here" ] || { tr '\0' ' ' <$i/cmdline; echo; }
            done 2>/dev/null | grep '^[^ ]*dnsmasq --conf' || true
            """);

    private static void Test(Action<NetworkNamespace, Func<string, string>> body)
    {
        string folder = Directory.CreateTempSubdirectory("lodge-networks-").FullName;
        File.SetUnixFileMode(folder, (UnixFileMode)0b111_101_101); // dnsmasq reads its files as its own user
        try
        {
            NetworkNamespace.Test(space => body(space, script => string.Format(System.Globalization.CultureInfo.InvariantCulture, Prefix, folder, LodgeProcess.Program) + script));
        }
        finally
        {
            // A test that failed leaves its servers.
            foreach (Process server in Process.GetProcessesByName("dnsmasq"))
            {
                if (File.Exists($"/proc/{server.Id}/cmdline") && File.ReadAllText($"/proc/{server.Id}/cmdline").Contains($"={folder}/", StringComparison.Ordinal))
                {
                    server.Kill();
                }
            }
            Directory.Delete(folder, recursive: true);
        }
    }
}
