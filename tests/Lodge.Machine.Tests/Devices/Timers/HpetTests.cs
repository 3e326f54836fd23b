using Lodge.Engine.State;
using Lodge.Machine.Devices.Timers.Hpet;
using Lodge.Machine.Interrupts;
using Lodge.Machine.Tests.Harness;
using Xunit;

namespace Lodge.Machine.Tests.Devices.Timers;

public sealed class HpetTests : IDisposable
{
    private const ulong Base = 0xFED0_0000;
    private const ulong Config = Base + 0x10;
    private const ulong Status = Base + 0x20;
    private const ulong Counter = Base + 0xF0;
    private readonly DeviceFixture _fixture = new();
    private readonly Rig _rig = new();
    private readonly Hpet _hpet;

    private sealed class Rig
    {
        public Dictionary<int, RecordingLine>[] Lines { get; } = [.. Enumerable.Range(0, 3).Select(_ => Enumerable.Range(20, 4).ToDictionary(i => i, _ => new RecordingLine()))];

        public RecordingLine Irq0 { get; } = new();

        public RecordingLine Irq8 { get; } = new();

        public RecordingLine PitLine { get; } = new();

        public GatedInterruptLine Pit { get; }

        public RecordingMessages Messages { get; } = new();

        public Rig() => Pit = new GatedInterruptLine(PitLine);

        public HpetConfiguration Configuration => new(
            [.. Lines.Select(lines => lines.ToDictionary(pair => pair.Key, pair => (IInterruptLine)pair.Value))], Irq0, Irq8, [Pit], Messages);
    }

    public HpetTests()
    {
        _hpet = _fixture.Attach(new Hpet(_rig.Configuration, _fixture.Timers));
        _fixture.Clock.Set(123_456_780);
        _hpet.Start();
    }

    public void Dispose() => _fixture.Dispose();

    private static ulong Timer(int index, ulong register = 0) => Base + 0x100 + ((ulong)index * 0x20) + register;

    private static uint Route(int gsi) => (uint)gsi << 9;

    /// <summary>Moves machine time on by ticks of the main counter and lets the host timer expire.</summary>
    private void Ticks(long count)
    {
        _fixture.Advance(count * 10);
        _hpet.Expire();
    }

    [Fact]
    public void Linux_hpet_enable_finds_a_counter_that_counts()
    {
        uint period = _fixture.Read32(Base + 4);
        Assert.InRange(period, 100_000u, 100_000_000u);
        Assert.Equal(10_000_000u, period);
        uint id = _fixture.Read32(Base);
        Assert.Equal(2u, (id >> 8) & 0x1F);
        Assert.NotEqual(0u, id & 0x8000); // legacy replacement
        uint config = _fixture.Read32(Config);
        Assert.NotEqual(uint.MaxValue, config);
        Assert.Equal(0u, config);
        _fixture.Write32(Config, config & ~3u);
        for (int i = 0; i < 3; i++)
        {
            uint timer = _fixture.Read32(Timer(i)) & ~0x4006u;
            _fixture.Write32(Timer(i), timer);
            // "Unrecognized bits": everything but what hpet_enable knows must be clear
            Assert.Equal(0u, timer & ~(0x0008u | 0x0010 | 0x0020 | 0x0100 | 0x3E00 | 0x4000 | 0x8000));
            Assert.Equal(0x00F0_0000u, _fixture.Read32(Timer(i, 4)));
        }
        _fixture.Advance(1000);
        Assert.Equal(0u, _fixture.Read32(Counter));
        _fixture.Write32(Counter, 0);
        _fixture.Write32(Counter + 4, 0);
        _fixture.Write32(Config, 1);
        uint first = _fixture.Read32(Counter);
        _fixture.Advance(100);
        Assert.Equal(first + 10, _fixture.Read32(Counter));
        Assert.Equal(10u, first + 10);
    }

