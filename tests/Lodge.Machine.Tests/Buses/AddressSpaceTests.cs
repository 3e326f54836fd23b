using Lodge.Machine.Buses;
using Xunit;

namespace Lodge.Machine.Tests.Buses;

public sealed class AddressSpaceTests
{
    /// <summary>Reads back (tag + offset) in every byte and records what it saw.</summary>
    private sealed class Recorder(byte tag, IoResult result = IoResult.Done) : IIoHandler
    {
        public List<(bool Write, ulong Offset, int Length)> Seen { get; } = [];

        public IoResult Read(ulong offset, Span<byte> data)
        {
            Seen.Add((false, offset, data.Length));
            for (int i = 0; i < data.Length; i++)
            {
                data[i] = (byte)(tag + (int)offset + i);
            }
            return result;
        }

        public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
        {
            Seen.Add((true, offset, data.Length));
            return result;
        }
    }

    private static RegionClaim Memory(string name, ulong start, ulong length, IIoHandler handler) => new(name, RegionSpace.Memory, start, length, handler);

    private static byte[] Read(AddressSpace space, ulong address, int length)
    {
        byte[] data = new byte[length];
        space.Read(address, data);
        return data;
    }

    [Fact]
    public void An_access_arrives_at_the_region_that_holds_it()
    {
        var space = new AddressSpace(RegionSpace.Memory);
        var handlers = new Recorder[50];
        foreach (int i in Enumerable.Range(0, 50).OrderBy(i => i * 7919 % 50))
        {
            handlers[i] = new Recorder((byte)i);
            space.Map(Memory($"r{i}", (ulong)(0x1000 + (i * 0x20)), 0x10, handlers[i]));
        }
        for (int i = 0; i < 50; i++)
        {
            ulong start = (ulong)(0x1000 + (i * 0x20));
            Assert.Equal([(byte)(i + 4), (byte)(i + 5)], Read(space, start + 4, 2));
            Assert.Equal([(byte)(i + 15)], Read(space, start + 15, 1));
            Assert.Equal([0xFF], Read(space, start + 16, 1));
        }
        Assert.Equal([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], Read(space, 0xFF0, 8));
        Assert.Equal(50, space.Regions.Count);
    }

    [Fact]
    public void An_access_across_a_regions_end_is_split_into_bytes()
    {
        var space = new AddressSpace(RegionSpace.Memory);
        var low = new Recorder(0x10);
        var high = new Recorder(0x80);
        space.Map(Memory("low", 0x100, 4, low));
        space.Map(Memory("high", 0x106, 4, high));
        Assert.Equal([0x12, 0x13, 0xFF, 0xFF, 0x80, 0x81, 0x82, 0x83], Read(space, 0x102, 8));
        Assert.Equal([0xFF, 0x80], Read(space, 0x105, 2));
        space.Write(0x103, [1, 2, 3, 4]);
        Assert.Equal([(false, 2UL, 1), (false, 3UL, 1), (true, 3UL, 1)], low.Seen);
        Assert.Equal((true, 0UL, 1), high.Seen[^1]);
    }

    [Fact]
    public void Accesses_at_the_end_of_the_space_do_not_wrap()
    {
        var ports = new AddressSpace(RegionSpace.Port);
        var last = new Recorder(0x40);
        var first = new Recorder(0x20);
        ports.Map(new RegionClaim("last", RegionSpace.Port, 0xFFFF, 1, last));
        ports.Map(new RegionClaim("first", RegionSpace.Port, 0, 4, first));
        Assert.Equal([0x40, 0xFF, 0xFF, 0xFF], Read(ports, 0xFFFF, 4));
        ports.Write(0xFFFF, [1, 2, 3, 4]);
        Assert.Empty(first.Seen);

        var memory = new AddressSpace(RegionSpace.Memory);
        memory.Map(Memory("top", ulong.MaxValue - 3, 4, last));
        Assert.Equal([0x42, 0x43, 0xFF, 0xFF], Read(memory, ulong.MaxValue - 1, 4));
        memory.Write(ulong.MaxValue, [1, 2, 3, 4, 5, 6, 7, 8]);
        Assert.Equal((true, 3UL, 1), last.Seen[^1]);
    }

    [Fact]
    public void Invalid_reads_as_ones()
    {
        var space = new AddressSpace(RegionSpace.Memory);
        space.Map(Memory("r", 0, 8, new Recorder(0, IoResult.Invalid)));
        Assert.Equal([0xFF, 0xFF], Read(space, 0, 2));
        space.Write(0, [1]);
    }

