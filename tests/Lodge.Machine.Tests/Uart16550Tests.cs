using System.Text;
using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Devices.Serial.Uart16550;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class Uart16550Tests : IDisposable
{
    private const int Base = 0x3F8, Rbr = Base, Thr = Base, Ier = Base + 1, Iir = Base + 2, Fcr = Base + 2, Lcr = Base + 3, Mcr = Base + 4, Lsr = Base + 5, Msr = Base + 6, Scr = Base + 7;
    private readonly MachineClock _clock = new();
    private readonly TimerService _timers;
    private readonly FakeBackend _backend = new();
    private readonly FakeLine _line = new();
    private readonly Uart16550 _uart;

    public Uart16550Tests()
    {
        _timers = new TimerService(_clock);
        _uart = new Uart16550(Uart16550Configuration.Standard[0], _backend, _line, _timers);
    }

    public void Dispose() => _timers.Dispose();

    [Fact]
    public void Linux_recognises_a_16550A()
    {
        _uart.Out(Ier, 0);
        Assert.Equal(0u, _uart.In(Ier) & 0x0F);
        _uart.Out(Ier, 0x0F);
        Assert.Equal(0x0Fu, _uart.In(Ier));
        _uart.Out(Ier, 0);
        _uart.Out(Mcr, 0x1A); // loop, OUT2, RTS
        Assert.Equal(0x90u, _uart.In(Msr) & 0xF0);
        _uart.Out(Mcr, 0);
        _uart.Out(Fcr, 1);
        Assert.Equal(3u, _uart.In(Iir) >> 6);
        _uart.Out(Scr, 0x5A);
        Assert.Equal(0x5Au, _uart.In(Scr));
        _uart.Out(Lcr, 0x83);
        _uart.Out(Base, 1);
        _uart.Out(Base + 1, 0);
        Assert.Equal(1u, _uart.In(Base));
        _uart.Out(Lcr, 3);
        Assert.Equal(0x60u, _uart.In(Lsr));
    }

    [Fact]
    public void Enabling_the_transmitter_interrupt_raises_it_each_time_and_reading_clears_it()
    {
        _uart.Out(Ier, 2);
        Assert.True(_line.Level);
        Assert.Equal(0x02u, _uart.In(Iir) & 0x0F);
        Assert.False(_line.Level);
        Assert.Equal(0x01u, _uart.In(Iir) & 0x0F);
        _uart.Out(Ier, 0);
        _uart.Out(Ier, 2);
        Assert.Equal(0x02u, _uart.In(Iir) & 0x0F);
        _uart.Out(Thr, 'x');
        Assert.Equal(0x02u, _uart.In(Iir) & 0x0F);
        Assert.Equal(2, _line.Edges - 1);
    }

    [Fact]
    public void Interrupts_come_by_priority()
    {
        _uart.Out(Fcr, 1);
        _uart.Out(Ier, 0x0F);
        _uart.Out(Mcr, 0x10); // loopback: the lines drop, which is a modem status change
        for (int i = 0; i < 17; i++)
        {
            _uart.Out(Thr, (ulong)i); // the 17th overruns
        }
        Assert.Equal(0x06u, _uart.In(Iir) & 0x0F);
        Assert.Equal(0x63u, _uart.In(Lsr));
        Assert.Equal(0x04u, _uart.In(Iir) & 0x0F);
        for (int i = 0; i < 16; i++)
        {
            Assert.Equal((ulong)i, _uart.In(Rbr));
        }
        Assert.Equal(0x02u, _uart.In(Iir) & 0x0F);
        Assert.Equal(0x00u, _uart.In(Iir) & 0x0F);
        Assert.Equal(0x0Bu, _uart.In(Msr));
        Assert.Equal(0x01u, _uart.In(Iir) & 0x0F);
        Assert.False(_line.Level);
    }

    [Fact]
    public void A_line_of_output_is_one_call_to_the_backend()
    {
        foreach (char c in "hello, world\n")
        {
            _uart.Out(Thr, c);
        }
        Assert.Equal("hello, world\n", _backend.Text);
        Assert.Equal(1, _backend.Calls);
        _uart.Out(Thr, '>');
        _uart.Stop();
        Assert.Equal("hello, world\n>", _backend.Text);
    }

    [Fact]
    public void A_prompt_without_newline_appears_soon()
    {
        _clock.Start();
        _uart.Start();
        _uart.Out(Thr, '$');
        Assert.True(SpinWait.SpinUntil(() => _backend.Text == "$", TimeSpan.FromSeconds(20)));
    }

    [Fact]
    public void A_slow_backend_fills_the_transmitter_and_loses_nothing_of_a_driver_that_looks()
    {
        _backend.Accepts = 10;
        _uart.Out(Fcr, 1);
        var sent = new StringBuilder();
        while ((_uart.In(Lsr) & 0x20) != 0 && sent.Length < 10_000)
        {
            for (int i = 0; i < 16 && sent.Length < 10_000; i++)
            {
                char c = (char)('a' + (sent.Length % 26));
                sent.Append(c);
                _uart.Out(Thr, c);
            }
        }
        Assert.InRange(sent.Length, 4096, 4096 + 32 + 10);
        _backend.Accepts = int.MaxValue;
        _backend.Receiver.OutputReady();
        _uart.Stop();
        Assert.Equal(0x60u, _uart.In(Lsr) & 0x60);
        Assert.Equal(sent.ToString(), _backend.Text);
    }

    [Fact]
    public void Input_waits_when_the_fifo_is_full_and_goes_on_when_it_is_empty()
    {
        _uart.Out(Fcr, 0xC1);
        _uart.Out(Ier, 1);
        Assert.Equal(13, _backend.Receiver.Receive(new byte[13]));
        Assert.False(_line.Level);
        Assert.Equal(3, _backend.Receiver.Receive(new byte[10]));
        Assert.True(_line.Level);
        Assert.Equal(0x04u, _uart.In(Iir) & 0x0F);
        for (int i = 0; i < 16; i++)
        {
            Assert.Equal(0, _backend.InputReadyCalls);
            _uart.In(Rbr);
        }
        Assert.Equal(1, _backend.InputReadyCalls);
        Assert.Equal(0x60u, _uart.In(Lsr));
    }

    [Fact]
    public void Few_bytes_are_told_of_after_four_character_times()
    {
        _clock.Start();
        _uart.Out(Fcr, 0x81);
        _uart.Out(Ier, 1);
        _backend.Receiver.Receive("ab"u8);
        Assert.True(SpinWait.SpinUntil(() => (_uart.In(Iir) & 0x0F) == 0x0C, TimeSpan.FromSeconds(20)));
        Assert.True(_line.Level);
        Assert.Equal('a', (int)_uart.In(Rbr));
        Assert.False(_line.Level);
    }

    [Fact]
    public void Carrier_follows_the_host_side()
    {
        _uart.Out(Ier, 8);
        Assert.Equal(0xB0u, _uart.In(Msr));
        _backend.Receiver.SetConnected(false);
        Assert.True(_line.Level);
        Assert.Equal(0x38u, _uart.In(Msr));
        Assert.False(_line.Level);
    }

    [Fact]
    public void State_survives_saving()
    {
        _backend.Accepts = 0;
        _uart.Out(Fcr, 0xC1);
        _uart.Out(Ier, 5);
        _uart.Out(Lcr, 0x1B);
        _uart.Out(Mcr, 0x0B);
        _uart.Out(Scr, 7);
        _uart.Out(Thr, 'z');
        _backend.Receiver.Receive("key"u8);
        byte[] state = _uart.Saved();

        var backend = new FakeBackend();
        var line = new FakeLine();
        var other = new Uart16550(Uart16550Configuration.Standard[0], backend, line, _timers);
        other.Restore(state);
        Assert.Equal(state, other.Saved());
        other.Start();
        Assert.Equal("z", backend.Text);
        Assert.Equal('k', (int)other.In(Rbr));
        Assert.Equal(0x1Bu, other.In(Lcr));
        Assert.Equal(0x0Bu, other.In(Mcr));
        Assert.Equal(7u, other.In(Scr));
        other.Reset();
        Assert.Equal(0u, other.In(Ier));
        Assert.Equal(0x60u, other.In(Lsr));
    }

    [Fact]
    public void A_state_with_too_long_a_fifo_is_refused()
    {
        var writer = new StateWriter();
        writer.Nested(1, new Uart16550State { Received = new byte[17] });
        Assert.Throws<SavedStateException>(() => _uart.Restore(writer.ToArray()));
    }
}
