using Lodge.Cli.Console;
using Lodge.Machine;
using Xunit;

namespace Lodge.Cli.Tests;

public class ChannelPortTests
{
    [Fact]
    public async Task What_the_guest_writes_is_read_in_order_and_a_full_buffer_is_followed_by_ready()
    {
        using ChannelPort port = new();
        Receiver receiver = new();
        port.Connect(receiver);
        byte[] sent = [.. Enumerable.Range(0, 200_000).Select(i => (byte)(i * 7))];
        List<byte> got = [];
        int at = 0;
        byte[] buffer = new byte[10_000];
        while (got.Count < sent.Length)
        {
            int accepted = ((ICharacterBackend)port).Write(sent.AsSpan(at));
            at += accepted;
            int readies = receiver.Readies;
            bool refused = at < sent.Length;
            int count = await port.ReadAsync(buffer.AsMemory(), TestContext.Current.CancellationToken);
            got.AddRange(buffer[..count]);
            Assert.True(!refused || receiver.Readies == readies + 1);
        }
        Assert.Equal(sent, got);
    }

    [Fact]
    public async Task A_reader_that_waits_is_woken_by_data_and_by_the_end()
    {
        ChannelPort port = new();
        port.Connect(new Receiver());
        Task<int> reading = port.ReadAsync(new byte[8], 0, 8, TestContext.Current.CancellationToken);
        Assert.False(reading.IsCompleted);
        ((ICharacterBackend)port).Write("ab"u8);
        Assert.Equal(2, await reading);
        reading = port.ReadAsync(new byte[8], 0, 8, TestContext.Current.CancellationToken);
        port.Dispose();
        Assert.Equal(0, await reading);
        Assert.Equal(3, ((ICharacterBackend)port).Write("abc"u8));
        await Assert.ThrowsAnyAsync<ObjectDisposedException>(() => port.WriteAsync(new byte[1], 0, 1, TestContext.Current.CancellationToken));
    }

    [Fact]
    public async Task A_writer_waits_for_the_guest()
    {
        using ChannelPort port = new();
        Receiver receiver = new() { Room = 1000 };
        port.Connect(receiver);
        byte[] sent = [.. Enumerable.Range(0, 5000).Select(i => (byte)i)];
        Task writing = port.WriteAsync(sent, 0, sent.Length, TestContext.Current.CancellationToken);
        while (!writing.IsCompleted)
        {
            receiver.Room = 1000;
            ((ICharacterBackend)port).InputReady();
            await Task.Yield();
        }
        await writing;
        Assert.Equal(sent, receiver.Received.ToArray());
    }

    private sealed class Receiver : ICharacterReceiver
    {
        public int Readies { get; private set; }

        public int Room { get; set; }

        public MemoryStream Received { get; } = new();

        public int Receive(ReadOnlySpan<byte> data)
        {
            int count = Math.Min(data.Length, Room);
            Room -= count;
            Received.Write(data[..count]);
            return count;
        }

        public void OutputReady() => Readies++;

        public void Resize(int columns, int rows)
        {
        }

        public void SetConnected(bool connected)
        {
        }
    }
}