    [Fact]
    public void Fixed_regions_must_not_overlap_or_leave_the_space()
    {
        var space = new AddressSpace(RegionSpace.Port);
        var handler = new Recorder(0);
        space.Map(new RegionClaim("a", RegionSpace.Port, 0x60, 4, handler));
        Assert.Throws<ArgumentException>(() => space.Map(new RegionClaim("b", RegionSpace.Port, 0x63, 1, handler)));
        Assert.Throws<ArgumentException>(() => space.Map(new RegionClaim("c", RegionSpace.Port, 0x5F, 2, handler)));
        Assert.Throws<ArgumentException>(() => space.Map(new RegionClaim("d", RegionSpace.Port, 0xFFFF, 2, handler)));
        Assert.Throws<ArgumentException>(() => space.Map(new RegionClaim("e", RegionSpace.Port, 0x70, 0, handler)));
        Assert.Throws<ArgumentException>(() => space.Map(new RegionClaim("f", RegionSpace.Memory, 0x70, 1, handler)));
        Assert.Single(space.Regions);
    }

    [Fact]
    public void A_movable_region_yields_to_what_was_there_and_comes_back_when_it_goes()
    {
        var space = new AddressSpace(RegionSpace.Memory);
        space.Map(Memory("fixed", 0x1000, 0x1000, new Recorder(1)));
        MappedRegion first = space.MapMovable(Memory("bar0", 0x4000, 0x1000, new Recorder(2)));
        MappedRegion second = space.MapMovable(Memory("bar1", 0x8000, 0x2000, new Recorder(3)));
        Assert.True(first.IsReachable && second.IsReachable);

        space.Remap(second, 0x3000); // second half over bar0
        Assert.False(second.IsReachable);
        Assert.Equal([0xFF], Read(space, 0x3000, 1));
        Assert.Equal([2], Read(space, 0x4000, 1));

        space.Unmap(first);
        Assert.True(second.IsReachable);
        Assert.Equal([3], Read(space, 0x3000, 1));

        space.Remap(first, 0x4000);
        Assert.True(first.IsMapped);
        Assert.False(first.IsReachable);

        space.Remap(second, 0x0800); // over the fixed region
        Assert.False(second.IsReachable);
        Assert.True(first.IsReachable);
        Assert.Equal([1], Read(space, 0x1000, 1));

        space.Remap(second, ulong.MaxValue - 0x100); // beyond the end: unreachable, no wrap
        Assert.False(second.IsReachable);
        Assert.Equal([0xFF], Read(space, 0, 1));
    }

    private sealed class Deferring : IIoHandler
    {
        public DeferredAccess? Pending;
        public bool CompleteAtOnce;
        public bool Forget;

        public IoResult Read(ulong offset, Span<byte> data) => Defer([0x11, 0x22]);

        public IoResult Write(ulong offset, ReadOnlySpan<byte> data) => Defer([]);

        private IoResult Defer(ReadOnlySpan<byte> answer)
        {
            if (!Forget)
            {
                var access = DeferredAccess.Begin();
                if (CompleteAtOnce)
                {
                    access.Complete(answer);
                }
                Volatile.Write(ref Pending, access);
            }
            return IoResult.Deferred;
        }
    }

    [Fact]
    public async Task A_deferred_access_waits_for_its_completion()
    {
        var bus = new MachineBus();
        var handler = new Deferring();
        bus.Memory.Map(Memory("deferring", 0, 8, handler));
        var read = Task.Run(() => Read(bus.Memory, 0, 4));
        while (Volatile.Read(ref handler.Pending) is null)
        {
            await Task.Yield();
        }
        Assert.False(read.IsCompleted);
        handler.Pending!.Complete([0xAA, 0xBB]);
        handler.Pending.Complete([0xCC, 0xDD]);
        Assert.Equal([0xAA, 0xBB, 0xFF, 0xFF], await read);

        handler.CompleteAtOnce = true;
        Assert.Equal([0x11, 0x22], Read(bus.Memory, 2, 2));
        bus.WriteMemory(0, [1]);

        handler.Forget = true; // deferred without an object: never hangs
        Assert.Equal([0xFF], Read(bus.Memory, 0, 1));
        bus.WriteMemory(0, [1]);
    }

    [Fact]
    public async Task Look_up_is_consistent_while_the_map_changes()
    {
        var space = new AddressSpace(RegionSpace.Memory);
        space.Map(Memory("fixed", 0x1000, 0x100, new Recorder2(1)));
        MappedRegion bar = space.MapMovable(Memory("bar", 0x2000, 0x100, new Recorder2(2)));
        using var stop = new CancellationTokenSource();
        var mover = Task.Run(() =>
        {
            for (ulong i = 0; !stop.IsCancellationRequested; i++)
            {
                space.Remap(bar, 0x2000 + (i % 16 * 0x1000));
            }
        });
        byte[] data = new byte[1];
        for (int i = 0; i < 100_000; i++)
        {
            space.Read(0x1010, data);
            Assert.Equal(1, data[0]);
            space.Read(0x2010, data);
            Assert.True(data[0] is 2 or 0xFF);
        }
        stop.Cancel();
        await mover;
    }

    private sealed class Recorder2(byte value) : IIoHandler
    {
        public IoResult Read(ulong offset, Span<byte> data)
        {
            data.Fill(offset == 0x10 ? value : (byte)0x77);
            return IoResult.Done;
        }

        public IoResult Write(ulong offset, ReadOnlySpan<byte> data) => IoResult.Done;
    }
}
