using Lodge.Engine.State;
using Lodge.Machine.Devices.Interrupts.IoApic;
using Lodge.Machine.Tests.Harness;
using Xunit;

namespace Lodge.Machine.Tests.Devices.Interrupts;

public sealed class IoApicTests : IDisposable
{
    private const ulong Base = 0xFEC0_0000;
    private const uint Masked = 1 << 16;
    private const uint Level = 1 << 15;
    private const uint RemoteIrr = 1 << 14;
    private readonly DeviceFixture _fixture = new();
    private readonly RecordingMessages _messages = new();
    private readonly IoApic _ioApic;

    public IoApicTests() => _ioApic = _fixture.Attach(new IoApic(_messages));

    public void Dispose() => _fixture.Dispose();

    private uint Read(byte register)
    {
        _fixture.Write32(Base, register);
        return _fixture.Read32(Base + 0x10);
    }

    private void Write(byte register, uint value)
    {
        _fixture.Write32(Base, register);
        _fixture.Write32(Base + 0x10, value);
    }

    private void Program(int input, uint low, uint high = 0)
    {
        Write((byte)(0x11 + (input * 2)), high);
        Write((byte)(0x10 + (input * 2)), low);
    }

    [Fact]
    public void Identification()
    {
        Assert.Equal(0x0017_0020u, Read(1));
        Write(0, 0xFFFF_FFFF);
        Assert.Equal(0x0F00_0000u, Read(0));
        Assert.Equal(0x0F00_0000u, Read(2));
        Write(1, 0);
        Assert.Equal(0x0017_0020u, Read(1));
        for (byte i = 0; i < 24; i++)
        {
            Assert.Equal(Masked, Read((byte)(0x10 + (i * 2))));
        }
        Write(0x10, 0xFFFF_FFFF);
        Write(0x11, 0xFFFF_FFFF);
        Assert.Equal(0x0001_AFFFu, Read(0x10)); // delivery status and remote IRR are read-only
        Assert.Equal(0xFF00_0000u, Read(0x11));
        Assert.Equal(0u, Read(0x40));
        Write(0x40, 1);
        Assert.Equal(0u, Read(0xFF));
    }

    [Fact]
    public void An_edge_is_delivered_once_with_its_destination()
    {
        Program(4, 0x0000_0841, 0x0300_0000); // logical, fixed, vector 0x41
        _ioApic.SetInput(4, true);
        _ioApic.SetInput(4, true);
        Assert.Equal([(0xFEE0_3004UL, 0x4041u)], _messages.Take());
        _ioApic.EndOfInterrupt(0x41);
        _ioApic.SetInput(4, false);
        Assert.Empty(_messages.Take());
        Program(4, 0x0000_0141); // physical, lowest priority
        _ioApic.SetInput(4, true);
        Assert.Equal([(0xFEE0_0008UL, 0x4141u)], _messages.Take());
    }

    [Fact]
    public void A_masked_edge_is_lost_and_a_masked_level_waits()
    {
        Program(4, Masked | 0x41);
        _ioApic.SetInput(4, true);
        Program(4, 0x41);
        Assert.Empty(_messages.Take());
        Program(10, Masked | Level | 0x51);
        _ioApic.SetInput(10, true);
        Assert.Empty(_messages.Take());
        Program(10, Level | 0x51);
        Assert.Equal([(0xFEE0_0000UL, 0xC051u)], _messages.Take());
    }

    [Fact]
    public void A_level_is_delivered_again_only_after_its_end()
    {
        Program(16, Level | 0x61);
        _ioApic.SetInput(16, true);
        Assert.Single(_messages.Take());
        Assert.Equal(Level | RemoteIrr | 0x61, Read(0x30));
        _ioApic.SetInput(16, false);
        _ioApic.SetInput(16, true);
        Assert.Empty(_messages.Take());
        _ioApic.EndOfInterrupt(0x62);
        Assert.Empty(_messages.Take());
        _ioApic.EndOfInterrupt(0x61);
        Assert.Single(_messages.Take());
        _ioApic.SetInput(16, false);
        _ioApic.EndOfInterrupt(0x61);
        Assert.Empty(_messages.Take());
        Assert.Equal(Level | 0x61u, Read(0x30));
    }