    [Fact]
    public void ATimerWhoseInterruptIsOffDoesNotWakeTheHostAndIsRightWhenItIsLookedAt()
    {
        const uint Delta = 400_000;
        _fixture.Write32(Config, 1);
        _fixture.Write32(Timer(0), 0x4 | 0x8 | 0x40 | 0x100 | Route(20));
        _fixture.Write32(Timer(0, 8), _fixture.Read32(Counter) + Delta);
        _fixture.Write32(Timer(0, 8), Delta);
        Assert.NotEqual(long.MaxValue, _hpet.NextExpiry);
        _fixture.Write32(Timer(0), 0x8 | 0x100 | Route(20)); // as Linux shuts a clock event device down
        Assert.Equal(long.MaxValue, _hpet.NextExpiry);
        _fixture.Advance(Delta * 10L * 7);
        Assert.InRange(_fixture.Read32(Timer(0, 8)) - _fixture.Read32(Counter), 1u, Delta);
        _fixture.Advance(Delta * 10L * 5);
        var writer = new StateWriter();
        _hpet.Stop();
        _hpet.Save(writer);
        _hpet.Restore(new StateReader(writer.ToArray()));
        _hpet.Start();
        Assert.InRange(_fixture.Read32(Timer(0, 8)) - _fixture.Read32(Counter), 1u, Delta);
        Assert.Equal(0, _rig.Lines[0][20].Rises);
        _fixture.Write32(Timer(0), 0x4 | 0x8 | 0x100 | Route(20)); // on again
        Assert.NotEqual(long.MaxValue, _hpet.NextExpiry);
        Ticks(Delta);
        Assert.Equal(1, _rig.Lines[0][20].Rises);
    }

    [Fact]
    public void Linux_legacy_clockevent_periodic_and_one_shot()
    {
        _fixture.Write32(Config, 3);
        Assert.True(_rig.Pit.IsCut);
        // hpet_set_periodic: stop, program with SETVAL, comparator, then the period, start
        _fixture.Write32(Config, 2);
        _fixture.Write32(Config, 3);
        const uint Delta = 400_000; // 4 ms
        uint compare = _fixture.Read32(Counter) + Delta;
        _fixture.Write32(Timer(0), 0x4 | 0x8 | 0x40 | 0x100);
        _fixture.Write32(Timer(0, 8), compare);
        _fixture.Advance(1000);
        _fixture.Write32(Timer(0, 8), Delta);
        Ticks(Delta - 101);
        Assert.Equal(0, _rig.Irq0.Rises);
        Ticks(1);
        Assert.Equal(1, _rig.Irq0.Rises);
        for (int i = 0; i < 5; i++)
        {
            Ticks(Delta);
        }
        Assert.Equal(6, _rig.Irq0.Rises);
        Assert.Equal(compare + (6 * Delta), _fixture.Read32(Timer(0, 8)));
        Ticks(100 * Delta); // late by a hundred periods: one interrupt, in phase
        Assert.Equal(7, _rig.Irq0.Rises);
        Ticks(Delta);
        Assert.Equal(8, _rig.Irq0.Rises);
        Assert.False(_rig.Irq0.Level);

        // hpet_set_oneshot and hpet_clkevt_set_next_event
        _fixture.Write32(Timer(0), 0x4 | 0x100);
        uint now = _fixture.Read32(Counter);
        _fixture.Write32(Timer(0, 8), now + 1000);
        Assert.Equal(now, _fixture.Read32(Counter));
        Ticks(999);
        Assert.Equal(8, _rig.Irq0.Rises);
        Ticks(1);
        Ticks(1000);
        Assert.Equal(9, _rig.Irq0.Rises);
        _fixture.Write32(Config, 1);
        Assert.False(_rig.Pit.IsCut);
    }

    [Fact]
    public void Level_interrupts_stand_until_cleared()
    {
        _fixture.Write64(Timer(1), 0x2 | 0x4 | Route(21));
        _fixture.Write64(Timer(1, 8), 100);
        _fixture.Write64(Config, 1);
        Ticks(100);
        Assert.True(_rig.Lines[1][21].Level);
        Assert.Equal(2u, _fixture.Read32(Status));
        _fixture.Write32(Timer(1), 0x2 | 0x4 | Route(22)); // moves with the route
        Assert.False(_rig.Lines[1][21].Level);
        Assert.True(_rig.Lines[1][22].Level);
        _fixture.Write32(Timer(1), 0x2 | Route(22)); // not enabled: the status stays
        Assert.False(_rig.Lines[1][22].Level);
        Assert.Equal(2u, _fixture.Read32(Status));
        _fixture.Write32(Timer(1), 0x2 | 0x4 | Route(22));
        _fixture.Write32(Status, 1);
        Assert.True(_rig.Lines[1][22].Level);
        _fixture.Write32(Status, 2);
        Assert.False(_rig.Lines[1][22].Level);
        Assert.Equal(0u, _fixture.Read32(Status));
    }

