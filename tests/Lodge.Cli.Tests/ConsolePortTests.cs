using Lodge.Cli.Console;
using Lodge.Cli.Run;
using Lodge.Machine;
using Xunit;

namespace Lodge.Cli.Tests;

public class ConsolePortTests
{
    private static readonly byte[] Mark = "\u001eABCDEF"u8.ToArray();

    [Fact]
    public void End_mark_is_found_in_pieces_of_any_size_and_not_written()
    {
        byte[] stream = [.. "one\u001eABtwo\u001e\u001eABC\n"u8, .. Mark, .. "after"u8];
        for (int piece = 1; piece <= stream.Length; piece++)
        {
            using MemoryStream written = new();
            OutputPort port = new(data => { written.Write(data); return true; }, Mark);
            for (int at = 0; at < stream.Length; at += piece)
            {
                port.Write(stream.AsSpan(at, Math.Min(piece, stream.Length - at)));
            }
            Assert.True(port.Ended.WaitOne(10_000));
            port.Dispose();
            Assert.Equal("one\u001eABtwo\u001e\u001eABC\n"u8.ToArray(), written.ToArray());
        }
    }

    [Fact]
    public void What_looks_like_the_mark_is_written_when_the_stream_ends()
    {
        using MemoryStream written = new();
        OutputPort port = new(data => { written.Write(data); return true; }, Mark);
        port.Write("x\u001eABC"u8);
        port.Dispose();
        Assert.Equal("x\u001eABC"u8.ToArray(), written.ToArray());
    }

    [Fact]
    public void A_slow_reader_bounds_the_buffer_and_is_followed_by_ready()
    {
        using ManualResetEventSlim go = new();
        long written = 0;
        OutputPort port = new(data => { go.Wait(); written += data.Length; return true; });
        Receiver receiver = new();
        port.Connect(receiver);
        byte[] data = new byte[100_000];
        long accepted = 0;
        int taken;
        do
        {
            taken = port.Write(data);
            accepted += taken;
            Assert.True(accepted < 1 << 20);
        }
        while (taken == data.Length);
        go.Set();
        Assert.True(receiver.Ready.Wait(10_000));
        port.Dispose();
        Assert.Equal(accepted, written);
    }

    [Fact]
    public void A_sink_that_closes_is_told_once_and_output_goes_on_to_nowhere()
    {
        int closed = 0;
        OutputPort port = new(_ => false);
        port.SinkClosed = () => closed++;
        port.Write("a"u8);
        Assert.True(port.Ended.WaitOne(10_000));
        Assert.Equal(1, port.Write("b"u8));
        port.Dispose();
        Assert.Equal(1, closed);
    }

    [Fact]
    public void Input_waits_for_the_guest_and_its_end_closes_the_port()
    {
        string path = Path.GetTempFileName();
        byte[] text = [.. Enumerable.Range(0, 100_000).Select(i => (byte)i)];
        File.WriteAllBytes(path, text);
        using Microsoft.Win32.SafeHandles.SafeFileHandle handle = File.OpenHandle(path);
        File.Delete(path);
        InputPort port = new((int)handle.DangerousGetHandle(), null);
        Receiver receiver = new() { Room = 7777 };
        port.Connect(receiver);
        port.Start();
        while (!receiver.Closed.Wait(1))
        {
            receiver.Room = 7777;
            port.InputReady();
        }
        Assert.Equal(text, receiver.Received.ToArray());
    }

    [Fact]
    public void Control_right_bracket_leaves_and_reaches_nobody()
    {
        string path = Path.GetTempFileName();
        File.WriteAllBytes(path, "ab\u001dcd"u8.ToArray());
        using Microsoft.Win32.SafeHandles.SafeFileHandle handle = File.OpenHandle(path);
        File.Delete(path);
        using ManualResetEventSlim left = new();
        InputPort port = new((int)handle.DangerousGetHandle(), null) { Escape = left.Set, CloseAtEnd = false };
        Receiver receiver = new() { Room = 100 };
        port.Connect(receiver);
        port.Start();
        Assert.True(left.Wait(10_000));
        Assert.Equal("ab"u8.ToArray(), receiver.Received.ToArray());
    }

    [Fact]
    public void Control_lines_are_bounded_and_tell_the_status_once()
    {
        List<int> told = [];
        ControlPort port = new(told.Add);
        port.Write("noise\nexit x\nexit 300\nexit "u8);
        port.Write(new byte[100_000]);
        port.Write("\nexit 7\nexit 8\n"u8);
        Assert.Equal([7], told);
    }

    [Fact]
    public void Panic_reason_is_taken_from_the_console()
    {
        PanicWatch watch = new();
        foreach (byte b in "boot\n[    1.0] Kernel panic - not syncing: VFS: Unable to mount\r\n[ 1.1] Kernel panic - not syncing: second\n"u8)
        {
            watch.Observe([b]);
        }
        Assert.Equal("VFS: Unable to mount", watch.Reason);
        PanicWatch other = new();
        other.Observe(new byte[1 << 20]);
        other.Observe("\nKernel panic - not syncing: x\n"u8);
        Assert.Equal("x", other.Reason);
    }

    [Fact]
    public void The_first_end_counts()
    {
        RunEnd end = new();
        end.Finish(7, null);
        end.Finish(200, "reset");
        Assert.Equal(7, end.Wait(null).Status);
        RunOutcome timeout = new RunEnd().Wait(TimeSpan.FromMilliseconds(1));
        Assert.Equal(ExitStatus.Timeout, timeout.Status);
    }

    private sealed class Receiver : ICharacterReceiver
    {
        public ManualResetEventSlim Ready { get; } = new();

        public ManualResetEventSlim Closed { get; } = new();

        public MemoryStream Received { get; } = new();

        public volatile int Room;

        public int Receive(ReadOnlySpan<byte> data)
        {
            int n = Math.Min(data.Length, Room);
            Room -= n;
            Received.Write(data[..n]);
            return n;
        }

        public void OutputReady() => Ready.Set();

        public void Resize(int columns, int rows)
        {
        }

        public void SetConnected(bool connected)
        {
            if (!connected)
            {
                Closed.Set();
            }
        }
    }
}