    [Fact]
    public void The_eoi_register_and_the_way_by_edge_mode_clear_remote_irr()
    {
        Program(16, Level | 0x61);
        _ioApic.SetInput(16, true);
        _ioApic.SetInput(16, false);
        _fixture.Write32(Base + 0x40, 0x61);
        Assert.Equal(Level | 0x61u, Read(0x30));

        _ioApic.SetInput(16, true);
        _ioApic.SetInput(16, false);
        _messages.Take();
        Program(16, Masked | 0x61); // clear_IO_APIC_pin: edge while masked, then level again
        Program(16, Masked | Level | 0x61);
        Assert.Equal(Masked | Level | 0x61u, Read(0x30));
        Assert.Empty(_messages.Take());
    }

    [Fact]
    public void Shared_vectors_end_together()
    {
        Program(16, Level | 0x61);
        Program(17, Level | 0x61);
        _ioApic.SetInput(16, true);
        _ioApic.SetInput(17, true);
        Assert.Equal(2, _messages.Take().Count);
        _ioApic.EndOfInterrupt(0x61);
        Assert.Equal(2, _messages.Take().Count);
    }

    [Fact]
    public void Modes_without_level_are_edges()
    {
        Program(9, Level | 0x400); // NMI
        _ioApic.SetInput(9, true);
        Assert.Equal([(0xFEE0_0000UL, 0x4400u)], _messages.Take());
        Assert.Equal(0u, Read(0x22) & RemoteIrr);
        Program(0, 0x700); // ExtINT
        _ioApic.SetInput(0, true);
        Assert.Equal([(0xFEE0_0000UL, 0x4700u)], _messages.Take());
    }

    [Fact]
    public void Odd_accesses()
    {
        _fixture.Write32(Base, 1);
        byte[] data = new byte[8];
        _fixture.Bus.ReadMemory(Base + 0x10, data);
        Assert.Equal([0x20, 0, 0x17, 0, 0, 0, 0, 0], data);
        _fixture.Bus.ReadMemory(Base + 0x12, data.AsSpan(0, 1));
        Assert.Equal(0x17, data[0]);
        _fixture.Bus.WriteMemory(Base, [0x12]);
        Assert.Equal(0x12u, _fixture.Read32(Base));
        _fixture.Bus.WriteMemory(Base + 0x10, [0x55, 0x55]); // 16 bits: refused
        Assert.Equal(Masked, Read(0x12));
        _fixture.Write32(Base + 0x12, 0xFFFF_FFFF);
        Assert.Equal(Masked, Read(0x12));
    }

    [Fact]
    public void State_survives_and_reset_masks_everything()
    {
        Write(0, 0x0500_0000);
        Program(16, Level | 0x61, 0x0200_0000);
        _ioApic.SetInput(16, true);
        _ioApic.SetInput(3, true);
        _messages.Take();
        var messages = new RecordingMessages();
        var copy = new IoApic(messages);
        DeviceFixture.Copy(_ioApic, copy);
        copy.SetInput(16, true); // its device drives it again
        Assert.Empty(messages.Take());
        copy.EndOfInterrupt(0x61);
        Assert.Equal([(0xFEE0_2000UL, 0xC061u)], messages.Take());
        copy.Reset();
        copy.SetInput(3, false);
        copy.SetInput(3, true);
        copy.EndOfInterrupt(0x61);
        Assert.Empty(messages.Take());
    }

    [Fact]
    public void A_malformed_state_is_refused_or_made_harmless()
    {
        var writer = new StateWriter();
        writer.Nested(1, new IoApicState { Inputs = 1U << 24 });
        Assert.Throws<SavedStateException>(() => _ioApic.Restore(new StateReader(writer.ToArray())));
        writer = new StateWriter();
        var state = new IoApicState();
        Array.Fill(state.Redirection, ulong.MaxValue & ~(ulong)Level);
        writer.Nested(1, state);
        _ioApic.Restore(new StateReader(writer.ToArray()));
        Assert.Equal(0x0001_2FFFu, Read(0x10));
    }

    [Fact]
    public void Random_accesses()
    {
        DeviceFuzz.Run(_fixture, 82093, [_ioApic], random =>
        {
            _fixture.Write32(Base, (uint)random.Next(0x48));
            _fixture.Write32(Base + 0x10, (uint)random.NextInt64());
            _ioApic.SetInput(random.Next(-1, 25), random.Next(2) == 0);
            _ioApic.EndOfInterrupt((byte)random.Next(256));
        });
    }
}
