using Iced.Intel;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class FirstGuestTests
{
    [Fact]
    public void RealModeGuestWritesToAPort()
    {
        using var guest = new SmallGuest();
        guest.Put(SmallGuest.Code, 16, a =>
        {
            a.mov(ax, 40);
            a.add(ax, 2);
            a.mov(dx, 0x1F0);
            a.@out(dx, ax);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.RealMode();
        guest.RunToEnd();
        Assert.Equal(["out16 1F0 2A"], guest.Bus.Log);
    }
}
