using System.Buffers.Binary;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Virtio.Rng;
using Lodge.Machine.Pci;
using Xunit;

namespace Lodge.Machine.Tests;

public class PciTests
{
    private sealed class TestFunction : PciFunction, IIoHandler
    {
        public TestFunction(string name = "test", byte pin = 1) : base(name, new PciIdentity(0x1234, 0x5678, 0x0C0330, 2), pin)
        {
            AddBar(0, PciBarKind.Memory64, 1 << 16, this);
            AddBar(2, PciBarKind.Io, 32, this);
            AddBar(3, PciBarKind.Memory32, 4096, this);
            AddMsix(70, 0, 0, 0x8000);
        }

        public IoResult Read(ulong offset, Span<byte> data)
        {
            if (offset < 0x8000 && offset < (ulong)Msix!.TableLength)
            {
                return Msix.Read(offset, data);
            }
            if (offset >= 0x8000)
            {
                return Msix!.ReadPending(offset - 0x8000, data);
            }
            data.Fill(0x5A);
            return IoResult.Done;
        }

        public IoResult Write(ulong offset, ReadOnlySpan<byte> data) => Msix!.Write(offset, data);

        public void Interrupt(bool level) => SetInterrupt(level);
    }

    private static VirtioMachine Create(out TestFunction function)
    {
        var machine = new VirtioMachine(memory => new VirtioRng(memory, new VirtioRngConfiguration()));
        function = new TestFunction();
        machine.Pci.Add(function, 5);
        machine.Pci.AssignResources();
        return machine;
    }

