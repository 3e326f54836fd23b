using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Nbd;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Nbd;

/// <summary>Peers that break the protocol, and negotiation of old clients, byte by byte.</summary>
public sealed class NbdHostilePeerTests
{
    private static readonly int FuzzCases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out var count) ? count : 900;

    [Fact]
    public async Task AnOldClientGetsZeroesAndSimpleReplies()
    {
        var disk = new TestDisk(65536);
        Array.Fill(disk.Content, (byte)3, 0, 4096);
        await using var served = new ServedDisk(disk);
        using var client = served.Connect();
        Greeting(client);
        client.Send(Number32(1)); // fixed newstyle, with zeroes
        client.Send(Option(1, "disk"));
        var head = Receive(client, 134);
        Assert.Equal(65536, BinaryPrimitives.ReadInt64BigEndian(head));
        Assert.False(head.AsSpan(10).ContainsAnyExcept((byte)0));
        client.Send(Request(0, 0, 7, 4000, 200));
        var reply = Receive(client, 16 + 200);
        Assert.Equal(0x67446698u, BinaryPrimitives.ReadUInt32BigEndian(reply));
        Assert.Equal(0u, BinaryPrimitives.ReadUInt32BigEndian(reply.AsSpan(4)));
        Assert.Equal(7ul, BinaryPrimitives.ReadUInt64BigEndian(reply.AsSpan(8)));
        Assert.True(reply.AsSpan(16).SequenceEqual(disk.Content.AsSpan(4000, 200)));
    }

    [Theory]
    [InlineData(0, 0, 65000, 1000, 22)] // read beyond the end
    [InlineData(1, 0, 65536, 1, 28)] // write beyond the end
    [InlineData(6, 0, 65536, 1, 28)] // zeroes beyond the end
    [InlineData(4, 0, 0, 65537, 22)] // trim beyond the end
    [InlineData(0, 0, -1, 512, 22)] // offset of 64 bits
    [InlineData(0, 2, 0, 512, 22)] // flag of another command
    [InlineData(0, 0x8000, 0, 512, 22)] // unknown flag
    [InlineData(99, 0, 0, 0, 22)] // unknown command
    [InlineData(3, 0, 1, 0, 22)] // flush of a range
    [InlineData(7, 0, 0, 512, 22)] // block status without context
    [InlineData(8, 0, 0, 0, 1)] // resize where it is not allowed
    [InlineData(0, 0, 0, int.MaxValue, 22)] // more than a payload
    public async Task WrongRequestsGetTheirErrorAndTheConnectionGoesOn(int command, int flags, long offset, int length, int error)
    {
        await using var served = new ServedDisk(new TestDisk(65536));
        using var client = Old(served);
        client.Send(Request(command, flags, 1, offset, length));
        if (command == 1)
        {
            client.Send(new byte[length]);
        }

        Assert.Equal((uint)error, BinaryPrimitives.ReadUInt32BigEndian(Receive(client, 16).AsSpan(4)));
        client.Send(Request(0, 0, 2, 0, 10));
        Assert.Equal(0u, BinaryPrimitives.ReadUInt32BigEndian(Receive(client, 26).AsSpan(4)));
        client.Send(Request(2, 0, 3, 0, 0)); // disconnect
        Assert.Equal(0, client.Receive(new byte[1]));
    }

    [Theory]
    [InlineData("payload")]
    [InlineData("magic")]
    [InlineData("half")]
    public async Task BrokenRequestsEndTheConnection(string kind)
    {
        await using var served = new ServedDisk(new TestDisk(65536));
        using var client = Old(served);
        client.Send(kind switch
        {
            "payload" => Request(1, 0, 1, 0, (32 << 20) + 1),
            "magic" => new byte[28],
            _ => Request(0, 0, 1, 0, 10)[..20],
        });
        client.Shutdown(SocketShutdown.Send);
        Assert.Equal(0, client.Receive(new byte[1]));
        await using var other = await served.OpenAsync();
        await other.ReadAsync(0, new byte[10]);
    }

    [Fact]
    public async Task BrokenNegotiationsEndTheConnection()
    {
        await using var served = new ServedDisk(new TestDisk(65536));
        byte[][] sayings =
        [
            Number32(4), // unknown client flag
            [.. Number32(3), .. new byte[16]], // not an option
            [.. Number32(3), .. Option(6, new byte[] { 0xff, 0xff, 0xff, 0xff })[..12], 0xff, 0xff, 0xff, 0xff], // option data of 4 GiB
            [.. Number32(3), .. Option(1, "other")],
            [.. Number32(3), .. Option(1, [.. Enumerable.Repeat((byte)'a', 5000)])],
            [.. Number32(2), .. Option(6, "disk")], // options without fixed newstyle
        ];
        foreach (var saying in sayings)
        {
            using var client = served.Connect();
            Greeting(client);
            client.Send(saying);
            Assert.Equal(0, client.Receive(new byte[1]));
        }
    }

    [Fact]
    public async Task OptionsAreAnsweredAsSpecified()
    {
        await using var served = new ServedDisk([new NbdExport("a", new TestDisk(65536)), new NbdExport("b", new TestDisk(65536)) { Description = "second" }]);
        using var client = served.Connect();
        Greeting(client);
        client.Send(Number32(3));
        client.Send(Option(3, ""));
        Assert.Equal("\0\0\0\u0001a", Encoding.UTF8.GetString(Reply(client, 3, 2)));
        Assert.Equal("\0\0\0\u0001bsecond", Encoding.UTF8.GetString(Reply(client, 3, 2)));
        Reply(client, 3, 1);
        client.Send(Option(3, "x"));
        Reply(client, 3, 0x80000003); // list with data
        client.Send(Option(77, "x"));
        Reply(client, 77, 0x80000001);
        client.Send(Option(5, ""));
        Reply(client, 5, 0x80000002); // no TLS here
        client.Send(Option(10, [0, 0, 0, 1, (byte)'a', 0, 0, 0, 0]));
        Reply(client, 10, 0x80000003); // contexts before structured replies
        client.Send(Option(11, ""));
        Reply(client, 11, 1);
        client.Send(Option(11, ""));
        Reply(client, 11, 0x80000003);
        client.Send(Option(8, ""));
        Reply(client, 8, 0x8000000a);
        client.Send(Option(9, [0, 0, 0, 1, (byte)'a', 0xff, 0xff, 0xff, 0xff]));
        Reply(client, 9, 0x80000003); // four thousand million queries
        client.Send(Option(7, [0, 0, 0, 9, (byte)'a', 0, 0]));
        Reply(client, 7, 0x80000003); // name longer than the data
        client.Send(Option(7, [0, 0, 0, 0, 0, 0]));
        Reply(client, 7, 0x80000006); // two exports: none is the default
        client.Send(Option(3, new byte[70000]));
        Reply(client, 3, 0x80000009);
        client.Send(Option(2, ""));
        Reply(client, 2, 1);
        Assert.Equal(0, client.Receive(new byte[1]));
    }

    [Fact]
    public async Task ASlowNegotiationIsEnded()
    {
        await using var served = new ServedDisk(new TestDisk(65536), new NbdServerOptions { Shared = 1, Persistent = true, NegotiationTimeout = TimeSpan.FromMilliseconds(50) });
        using var client = served.Connect();
        Greeting(client);
        Assert.Equal(0, client.Receive(new byte[1]));
    }

    [Fact]
    public async Task AClientThatTakesNoRepliesHoldsBoundedMemory()
    {
        var disk = new TestDisk(8 << 20);
        Array.Fill(disk.Content, (byte)1);
        var reads = 0;
        disk.BeforeRead = _ =>
        {
            Interlocked.Increment(ref reads);
            return Task.CompletedTask;
        };
        await using var served = new ServedDisk(disk, new NbdServerOptions { Shared = 0, Persistent = true, StopTimeout = TimeSpan.FromMilliseconds(100) });
        using var client = Old(served);
        client.Blocking = false;
        var request = Request(0, 0, 1, 0, 8 << 20);
        for (var index = 0; index < 1000; index++)
        {
            try
            {
                client.Send(request);
            }
            catch (SocketException)
            {
                break; // the server reads no more
            }
        }

        await using var other = await served.OpenAsync();
        await other.ReadAsync(0, new byte[4096]);
        Assert.InRange(Volatile.Read(ref reads), 1, 10);
    }

    [Fact]
    public async Task RandomNegotiationsNeverFail()
    {
        await using var server = new NbdServer([new NbdExport("disk", new TestDisk(65536)) { Bitmaps = ["changed"], AllocationDepth = true }], new NbdServerOptions { Shared = 0, Persistent = true });
        for (var seed = 0; seed < FuzzCases; seed++)
        {
            var random = new Random(seed);
            using var input = new MemoryStream();
            input.Write(Number32(3));
            for (var count = random.Next(1, 8); count > 0; count--)
            {
                input.Write(Option(random.Next(1, 13), RandomData(random)));
            }

            input.Write(Option(7, [0, 0, 0, 4, .. "disk"u8, 0, 0]));
            for (var count = random.Next(0, 10); count > 0; count--)
            {
                input.Write(Request(random.Next(0, 10), random.Next(4) == 0 ? random.Next(65536) : 0, (ulong)count, random.Next(-100, 70000), random.Next(0, 70000)));
            }

            var bytes = input.ToArray();
            if (random.Next(2) == 0)
            {
                bytes[random.Next(bytes.Length)] ^= (byte)(1 << random.Next(8));
            }

            using var channel = new ScriptedChannel(bytes);
            await server.ServeAsync(channel).WaitAsync(TimeSpan.FromSeconds(30));
            Assert.True(channel.Disposed, $"seed {seed}");
        }
    }

    [Fact]
    public async Task MutatedServersNeverConfuseTheClient()
    {
        // What a server said in a good session, with errors in it, to the same client.
        var disk = new TestDisk(65536);
        new Random(2).NextBytes(disk.Content.AsSpan(8192, 20000));
        foreach (var style in new[] { NbdHeaderStyle.Extended, NbdHeaderStyle.Structured, NbdHeaderStyle.Simple })
        {
            var (transcript, gates) = await RecordAsync(disk, style);
            var succeeded = 0;
            await Parallel.ForEachAsync(Enumerable.Range(0, FuzzCases / 3), new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (seed, _) =>
            {
                var random = new Random(seed);
                var bytes = transcript.ToArray();
                for (var count = seed == 0 ? 0 : random.Next(1, 4); count > 0; count--)
                {
                    bytes[random.Next(3) == 0 ? random.Next(bytes.Length) : random.Next(Math.Min(bytes.Length, 500))] = (byte)(random.Next(2) == 0 ? 0xff : random.Next(256));
                }

                bytes = seed == 0 || random.Next(2) == 0 ? bytes : bytes[..random.Next(bytes.Length)];
                using var channel = new ScriptedChannel(bytes, gates, TimeSpan.FromMilliseconds(seed == 0 ? 30_000 : 20));
                try
                {
                    await TalkAsync(channel).WaitAsync(TimeSpan.FromSeconds(60));
                    Interlocked.Increment(ref succeeded);
                }
                catch (Exception failure) when (failure is DiskException or NbdProtocolException)
                {
                    Assert.True(seed != 0, failure.Message);
                }
                catch (Exception failure)
                {
                    Assert.Fail($"style {style} seed {seed}: {failure}");
                }
            });
            Assert.True(succeeded > 0);
        }
    }

    private static async Task<(byte[] Transcript, List<(int Offset, int Told)> Gates)> RecordAsync(TestDisk disk, NbdHeaderStyle style)
    {
        await using var served = new ServedDisk(disk, new NbdServerOptions { Shared = 0, Persistent = true, Newest = style }, change: export => export with { Bitmaps = ["changed"] });
        using var socket = served.Connect();
        using var recorder = new RecordingChannel(new SocketChannel(socket));
        await TalkAsync(recorder);
        return (recorder.Received, recorder.Gates);
    }

    /// <summary>The same requests each time, one after the other.</summary>
    private static async Task TalkAsync(NbdChannel channel)
    {
        var receiver = new NbdReceiver(channel);
        var session = await new NbdClientNegotiation(receiver, NbdAddress.Parse("nbd://host/disk"), null).RunAsync(default);
        await using var connection = new NbdClientConnection(receiver, session, "test");
        await connection.RunAsync(NbdCommand.Read, NbdCommandFlags.None, 4096, 16384, new byte[16384], default, default);
        await connection.RunAsync(NbdCommand.Write, NbdCommandFlags.None, 60000, 5, default, new byte[5], default);
        if (session.Contexts.Count > 0)
        {
            await connection.StatusAsync(0, 65536, default);
        }

        try
        {
            await connection.RunAsync(NbdCommand.Read, NbdCommandFlags.None, 65536, 1, new byte[1], default, default);
        }
        catch (DiskException failure) when (failure.Error == DiskError.InputOutput)
        {
        }

        await connection.RunAsync(NbdCommand.Flush, NbdCommandFlags.None, 0, 0, default, default, default);
    }

    private static byte[] RandomData(Random random)
    {
        var data = new byte[random.Next(3) switch { 0 => 0, 1 => random.Next(30), _ => random.Next(300) }];
        random.NextBytes(data);
        if (data.Length > 12 && random.Next(2) == 0)
        {
            BinaryPrimitives.WriteInt32BigEndian(data, 4);
            "disk"u8.CopyTo(data.AsSpan(4));
            BinaryPrimitives.WriteInt32BigEndian(data.AsSpan(8), random.Next(4));
        }

        return data;
    }

    private static Socket Old(ServedDisk served)
    {
        var client = served.Connect();
        Greeting(client);
        client.Send(Number32(3));
        client.Send(Option(1, "disk"));
        Receive(client, 10);
        return client;
    }

    private static void Greeting(Socket client)
    {
        var greeting = Receive(client, 18);
        Assert.Equal("NBDMAGICIHAVEOPT", Encoding.ASCII.GetString(greeting, 0, 16));
        Assert.Equal([0, 3], greeting[16..]);
    }

    private static byte[] Reply(Socket client, uint option, uint type)
    {
        var head = Receive(client, 20);
        Assert.Equal(0x3e889045565a9ul, BinaryPrimitives.ReadUInt64BigEndian(head));
        Assert.Equal((option, type), (BinaryPrimitives.ReadUInt32BigEndian(head.AsSpan(8)), BinaryPrimitives.ReadUInt32BigEndian(head.AsSpan(12))));
        return Receive(client, BinaryPrimitives.ReadInt32BigEndian(head.AsSpan(16)));
    }

    private static byte[] Receive(Socket client, int count)
    {
        var bytes = new byte[count];
        for (var done = 0; done < count;)
        {
            var received = client.Receive(bytes.AsSpan(done));
            Assert.NotEqual(0, received);
            done += received;
        }

        return bytes;
    }

    private static byte[] Number32(int number)
    {
        var bytes = new byte[4];
        BinaryPrimitives.WriteInt32BigEndian(bytes, number);
        return bytes;
    }

    private static byte[] Option(int option, string data) => Option(option, Encoding.UTF8.GetBytes(data));

    private static byte[] Option(int option, byte[] data) => [.. "IHAVEOPT"u8, .. Number32(option), .. Number32(data.Length), .. data];

    private static byte[] Request(int command, int flags, ulong cookie, long offset, int length)
    {
        var bytes = new byte[28];
        BinaryPrimitives.WriteUInt32BigEndian(bytes, 0x25609513);
        BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(4), (ushort)flags);
        BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(6), (ushort)command);
        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(8), cookie);
        BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan(16), offset);
        BinaryPrimitives.WriteInt32BigEndian(bytes.AsSpan(24), length);
        return bytes;
    }
}
