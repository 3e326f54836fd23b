using Lodge.Engine.State;
using Lodge.Machine.Devices.Interrupts.Pic8259;
using Lodge.Machine.Tests.Harness;
using Xunit;

namespace Lodge.Machine.Tests.Devices.Interrupts;

public sealed class Pic8259Tests : IDisposable
{
    private readonly DeviceFixture _fixture = new();
    private readonly RecordingLine _intr = new();
    private readonly Pic8259 _pic;

    public Pic8259Tests() => _pic = _fixture.Attach(new Pic8259(_intr));

    public void Dispose() => _fixture.Dispose();

    /// <summary>As Linux's init_8259A does it.</summary>
    private void Initialize(int icw4 = 0x01, int slaveIcw4 = 0x01)
    {
        _fixture.Out(0x21, 0xFF);
        _fixture.Out(0x20, 0x11);
        _fixture.Out(0x21, 0x30);
        _fixture.Out(0x21, 0x04);
        _fixture.Out(0x21, icw4);
        _fixture.Out(0xA0, 0x11);
        _fixture.Out(0xA1, 0x38);
        _fixture.Out(0xA1, 0x02);
        _fixture.Out(0xA1, slaveIcw4);
        _fixture.Out(0x21, 0);
        _fixture.Out(0xA1, 0);
    }

    private void Pulse(int input)
    {
        _pic.SetInput(input, true);
        _pic.SetInput(input, false);
    }

    [Fact]
    public void Linux_finds_the_pair_before_initializing_it()
    {
        // probe_8259A: mask the slave, write a mask to the master and read it back
        _fixture.Out(0xA1, 0xFF);
        _fixture.Out(0x21, 0xFB);
        Assert.Equal(0xFB, _fixture.In(0x21));
        Assert.False(_intr.Level);
    }

    [Fact]
    public void An_edge_is_delivered_once_and_needs_an_end_of_interrupt()
    {
        Initialize();
        _pic.SetInput(4, true);
        Assert.True(_intr.Level);
        Assert.Equal(0x10, _fixture.In(0x20)); // IRR
        Assert.Equal(0x34, _pic.Acknowledge());
        Assert.False(_intr.Level);
        _fixture.Out(0x20, 0x0B); // read ISR
        Assert.Equal(0x10, _fixture.In(0x20));
        _pic.SetInput(4, false);
        Pulse(4);
        Assert.False(_intr.Level); // kept back
        Pulse(1);
        Assert.Equal(0x31, _pic.Acknowledge()); // higher priority nests
        _fixture.Out(0x20, 0x20);
        Assert.Equal(0x10, _fixture.In(0x20)); // IRQ 1's service ended first
        _fixture.Out(0x20, 0x64);
        Assert.Equal(0x34, _pic.Acknowledge());
        _fixture.Out(0x20, 0x20);
        Assert.False(_intr.Level);
    }

    [Fact]
    public void A_held_edge_input_requests_only_once_and_icw1_forgets_it()
    {
        Initialize();
        _pic.SetInput(3, true);
        _fixture.Out(0x20, 0x11);
        _fixture.Out(0x21, 0x30);
        _fixture.Out(0x21, 0x04);
        _fixture.Out(0x21, 0x01);
        Assert.False(_intr.Level);
        _pic.SetInput(3, true);
        Assert.False(_intr.Level);
        _pic.SetInput(3, false);
        _pic.SetInput(3, true);
        Assert.Equal(0x33, _pic.Acknowledge());
    }

    [Fact]
    public void The_slave_interrupts_through_input_2()
    {
        Initialize();
        Pulse(14);
        Pulse(9);
        Assert.Equal(0x39, _pic.Acknowledge());
        Assert.False(_intr.Level);
        _fixture.Out(0xA0, 0x61);
        Assert.False(_intr.Level); // the master still serves input 2
        _fixture.Out(0x20, 0x62);
        Assert.True(_intr.Level);
        Assert.Equal(0x3E, _pic.Acknowledge());
        _fixture.Out(0xA0, 0x20);
        _fixture.Out(0x20, 0x20);
        Assert.False(_intr.Level);
    }

    [Fact]
    public void Special_fully_nested_mode_lets_the_slave_nest()
    {
        Initialize(icw4: 0x11);
        Pulse(14);
        Assert.Equal(0x3E, _pic.Acknowledge());
        Pulse(9);
        Assert.True(_intr.Level);
        Assert.Equal(0x39, _pic.Acknowledge());
        Pulse(15);
        Assert.False(_intr.Level);
    }

    [Fact]
    public void Spurious_interrupts_use_input_7_and_are_not_in_service()
    {
        Initialize();
        Assert.Equal(0x37, _pic.Acknowledge());
        _fixture.Out(0x20, 0x0B);
        Assert.Equal(0, _fixture.In(0x20));
        Pulse(10);
        Assert.True(_intr.Level);
        _fixture.Out(0xA1, 0xFF); // masked between request and acknowledge: the whole pair forgets
        Assert.False(_intr.Level);
        Assert.Equal(0x37, _pic.Acknowledge());
        _fixture.Out(0xA1, 0);
        Assert.Equal(0x3A, _pic.Acknowledge());
    }