    private static uint Port(VirtioMachine machine, int device, int register)
    {
        byte[] data = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, 0x8000_0000 | (uint)(device << 11) | ((uint)register & 0xFC));
        machine.Bus.WritePort(0xCF8, data);
        machine.Bus.ReadPort(0xCFC, data);
        return BinaryPrimitives.ReadUInt32LittleEndian(data);
    }

    [Fact]
    public void PortsAndEcamShowTheSame()
    {
        using VirtioMachine machine = Create(out _);
        for (int register = 0; register < 256; register += 4)
        {
            Assert.Equal(machine.Config(register, 5), Port(machine, 5, register));
        }
        Assert.Equal(0x5678_1234u, machine.Config(0, 5));
        Assert.Equal(0x0C03_3002u, machine.Config(8, 5));
        Assert.Equal(0x29C0_8086u, machine.Config(0, 0));
        Assert.Equal(0x1044_1AF4u, machine.Config(0));
        Assert.Equal(uint.MaxValue, machine.Config(0, 6));
        Assert.Equal(0u, machine.Config(0x100, 5));
        byte[] other = new byte[4];
        machine.Bus.ReadMemory(MemoryMap.EcamBase + (5 << 20), other);
        Assert.Equal([0xFF, 0xFF, 0xFF, 0xFF], other);
        machine.Bus.WritePort(0xCF8, [0, 0, 0, 0]);
        machine.Bus.ReadPort(0xCFC, other);
        Assert.Equal([0xFF, 0xFF, 0xFF, 0xFF], other);
        Port(machine, 5, 0);
        byte[] half = new byte[2];
        machine.Bus.ReadPort(0xCFE, half);
        Assert.Equal([0x78, 0x56], half);
    }

    [Theory]
    [InlineData(0x10, 0xFFFF_0004u)]
    [InlineData(0x14, 0xFFFF_FFFFu)]
    [InlineData(0x18, 0xFFE1u)]
    [InlineData(0x1C, 0xFFFF_F000u)]
    [InlineData(0x20, 0u)]
    [InlineData(0x24, 0u)]
    public void BarsAreSized(int register, uint expected)
    {
        using VirtioMachine machine = Create(out _);
        machine.Config(PciRegisters.Command, 0, 5, 2);
        machine.Config(register, uint.MaxValue, 5);
        Assert.Equal(expected, machine.Config(register, 5));
    }

    [Fact]
    public void BarsMoveWithDecodingAndStayInWindows()
    {
        using VirtioMachine machine = Create(out TestFunction function);
        PciBar bar = function.Bars[2];
        ulong first = bar.MappedAt!.Value;
        Assert.InRange(first, 0xC000_0000UL, 0xDFFF_FFFFUL);
        Assert.InRange(function.Bars[0].MappedAt!.Value, 0x10_0000_0000UL, ulong.MaxValue);
        byte[] data = new byte[4];
        machine.Bus.ReadMemory(function.Bars[2].MappedAt!.Value + 0x6000 - 0x6000 + 2048, data);
        machine.Config(0x1C, 0xD000_0000, 5);
        Assert.Equal(0xD000_0000UL, bar.MappedAt);
        foreach (uint outside in new[] { 0u, 0x1000u, 0xE000_0000u, 0xFEC0_0000u, 0xFEE0_0000u, 0xFFFF_F000u })
        {
            machine.Config(0x1C, outside, 5);
            Assert.Null(bar.MappedAt);
        }
        machine.Config(0x1C, 0xD000_0000, 5);
        machine.Config(PciRegisters.Command, 1, 5, 2);
        Assert.Null(bar.MappedAt);
        Assert.NotNull(function.Bars[1].MappedAt);
        machine.Config(PciRegisters.Command, 3, 5, 2);
        Assert.Equal(0xD000_0000UL, bar.MappedAt);
        function.Reset();
        Assert.Equal(first, bar.MappedAt);
    }

    [Fact]
    public void AssignedBarsDoNotOverlapAndRemovalFreesThem()
    {
        using VirtioMachine machine = Create(out TestFunction function);
        for (int i = 0; i < 10; i++)
        {
            machine.Pci.Add(new TestFunction($"test{i}"));
        }
        machine.Pci.AssignResources();
        var ranges = machine.Pci.Functions.SelectMany(each => each.Bars)
            .Select(bar => (bar.Claim.Space, Start: bar.MappedAt!.Value, bar.Length)).OrderBy(range => range.Space).ThenBy(range => range.Start).ToList();
        for (int i = 1; i < ranges.Count; i++)
        {
            Assert.True(ranges[i].Space != ranges[i - 1].Space || ranges[i].Start >= ranges[i - 1].Start + ranges[i - 1].Length);
            Assert.Equal(0UL, ranges[i].Start % ranges[i].Length);
        }
        ulong freed = function.Bars[0].MappedAt!.Value;
        machine.Pci.Remove(function);
        Assert.Equal(uint.MaxValue, machine.Config(0, 5));
        var again = new TestFunction("again");
        machine.Pci.Add(again);
        machine.Pci.AssignResources();
        Assert.Equal(freed, again.Bars[0].MappedAt);
    }

    // A guest moves BARs, and a restored machine has them where its guest had moved them.
    [Fact]
    public void WhatComesDoesNotGetAnAddressThatTheGuestHasGivenToAnother()
    {
        using VirtioMachine machine = Create(out TestFunction function);
        var next = new TestFunction("next");
        machine.Pci.Add(next);
        machine.Pci.AssignResources();
        uint[] wanted = [.. next.Bars.Select(bar => (uint)bar.MappedAt!.Value)];
        machine.Pci.Remove(next);
        for (int i = 0; i < wanted.Length; i++)
        {
            machine.Config(0x10 + (function.Bars[i].Index * 4), wanted[i], 5);
            Assert.Equal(wanted[i], (uint)function.Bars[i].MappedAt!.Value);
        }
        var late = new TestFunction("late");
        machine.Pci.Add(late);
        machine.Pci.AssignResources(late, decode: true);
        Assert.All(late.Bars.Zip(function.Bars), static pair => Assert.True(pair.First.MappedAt + pair.First.Length <= pair.Second.MappedAt || pair.First.MappedAt >= pair.Second.MappedAt + pair.Second.Length));
    }

    [Fact]
    public void ReadOnlyBitsStay()
    {
        using VirtioMachine machine = Create(out _);
        for (int register = 0; register < 256; register += 4)
        {
            machine.Config(register, uint.MaxValue, 5);
        }
        Assert.Equal(0x5678_1234u, machine.Config(0, 5));
        Assert.Equal(0x0547u, machine.Config(PciRegisters.Command, 5) & 0xFFFF);
        Assert.Equal(0u, machine.Config(0x0C, 5) >> 16);
        Assert.Equal(0x1FFu, (machine.Config(0x3C, 5)));
    }

    [Fact]
    public void MsixMasksKeepInterruptsPending()
    {
        using VirtioMachine machine = Create(out TestFunction function);
        ulong table = function.Bars[0].MappedAt!.Value;
        void Entry(int vector, ulong address, uint data, uint control)
        {
            byte[] entry = new byte[16];
            BinaryPrimitives.WriteUInt64LittleEndian(entry, address);
            BinaryPrimitives.WriteUInt32LittleEndian(entry.AsSpan(8), data);
            BinaryPrimitives.WriteUInt32LittleEndian(entry.AsSpan(12), control);
            for (int i = 0; i < 16; i += 8)
            {
                machine.Bus.WriteMemory(table + (ulong)((vector * 16) + i), entry.AsSpan(i, 8));
            }
        }
        byte Pending(int vector)
        {
            byte[] word = new byte[8];
            machine.Bus.ReadMemory(table + 0x8000 + (ulong)(vector / 64 * 8), word);
            return (byte)((word[vector % 64 / 8] >> (vector % 8)) & 1);
        }
        int control = (int)(machine.Config(0x34, 5) & 0xFF) + 2;
        function.Msix!.Signal(69);
        Assert.Equal(0, Pending(69));                    // disabled: nothing at all
        machine.Config(PciRegisters.Command, 6, 5, 2);
        machine.Config(control, 0xC000, 5, 2);
        Entry(69, 0xFEE0_1000, 0x51, 0);
        function.Msix.Signal(69);
        Assert.Equal((0, 1), (machine.Messages.Count(0x51), Pending(69)));
        machine.Config(control, 0x8000, 5, 2);           // function mask off
        Assert.Equal((1, 0), (machine.Messages.Count(0x51), Pending(69)));
        Entry(69, 0xFEE0_1000, 0x51, 1);
        function.Msix.Signal(69);
        function.Msix.Signal(69);
        Assert.Equal((1, 1), (machine.Messages.Count(0x51), Pending(69)));
        Entry(69, 0xFEE0_1000, 0x52, 0);                 // changed while masked: the new message is sent, once
        Assert.Equal((1, 1, 0), (machine.Messages.Count(0x51), machine.Messages.Count(0x52), Pending(69)));
        machine.Config(PciRegisters.Command, 2, 5, 2);   // no bus master
        function.Msix.Signal(69);
        Assert.Equal(1, machine.Messages.Count(0x52));
        machine.Config(PciRegisters.Command, 6, 5, 2);
        Assert.Equal(2, machine.Messages.Count(0x52));
        Entry(0, 0x1000, 0x77, 0);                       // points at RAM
        Entry(1, 0x1_FEE0_0000, 0x77, 0);
        function.Msix.Signal(0);
        function.Msix.Signal(1);
        function.Msix.Signal(70);
        Assert.Equal(0, machine.Messages.Count(0x77));
    }

    [Fact]
    public void PinsAreSwizzledSharedAndDisabled()
    {
        using VirtioMachine machine = Create(out TestFunction function);
        var other = new TestFunction("other");
        machine.Pci.Add(other, 9);
        RecordedLine line = machine.Lines[PciBus.InterruptIndex(5, 1)];
        Assert.Same(line, machine.Lines[PciBus.InterruptIndex(9, 1)]);
        function.Interrupt(true);
        other.Interrupt(true);
        function.Interrupt(false);
        Assert.True(line.Level);
        Assert.Equal(8u, (machine.Config(PciRegisters.Command, 9) >> 16) & 8);
        machine.Config(PciRegisters.Command, 0x400, 9, 2);
        Assert.False(line.Level);
        machine.Config(PciRegisters.Command, 0, 9, 2);
        Assert.True(line.Level);
        machine.Pci.Remove(other);
        Assert.False(line.Level);
    }

    [Fact]
    public void SavedStateKeepsOnlyWritableBits()
    {
        using VirtioMachine machine = Create(out TestFunction function);
        machine.Config(0x1C, 0xD123_4000, 5);
        machine.Config(0x3C, 0x42, 5, 1);
        var writer = new StateWriter();
        function.Save(writer);
        byte[] state = writer.ToArray();
        using VirtioMachine other = Create(out TestFunction restored);
        restored.Restore(new StateReader(state));
        Assert.Equal(0xD123_4000UL, restored.Bars[2].MappedAt);
        Assert.Equal(0x142u, other.Config(0x3C, 5));
        var random = new Random(4);
        for (int i = 0; i < 2000; i++)
        {
            byte[] bad = [.. state];
            for (int n = 0; n < 4; n++)
            {
                bad[random.Next(bad.Length)] = (byte)random.Next(256);
            }
            try
            {
                restored.Restore(new StateReader(bad));
            }
            catch (SavedStateException)
            {
            }
            Assert.Equal(0x5678_1234u, other.Config(0, 5));
        }
    }

    [Fact]
    public void ResetControlLiesInsideTheAddressRegister()
    {
        using VirtioMachine machine = Create(out TestFunction function);
        machine.Pci.ResetControl = new Recorder();
        byte[] one = [6];
        machine.Bus.WritePort(0xCF9, one);
        machine.Bus.WritePort(0xCF8, [0, 0x28, 0, 0x80]);
        Assert.Equal([6], ((Recorder)machine.Pci.ResetControl).Written);
        byte[] id = new byte[4];
        machine.Bus.ReadPort(0xCFC, id);
        Assert.Equal([0x34, 0x12, 0x78, 0x56], id);
    }

    private sealed class Recorder : IIoHandler
    {
        public List<byte> Written { get; } = [];

        public IoResult Read(ulong offset, Span<byte> data) => IoResult.Invalid;

        public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
        {
            Written.AddRange(data);
            return IoResult.Done;
        }
    }
}
