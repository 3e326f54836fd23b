using Lodge.Machine.Devices.Interrupts.IoApic;
using Lodge.Machine.Devices.Interrupts.Pic8259;
using Lodge.Machine.Devices.Timers.Hpet;
using Lodge.Machine.Devices.Timers.Pit8254;
using Lodge.Machine.Interrupts;
using Lodge.Machine.Tests.Harness;
using Xunit;

namespace Lodge.Machine.Tests.Interrupts;

/// <summary>The controllers and timers wired as in the machine, and what Linux 6.1 does to find out whether its timer interrupt works.</summary>
public sealed class LinuxTimerProbeTests : IDisposable
{
    private const ulong IoApicBase = 0xFEC0_0000;
    private const ulong HpetBase = 0xFED0_0000;
    private readonly DeviceFixture _fixture = new();
    private readonly RecordingLine _intr = new();
    private readonly RecordingMessages _messages = new();
    private readonly Pic8259 _pic;
    private readonly IoApic _ioApic;
    private readonly Pit8254 _pit;
    private readonly Hpet _hpet;

    public LinuxTimerProbeTests()
    {
        _pic = _fixture.Attach(new Pic8259(_intr));
        _ioApic = _fixture.Attach(new IoApic(_messages));
        var lines = new InterruptLines(_pic, _ioApic);
        var gate = new GatedInterruptLine(lines.CreateIsaSource(0));
        _pit = _fixture.Attach(new Pit8254(gate, _fixture.Timers));
        _hpet = _fixture.Attach(new Hpet(HpetConfiguration.Create(lines, [gate], _messages), _fixture.Timers));
        _pit.Start();
        _hpet.Start();
    }

    public void Dispose() => _fixture.Dispose();

    private void IoApicWrite(uint register, uint value)
    {
        _fixture.Write32(IoApicBase, register);
        _fixture.Write32(IoApicBase + 0x10, value);
    }

    /// <summary>init_8259A(0) with everything masked, as with an I/O APIC.</summary>
    private void InitializePic()
    {
        (ushort Port, int Value)[] writes =
        [
            (0x21, 0xFF), (0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x01),
            (0xA0, 0x11), (0xA1, 0x38), (0xA1, 0x02), (0xA1, 0x01), (0x21, 0xFB), (0xA1, 0xFF),
        ];
        foreach ((ushort port, int value) in writes)
        {
            _fixture.Out(port, value);
        }
    }

    /// <summary>pit_set_periodic at HZ=250.</summary>
    private void StartPit()
    {
        _fixture.Out(0x43, 0x34);
        _fixture.Out(0x40, 4773 & 0xFF);
        _fixture.Out(0x40, 4773 >> 8);
    }

    private void Run(int periods)
    {
        for (int i = 0; i < periods; i++)
        {
            _fixture.Advance(4_000_200);
            _pit.Expire();
            _hpet.Expire();
        }
    }

    [Fact]
    public void Timer_irq_works_through_io_apic_pin_2()
    {
        InitializePic();
        StartPit();
        Run(2);
        IoApicWrite(0x15, 0);
        IoApicWrite(0x14, 0x0001_0030); // masked, edge, vector 0x30
        Run(1);
        Assert.Empty(_messages.Take());
        IoApicWrite(0x14, 0x30);
        Run(10); // timer_irq_works wants more than 4 ticks in 40 ms
        List<(ulong Address, uint Data)> messages = _messages.Take();
        Assert.All(messages, message => Assert.Equal((0xFEE0_0000UL, 0x4030u), message));
        Assert.InRange(messages.Count, 9, 11);
        Assert.False(_intr.Level); // the 8259 stays quiet
    }

    [Fact]
    public void Timer_irq_works_through_the_8259()
    {
        InitializePic();
        StartPit();
        _fixture.Out(0x21, 0xFA); // legacy_pic->unmask(0)
        Run(1);
        int ticks = 0;
        for (int i = 0; i < 10; i++)
        {
            Run(1);
            while (_intr.Level)
            {
                Assert.Equal(0x30, _pic.Acknowledge());
                _fixture.Out(0x20, 0x60); // specific EOI, as mask_and_ack_8259A
                ticks++;
            }
        }
        Assert.InRange(ticks, 10, 12);
    }

    [Fact]
    public void The_hpet_takes_over_irq_0()
    {
        InitializePic();
        IoApicWrite(0x14, 0x30);
        StartPit();
        Run(3);
        Assert.InRange(_messages.Take().Count, 3, 4);
        // hpet_enable_legacy_int, then a periodic timer 0 at 4 ms
        _fixture.Write32(HpetBase + 0x10, 3);
        _fixture.Write32(HpetBase + 0x100, 0x4 | 0x8 | 0x40 | 0x100);
        _fixture.Write32(HpetBase + 0x108, _fixture.Read32(HpetBase + 0xF0) + 400_000);
        _fixture.Write32(HpetBase + 0x108, 400_000);
        Run(10);
        Assert.Equal(10, _messages.Take().Count); // one per period, none of the 8254's
        _fixture.Write32(HpetBase + 0x100, 0);
        _fixture.Write32(HpetBase + 0x10, 0);
        _messages.Take();
        Run(3);
        Assert.InRange(_messages.Take().Count, 3, 4); // the 8254 has the line again
    }

    [Fact]
    public void Random_accesses_to_all_of_them()
    {
        DeviceFuzz.Run(_fixture, 61, [_pic, _ioApic, _pit, _hpet], random =>
        {
            if (random.Next(8) == 0)
            {
                _pic.Acknowledge();
                _ioApic.EndOfInterrupt((byte)random.Next(256));
            }
        });
    }
}