    [Fact]
    public void Level_triggered_inputs_follow_the_line()
    {
        Initialize();
        _fixture.Out(0x4D0, 0xFF);
        _fixture.Out(0x4D1, 0xFF);
        Assert.Equal(0xF8, _fixture.In(0x4D0));
        Assert.Equal(0xDE, _fixture.In(0x4D1));
        _pic.SetInput(10, true);
        Assert.Equal(0x3A, _pic.Acknowledge());
        _fixture.Out(0xA0, 0x62);
        _fixture.Out(0x20, 0x62);
        Assert.True(_intr.Level); // still asserted
        _pic.SetInput(10, false);
        Assert.False(_intr.Level);
    }

    [Fact]
    public void Masks_keep_requests_pending()
    {
        Initialize();
        _fixture.Out(0x21, 0xFF);
        Pulse(5);
        Assert.False(_intr.Level);
        Assert.Equal(0x20, _fixture.In(0x20));
        _fixture.Out(0x21, 0xDF);
        Assert.Equal(0x35, _pic.Acknowledge());
    }

    [Fact]
    public void Automatic_end_of_interrupt_with_and_without_rotation()
    {
        Initialize(icw4: 0x03, slaveIcw4: 0x03);
        Pulse(0);
        Pulse(1);
        Assert.Equal(0x30, _pic.Acknowledge());
        Assert.Equal(0x31, _pic.Acknowledge());
        _fixture.Out(0x20, 0x80); // rotate in automatic EOI mode
        Pulse(0);
        Assert.Equal(0x30, _pic.Acknowledge());
        Pulse(0);
        Pulse(6);
        Assert.Equal(0x36, _pic.Acknowledge()); // 0 is lowest now
        Assert.Equal(0x30, _pic.Acknowledge());
        Pulse(8);
        Pulse(9);
        Assert.Equal(0x38, _pic.Acknowledge());
        Assert.True(_intr.Level);
        Assert.Equal(0x39, _pic.Acknowledge());
        Assert.False(_intr.Level);
    }

    [Fact]
    public void Rotation_and_set_priority()
    {
        Initialize();
        Pulse(4);
        Assert.Equal(0x34, _pic.Acknowledge());
        _fixture.Out(0x20, 0xA0); // rotate on non-specific EOI: 4 lowest
        Pulse(4);
        Pulse(5);
        Assert.Equal(0x35, _pic.Acknowledge());
        _fixture.Out(0x20, 0xE5); // rotate on specific EOI: 5 lowest
        Pulse(6);
        Assert.Equal(0x36, _pic.Acknowledge());
        _fixture.Out(0x20, 0x66);
        _fixture.Out(0x20, 0xC3); // set priority: 3 lowest, 4 highest
        Pulse(3);
        Assert.Equal(0x34, _pic.Acknowledge());
    }

    [Fact]
    public void Special_mask_mode_enables_lower_priorities()
    {
        Initialize();
        Pulse(1);
        Assert.Equal(0x31, _pic.Acknowledge());
        Pulse(6);
        Assert.False(_intr.Level);
        _fixture.Out(0x21, 0x02);
        _fixture.Out(0x20, 0x68);
        Assert.Equal(0x36, _pic.Acknowledge());
        _fixture.Out(0x20, 0x20); // spares the masked service
        _fixture.Out(0x20, 0x0B);
        Assert.Equal(0x02, _fixture.In(0x20));
        _fixture.Out(0x20, 0x48);
        _fixture.Out(0x20, 0x20);
        Assert.Equal(0, _fixture.In(0x20));
    }

    [Fact]
    public void Poll_acknowledges()
    {
        Initialize();
        _fixture.Out(0x20, 0x0C);
        Assert.Equal(0, _fixture.In(0x20));
        Pulse(6);
        _fixture.Out(0x20, 0x0C);
        Assert.Equal(0x86, _fixture.In(0x20));
        Assert.False(_intr.Level);
        _fixture.Out(0x20, 0x0B);
        Assert.Equal(0x40, _fixture.In(0x20));
    }

    [Fact]
    public void A_wide_access_reaches_both_ports()
    {
        Initialize();
        _fixture.Bus.WritePort(0x20, [0x0B, 0xA5]);
        byte[] both = new byte[2];
        _fixture.Bus.ReadPort(0x20, both);
        Assert.Equal([0x00, 0xA5], both);
    }

    [Fact]
    public void State_survives_and_intr_is_driven_again()
    {
        Initialize();
        _fixture.Out(0x4D1, 0x0C);
        Pulse(6);
        Assert.Equal(0x36, _pic.Acknowledge());
        _pic.SetInput(11, true);
        _fixture.Out(0xA0, 0x11); // in the middle of an initialization
        _fixture.Out(0xA1, 0x70);
        var line = new RecordingLine();
        var copy = new Pic8259(line);
        DeviceFixture.Copy(_pic, copy);
        Assert.Equal(_intr.Level, line.Level);
        Assert.True(line.Level);
        Assert.Equal(0x73, copy.Acknowledge());
        copy.Reset();
        Assert.False(line.Level);
    }

    [Fact]
    public void A_malformed_state_is_refused()
    {
        var writer = new StateWriter();
        writer.Nested(1, new Pic8259State(new Pic8259ChipState { LowestPriority = 9 }, new Pic8259ChipState()));
        Assert.Throws<SavedStateException>(() => _pic.Restore(new StateReader(writer.ToArray())));
    }

    [Fact]
    public void Random_accesses()
    {
        DeviceFuzz.Run(_fixture, 8259, [_pic], random =>
        {
            _pic.SetInput(random.Next(16), random.Next(2) == 0);
            if (random.Next(4) == 0)
            {
                _pic.Acknowledge();
            }
        });
    }
}