    [Fact]
    public void An_unsupported_route_does_not_read_back()
    {
        _fixture.Write32(Timer(2), Route(23) | 4);
        _fixture.Write32(Timer(2), Route(5) | 4);
        Assert.Equal(Route(23), _fixture.Read32(Timer(2)) & 0x3E00);
        _fixture.Write32(Config, 1);
        _fixture.Write64(Timer(2, 8), _fixture.Read64(Counter) + 10);
        Ticks(10);
        Assert.Equal(1, _rig.Lines[2][23].Rises);
        Assert.False(_rig.Lines[2][23].Level);
    }

    [Fact]
    public void Fsb_interrupts_are_messages_and_only_to_local_apics()
    {
        _fixture.Write64(Timer(2, 0x10), (0xFEE0_1000UL << 32) | 0x4045);
        _fixture.Write32(Timer(2), 0x4 | 0x4000);
        _fixture.Write64(Timer(2, 8), 50);
        _fixture.Write32(Config, 1);
        Ticks(50);
        Assert.Equal([(0xFEE0_1000UL, 0x4045u)], _rig.Messages.Take());
        _fixture.Write32(Timer(2, 0x14), 0x0010_0000);
        _fixture.Write64(Timer(2, 8), 100);
        Ticks(50);
        Assert.Empty(_rig.Messages.Take());
    }

    [Fact]
    public void A_passed_comparator_matches_only_after_a_turn()
    {
        _fixture.Write64(Counter, 1000);
        _fixture.Write32(Timer(0), 0x4 | Route(20));
        _fixture.Write64(Timer(0, 8), 999);
        _fixture.Write32(Timer(1), 0x4 | 0x100 | Route(21)); // 32 bits
        _fixture.Write32(Timer(1, 8), 999);
        _fixture.Write32(Config, 1);
        Ticks(0xFFFF_FFFE);
        Assert.Equal(0, _rig.Lines[1][21].Rises);
        Ticks(1);
        Assert.Equal(1, _rig.Lines[1][21].Rises);
        Ticks(0x1_0000_0000);
        Assert.Equal(2, _rig.Lines[1][21].Rises);
        Assert.Equal(0, _rig.Lines[0][20].Rises);
        Assert.Equal(999u, _fixture.Read32(Timer(1, 8)));
        Assert.Equal(1000UL + 0x1_FFFF_FFFF, _fixture.Read64(Counter));
    }

    [Fact]
    public void A_halted_counter_stands_and_nothing_fires()
    {
        _fixture.Write32(Config, 1);
        Ticks(500);
        _fixture.Write32(Timer(0), 0x4 | Route(20));
        _fixture.Write64(Timer(0, 8), 600);
        _fixture.Write32(Config, 0);
        Ticks(1000);
        Assert.Equal(500UL, _fixture.Read64(Counter));
        Assert.Equal(0, _rig.Lines[0][20].Rises);
        _fixture.Write64(Counter, 590);
        _fixture.Write32(Config, 1);
        Ticks(10);
        Assert.Equal(1, _rig.Lines[0][20].Rises);
    }

    [Fact]
    public void A_periodic_timer_without_period_or_with_a_huge_one_fires_once()
    {
        _fixture.Write32(Config, 1);
        _fixture.Write32(Timer(0), 0x4 | 0x8 | 0x40 | Route(20));
        _fixture.Write64(Timer(0, 8), 10);
        _fixture.Write64(Timer(0, 8), 0);
        _fixture.Write32(Timer(1), 0x4 | 0x8 | 0x40 | Route(21));
        _fixture.Write64(Timer(1, 8), 10);
        _fixture.Write64(Timer(1, 8), ulong.MaxValue);
        for (int i = 0; i < 5; i++)
        {
            Ticks(10);
        }
        Assert.Equal(1, _rig.Lines[0][20].Rises);
        Assert.Equal(1, _rig.Lines[1][21].Rises);
    }

    [Fact]
    public void Odd_accesses_are_refused()
    {
        byte[] data = [0, 0];
        _fixture.Bus.ReadMemory(Base, data);
        Assert.Equal([0xFF, 0xFF], data);
        Assert.Equal(uint.MaxValue, _fixture.Read32(Base + 2));
        Assert.Equal(ulong.MaxValue, _fixture.Read64(Base + 4));
        Assert.Equal(0u, _fixture.Read32(Base + 0x8));
        Assert.Equal(0u, _fixture.Read32(Base + 0x160));
        _fixture.Write64(Base, 0);
        Assert.Equal(0x0098_9680_8086_A201UL, _fixture.Read64(Base));
    }

