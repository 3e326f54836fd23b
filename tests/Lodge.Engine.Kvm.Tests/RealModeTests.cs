using Iced.Intel;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class RealModeTests
{
    [Fact]
    public void PortsOfAllWidths()
    {
        using var guest = new SmallGuest();
        guest.Bus.Answer = static (port, size) => 0x8182_8384;
        guest.Put(SmallGuest.Code, 16, a =>
        {
            a.mov(dx, 0x1F0);
            a.mov(eax, 0x1122_3344);
            a.@out(dx, al);
            a.@out(dx, ax);
            a.@out(dx, eax);
            a.@out(0x80, al);
            a.xor(eax, eax);
            a.@in(al, dx);
            a.@out(dx, eax);
            a.@in(ax, dx);
            a.@out(dx, eax);
            a.@in(eax, dx);
            a.@out(dx, eax);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.RealMode();
        guest.RunToEnd();
        Assert.Equal(
            [
                "out8 1F0 44", "out16 1F0 3344", "out32 1F0 11223344", "out8 80 44", "in8 1F0", "out32 1F0 84", "in16 1F0", "out32 1F0 8384", "in32 1F0",
                "out32 1F0 81828384",
            ],
            guest.Bus.Log);
    }

    [Fact]
    public void StringsToAndFromPorts()
    {
        using var guest = new SmallGuest();
        byte next = 0;
        guest.Bus.Answer = (_, _) => ++next;
        guest.Memory.TryWrite(SmallGuest.Code + 0x800, "abcdef"u8);
        guest.Put(SmallGuest.Code, 16, a =>
        {
            a.cld();
            a.mov(ax, cs);
            a.mov(ds, ax);
            a.mov(es, ax);
            a.mov(si, 0x800);
            a.mov(cx, 3);
            a.mov(dx, 0x3F8);
            a.rep.outsb();
            a.mov(cx, 1);
            a.rep.outsw();
            a.mov(di, 0x900);
            a.mov(cx, 5);
            a.rep.insb();
            a.mov(cx, 2);
            a.rep.insd();
            a.std();
            a.mov(di, 0x984);
            a.mov(cx, 2);
            a.rep.insw();
            a.@out(SmallGuest.EndPort, al);
        });
        guest.RealMode();
        guest.RunToEnd();
        Assert.Equal(["out8 3F8 61", "out8 3F8 62", "out8 3F8 63", "out16 3F8 6564"], guest.Bus.Log.Where(static line => line.StartsWith("out", StringComparison.Ordinal)));
        byte[] read = new byte[13];
        guest.Memory.TryRead(SmallGuest.Code + 0x900, read);
        Assert.Equal([1, 2, 3, 4, 5, 6, 0, 0, 0, 7, 0, 0, 0], read);
        Assert.Equal(9u | (8u << 16), guest.Word(SmallGuest.Code + 0x982));
    }

    [Fact]
    public void InterruptsThroughTheVectorTable()
    {
        using var guest = new SmallGuest();
        guest.Memory.TryWrite(0x21 * 4, (uint)(SmallGuest.Code >> 4 << 16) | 0x100);
        guest.Put(SmallGuest.Code + 0x100, 16, a =>
        {
            a.add(ax, 7);
            a.iret();
        });
        guest.Put(SmallGuest.Code, 16, a =>
        {
            a.xor(ax, ax);
            a.mov(ss, ax);
            a.mov(sp, 0x8000);
            a.mov(ax, 5);
            a.@int(0x21);
            a.mov(dx, 0x1F0);
            a.@out(dx, ax);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.RealMode();
        guest.RunToEnd();
        Assert.Equal(["out16 1F0 C"], guest.Bus.Log);
    }
}
