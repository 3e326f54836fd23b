using Lodge.Machine.Interrupts;
using Lodge.Machine.Tests.Harness;
using Xunit;

namespace Lodge.Machine.Tests.Interrupts;

public sealed class InterruptLinesTests
{
    private sealed class Controller : IInterruptController
    {
        public bool[] Level { get; } = new bool[24];

        public void SetInput(int input, bool asserted) => Level[input] = asserted;
    }

    [Fact]
    public void A_wire_drives_both_controllers_with_the_timer_override()
    {
        Controller pic = new(), ioApic = new();
        var lines = new InterruptLines(pic, ioApic);
        for (int irq = 0; irq < 16; irq++)
        {
            if (irq == 2)
            {
                continue;
            }
            IInterruptLine line = lines.CreateIsaSource(irq);
            line.Set(true);
            Assert.Equal([irq], Asserted(pic));
            Assert.Equal([irq == 0 ? 2 : irq], Asserted(ioApic));
            line.Set(false);
        }
        lines.CreateSource(23).Set(true);
        Assert.Empty(Asserted(pic));
        Assert.Equal([23], Asserted(ioApic));
        Assert.Throws<ArgumentOutOfRangeException>(() => lines.CreateIsaSource(2));
        Assert.Throws<ArgumentOutOfRangeException>(() => lines.CreateSource(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => lines.CreateSource(24));
    }

    [Fact]
    public void Several_sources_are_ored()
    {
        Controller pic = new(), ioApic = new();
        var lines = new InterruptLines(pic, ioApic);
        IInterruptLine a = lines.CreateSource(10);
        IInterruptLine b = lines.CreateSource(10);
        a.Set(true);
        a.Set(true);
        b.Set(true);
        a.Set(false);
        a.Set(false);
        Assert.True(pic.Level[10] && ioApic.Level[10]);
        b.Set(false);
        Assert.False(pic.Level[10] || ioApic.Level[10]);
    }

    [Fact]
    public void A_cut_line_is_low_and_comes_back_with_its_level()
    {
        var output = new RecordingLine();
        var line = new GatedInterruptLine(output);
        line.Set(true);
        line.Cut(true);
        Assert.False(output.Level);
        line.Set(false);
        line.Set(true);
        Assert.False(output.Level);
        line.Cut(false);
        Assert.True(output.Level);
    }

    private static int[] Asserted(Controller controller) => [.. Enumerable.Range(0, 24).Where(i => controller.Level[i])];
}
