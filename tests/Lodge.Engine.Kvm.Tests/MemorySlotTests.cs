using Iced.Intel;
using Lodge.Engine.Memory;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class MemorySlotTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void WritesOfGuestAndDevicesAreCollected(bool rings)
    {
        using var guest = new SmallGuest(engine: new KvmEngine { DirtyRings = rings });
        IDirtyTracking dirty = guest.Partition.DirtyTracking;
        Assert.SkipWhen(rings && dirty is not Memory.DirtyRing, "this KVM has no dirty rings");
        guest.Put(SmallGuest.Code, 64, a =>
        {
            Label again = a.CreateLabel();
            a.Label(ref again);
            a.mov(rbx, 0x10_0000UL);
            a.mov(__dword_ptr[rbx], 1);
            a.mov(__dword_ptr[rbx + 0x3000], 1);
            a.@out(0x80, al);
            a.jmp(again);
        });
        guest.LongMode();
        guest.Bus.PortWritten = (_, _) => guest.Processor.Stop();
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        dirty.Start();
        ulong[] bitmap = new ulong[dirty.WordCount];
        for (int round = 0; round < 3; round++)
        {
            Assert.Equal(ProcessorExit.Stopped, guest.Run());
            guest.Memory.TryWrite(0x20_0FFE, 0x1122_3344u); // two pages
            Assert.True(guest.Memory.TryLend(0x30_0000, 16, out _));
            guest.Memory.Written(0x30_0000, 16);
            Array.Clear(bitmap);
            dirty.Collect(bitmap);
            int[] pages = Pages(bitmap);
            Assert.All([0x100, 0x103, 0x200, 0x201, 0x300], page => Assert.Contains(page, pages));
            Assert.DoesNotContain(0x101, pages);
            Assert.DoesNotContain(0x3FF, pages);
        }
        Array.Clear(bitmap);
        dirty.Collect(bitmap);
        Assert.Empty(Pages(bitmap));
        dirty.Stop();
        guest.Memory.TryWrite(0x20_0000, 1);
        dirty.Collect(bitmap);
        Assert.Empty(Pages(bitmap));
    }

    [Fact]
    public void FullRingsAreEmptiedAndLoseNothing()
    {
        const int Pages = 20_000;
        using var guest = new SmallGuest(memory: 128 << 20, engine: new KvmEngine { DirtyRings = true });
        IDirtyTracking dirty = guest.Partition.DirtyTracking;
        Assert.SkipWhen(dirty is not Memory.DirtyRing, "this KVM has no dirty rings");
        const ulong User = SmallGuest.Code + 0x1000;
        guest.PutEntryToRingThree(User);
        guest.Put(User, 64, a =>
        {
            Label again = a.CreateLabel();
            a.mov(rbx, 0x100_0000UL);
            a.mov(ecx, Pages);
            a.Label(ref again);
            a.mov(__dword_ptr[rbx], ecx);
            a.add(rbx, 0x1000);
            a.dec(ecx);
            a.jnz(again);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.LongMode();
        dirty.Start();
        guest.RunToEnd();
        ulong[] bitmap = new ulong[dirty.WordCount];
        dirty.Collect(bitmap);
        Assert.Equal(Pages, MemorySlotTests.Pages(bitmap).Count(static page => page is >= 0x1000 and < 0x1000 + Pages));
        Assert.True(guest.Processor.Counters["dirty rings full"] > 0);
    }

    [Fact]
    public unsafe void ReadOnlyMemoryIsReadAndWritesReachTheBus()
    {
        using var guest = new SmallGuest();
        using var rom = new GuestMemory(1 << 20);
        rom.TryWrite(0x40, 0x1234_5678u);
        int slot = guest.Partition.Slots.Add(0xF000_0000, rom.HostBase, 1 << 20, readOnly: true);
        guest.Put(SmallGuest.Code, 64, a =>
        {
            a.mov(rbx, 0xF000_0000UL);
            a.mov(eax, __dword_ptr[rbx + 0x40]);
            a.@out(0x80, eax);
            a.mov(eax, 9);
            a.mov(__dword_ptr[rbx + 0x40], eax);
            a.mov(eax, __dword_ptr[rbx + 0x40]);
            a.@out(0x80, eax);
            a.@out(0x81, al);
            a.mov(eax, __dword_ptr[rbx + 0x40]);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.LongMode();
        guest.Bus.PortWritten = (port, _) =>
        {
            if (port == 0x81)
            {
                guest.Partition.Slots.Remove(slot);
            }
        };
        guest.RunToEnd();
        Assert.Equal(["out32 80 12345678", "write32 F0000040 9", "out32 80 12345678", "out8 81 78", "read32 F0000040"], guest.Bus.Log);
    }

    private static int[] Pages(ulong[] bitmap) => [.. Enumerable.Range(0, bitmap.Length * 64).Where(page => (bitmap[page / 64] >> (page % 64) & 1) != 0)];
}