    [Fact]
    public void The_host_timer_raises_interrupts_and_a_short_period_is_bounded()
    {
        _fixture.Write32(Config, 3);
        _fixture.Write32(Timer(0), 0x4 | 0x8 | 0x40);
        _fixture.Write64(Timer(0, 8), _fixture.Read64(Counter) + 1);
        _fixture.Write64(Timer(0, 8), 1); // every 10 ns
        long start = _fixture.Clock.Now;
        _fixture.Clock.Start();
        _fixture.Timers.ClockChanged();
        Assert.True(SpinWait.SpinUntil(() => _rig.Irq0.Rises >= 10, 10_000));
        _fixture.Clock.Stop();
        _hpet.Stop();
        Assert.True(_rig.Irq0.Rises <= ((_fixture.Clock.Now - start) / Hpet.MinimumInterval) + 3);
    }

    [Fact]
    public void State_survives()
    {
        _fixture.Write64(Counter, 0x1234_5678_9ABC);
        _fixture.Write32(Config, 3);
        _fixture.Write64(Timer(0), 0x4 | 0x8 | 0x40);
        _fixture.Write64(Timer(0, 8), _fixture.Read64(Counter) + 1000);
        _fixture.Write64(Timer(0, 8), 1000);
        _fixture.Write64(Timer(2), 0x2 | 0x4 | Route(22));
        _fixture.Write64(Timer(2, 8), _fixture.Read64(Counter) + 100);
        Ticks(500);
        Assert.True(_rig.Lines[2][22].Level);
        ulong counter = _fixture.Read64(Counter);
        _hpet.Stop();

        using var other = new DeviceFixture();
        var rig = new Rig();
        Hpet copy = other.Attach(new Hpet(rig.Configuration, other.Timers));
        DeviceFixture.Copy(_hpet, copy);
        Assert.True(rig.Lines[2][22].Level);
        Assert.True(rig.Pit.IsCut);
        other.Clock.Set(_fixture.Clock.Now);
        copy.Start();
        Assert.Equal(counter, other.Read64(Counter));
        other.Advance(4990);
        copy.Expire();
        Assert.Equal(0, rig.Irq0.Rises);
        other.Advance(10);
        copy.Expire();
        Assert.Equal(1, rig.Irq0.Rises);
        copy.Stop();
        copy.Reset();
        Assert.False(rig.Lines[2][22].Level);
        Assert.False(rig.Pit.IsCut);
    }

    [Fact]
    public void A_malformed_state_is_refused()
    {
        Assert.Throws<SavedStateException>(() => _hpet.Restore(new StateReader(Array.Empty<byte>())));
        foreach (HpetState bad in new[]
        {
            new HpetState { Configuration = 4 },
            new HpetState { InterruptStatus = 8 },
        })
        {
            var writer = new StateWriter();
            writer.Nested(1, bad);
            Assert.Throws<SavedStateException>(() => _hpet.Restore(new StateReader(writer.ToArray())));
        }
        var harmless = new StateWriter(); // a match long ago, a route that does not exist
        var state = new HpetState { Configuration = 1 };
        state.Timer[0].Configuration = 0x4 | 0x8 | Route(3);
        state.Timer[0].Period = 1;
        state.Timer[0].MatchTick = 0;
        state.Timer[1].Configuration = 0x4 | 0x8 | Route(21);
        state.Timer[1].Period = ulong.MaxValue;
        state.Timer[1].MatchTick = 0;
        harmless.Nested(1, state);
        _hpet.Stop();
        _hpet.Restore(new StateReader(harmless.ToArray()));
        _hpet.Start();
        Assert.Equal(0u, _fixture.Read32(Timer(0)) & 0x3E00);
        Assert.Equal(1, _rig.Lines[1][21].Rises);
    }

    [Fact]
    public void Random_accesses()
    {
        DeviceFuzz.Run(_fixture, 1000, [_hpet], random =>
        {
            // Most of the region is reserved: store to what exists, more often than chance would.
            ulong[] registers = [Config, Status, Counter, Timer(0), Timer(0, 8), Timer(1), Timer(1, 8), Timer(2), Timer(2, 8), Timer(2, 16)];
            ulong value = (ulong)random.NextInt64() >> random.Next(64);
            _fixture.Write64(registers[random.Next(registers.Length)], value);
        });
    }
}
