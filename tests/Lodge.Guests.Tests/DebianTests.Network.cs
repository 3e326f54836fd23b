using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.RegularExpressions;
using Xunit;

namespace Lodge.Guests.Tests;

/// <content>A Debian guest on user-mode NAT, as an ordinary user where that is possible.</content>
public sealed partial class DebianTests
{
    // In the guest. $1: port of the host's IPv6 loopback; then options for apt-get. What it prints is what the test waits for.
    private const string NetworkScript = """
        set -e
        port=$1; shift
        until address=$(ip -4 -o address show scope global | grep -o '10\.0\.2\.[0-9]*/[0-9]*'); do sleep 0.1; done
        echo "address $address $(ip route show default | grep -c 'via 10.0.2.2 .*proto dhcp')"
        until getent ahostsv4 dns.lodge.invalid >/dev/null || [ $? = 2 ]; do sleep 0.1; done
        echo "resolver $(resolvectl dns | grep -c -o '10\.0\.2\.3')"
        until ip -6 -o address show scope site | grep -q 'fec0::' && ! ip -6 -o address show tentative | grep -q fec0; do sleep 0.1; done
        bash -c "exec 3<>/dev/tcp/fec0::2/$port; echo from the guest >&3; read -r line <&3; echo \"ipv6 \$line\""
        cat >/tmp/echo.pl <<'END'
        use Socket; my ($t, $u);
        socket($t, PF_INET, SOCK_STREAM, 0) && setsockopt($t, SOL_SOCKET, SO_REUSEADDR, 1) && bind($t, sockaddr_in(80, INADDR_ANY)) && listen($t, 5) or die "tcp: $!";
        socket($u, PF_INET, SOCK_DGRAM, 0) && bind($u, sockaddr_in(53000, INADDR_ANY)) or die "udp: $!";
        $| = 1; print "listening\n";
        accept(my $c, $t) or die;
        sysread($c, my $x, 100); syswrite($c, "tcp $x"); close($c);
        my $from = recv($u, my $y, 100, 0); send($u, "udp $y", 0, $from);
        END
        perl /tmp/echo.pl
        apt-get "$@" update 2>&1 && echo "updated $(apt-cache policy hello | grep -c Candidate)"
        """;

    [Fact]
    public async Task A_guest_reaches_the_network_and_is_reached_without_root()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        Assert.SkipWhen(!File.Exists("/usr/lib/x86_64-linux-gnu/libslirp.so.0"), "libslirp is missing: install the package libslirp0");
        using TcpListener host = new(IPAddress.IPv6Loopback, 0);
        host.Start();
        string port = ((IPEndPoint)host.LocalEndpoint).Port.ToString(CultureInfo.InvariantCulture);
        using Process lodge = StartAsOrdinaryUser(
            ["run", "debian", "--publish", "127.0.0.1:0:80", "--publish", "0:53000/udp", "--", "sh", "-c", NetworkScript, "sh", port, .. AptOptions()]);
        try
        {
            StringBuilder errors = new();
            lodge.ErrorDataReceived += (_, line) =>
            {
                lock (errors)
                {
                    errors.AppendLine(line.Data);
                }
            };
            lodge.BeginErrorReadLine();
            Assert.Equal("address 10.0.2.15/24 1", await Next("address"));
            Assert.Equal("resolver 1", await Next("resolver"));
            using (TcpClient guest = await host.AcceptTcpClientAsync().WaitAsync(Limit))
            {
                using StreamReader reader = new(guest.GetStream());
                Assert.Equal("from the guest", await reader.ReadLineAsync());
                await guest.GetStream().WriteAsync("from the host\n"u8.ToArray());
            }
            Assert.Equal("ipv6 from the host", await Next("ipv6"));
            await Next("listening");
            string told;
            lock (errors)
            {
                told = errors.ToString();
            }
            int tcpPort = Published(told, 80, "tcp"), udpPort = Published(told, 53000, "udp");
            using (TcpClient client = new())
            {
                await client.ConnectAsync(IPAddress.Loopback, tcpPort);
                await client.GetStream().WriteAsync("hello"u8.ToArray());
                using StreamReader reader = new(client.GetStream());
                Assert.Equal("tcp hello", await reader.ReadToEndAsync().WaitAsync(Limit));
            }
            using (UdpClient client = new())
            {
                await client.SendAsync("hello"u8.ToArray(), new IPEndPoint(IPAddress.Loopback, udpPort));
                Assert.Equal("udp hello", Encoding.ASCII.GetString((await client.ReceiveAsync().WaitAsync(Limit)).Buffer));
            }
            Assert.Equal("updated 1", await Next("updated"));
            await lodge.WaitForExitAsync().WaitAsync(Limit);
            Assert.Equal(0, lodge.ExitCode);

            async Task<string> Next(string word)
            {
                StringBuilder passed = new();
                while (await lodge.StandardOutput.ReadLineAsync().WaitAsync(Limit) is { } line)
                {
                    if (line.StartsWith(word, StringComparison.Ordinal))
                    {
                        return line;
                    }
                    passed.AppendLine(line);
                }
                await lodge.WaitForExitAsync();
                lock (errors)
                {
                    throw new Xunit.Sdk.XunitException($"the guest ended before it told '{word}': {passed}{errors}");
                }
            }
        }
        finally
        {
            if (!lodge.HasExited)
            {
                lodge.Kill();
            }
        }
    }

    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(5); // far beyond any success; a hang must end

    private static int Published(string text, int guestPort, string protocol)
    {
        Match match = Regex.Match(text, $@"published 127\.0\.0\.1:(\d+):{guestPort}/{protocol}");
        Assert.True(match.Success, $"no port for {guestPort} was told: {text}");
        return int.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture);
    }

    /// <summary>The guest uses the mirror that the image was built from, through the host's proxy if there is one; its loopback is 10.0.2.2 there.</summary>
    private static List<string> AptOptions()
    {
        List<string> options = ["-o", "Acquire::Check-Valid-Until=false", "-o", "Acquire::Check-Date=false", "-o", "Acquire::Languages=none"]; // as mirrors of a fixed day need it
        string proxy = LodgeProcess.Script("eval \"$(apt-config shell p Acquire::http::Proxy)\"; printf %s \"${p:-$http_proxy}\"").Output;
        if (proxy is not ("" or "DIRECT"))
        {
            options.AddRange("-o", "Acquire::http::Proxy=" + Regex.Replace(proxy, @"//(localhost|127\.0\.0\.1|\[::1\])", "//10.0.2.2"));
        }
        return options;
    }

    /// <summary>Starts lodge on the store as the user nobody when the tests run as root and nobody may execute it.</summary>
    private Process StartAsOrdinaryUser(IReadOnlyList<string> arguments)
    {
        bool root = LodgeProcess.Script("[ $(id -u) = 0 ] && setpriv --reuid=65534 --regid=65534 --clear-groups test -x \"$0\"").Status == 0;
        string store = image.Folder;
        if (root)
        {
            Assert.Equal(0, LodgeProcess.Script("chown -R 65534:65534 \"$1\"", store).Status);
        }
        ProcessStartInfo start = new(root ? "/usr/bin/setpriv" : LodgeProcess.Program)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = "/",
        };
        foreach (string argument in (string[])[.. root ? (string[])["--reuid=65534", "--regid=65534", "--clear-groups", LodgeProcess.Program] : [], .. arguments])
        {
            start.ArgumentList.Add(argument);
        }
        start.Environment["XDG_DATA_HOME"] = start.Environment["HOME"] = store;
        Process process = Process.Start(start)!;
        process.StandardInput.Close();
        return process;
    }
}
