using Iced.Intel;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class TranslationTests
{
    [Fact]
    public void LoopWithMemoryAndCallsGivesTheRightSum()
    {
        using var guest = new FlatGuest();
        guest.Load(a =>
        {
            Label loop = a.CreateLabel("loop"), function = a.CreateLabel("f"), start = a.CreateLabel("start");
            a.jmp(start);
            a.Label(ref function);
            a.push(r13);
            a.push(r15);
            a.mov(r13, __[rbx + (rcx * 8)]);
            a.lea(r15, __[r13 + r13]);
            a.add(rax, r15);
            a.mov(__[rbx + (rcx * 8) + 0x1000], r15);
            a.pop(r15);
            a.pop(r13);
            a.ret();
            a.Label(ref start);
            a.xor(eax, eax);
            a.mov(rbx, FlatGuest.DataBase);
            a.mov(ecx, 100);
            a.Label(ref loop);
            a.call(function);
            a.dec(ecx);
            a.jns(loop);
            FlatGuest.Exit(a);
            a.hlt();
        });
        ulong expected = 0;
        for (ulong i = 0; i <= 100; i++)
        {
            guest.Memory.TryWrite(FlatGuest.DataBase + (i * 8), i * 3);
            expected += i * 6;
        }
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        Assert.Equal(expected, guest.Output[^1].Value);
        Assert.Equal(FlatGuest.StackTop, guest.Processor.B_Gpr(4));
        guest.Memory.TryRead(FlatGuest.DataBase + 0x1000 + 800, out ulong last);
        Assert.Equal(600UL, last);
    }

    [Theory]
    [InlineData(0x8000_0000_0000_0000UL, 1UL, 0x080UL)]          // SF alone of what ADD leaves, no carry
    [InlineData(0x7FFF_FFFF_FFFF_FFFFUL, 1UL, 0x890UL | 0x4)]    // overflow: OF, SF, AF, PF
    [InlineData(ulong.MaxValue, 1UL, 0x55UL)]                    // zero with carry: ZF, AF, PF, CF
    public void PushedFlagsAreThoseOfTheLastInstruction(ulong left, ulong right, ulong expected)
    {
        using var guest = new FlatGuest();
        guest.Load(a =>
        {
            a.mov(rbx, left);
            a.mov(rcx, right);
            a.add(rbx, rcx);
            a.pushfq();
            a.pop(r14);
            a.mov(r15d, cs);
            a.mov(esi, ss);
            a.mov(rax, r14);
            FlatGuest.Exit(a);
            a.hlt();
        });
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        ulong mask = left == 0x8000_0000_0000_0000UL ? 0x8C1UL : 0x8D5UL;
        Assert.Equal(expected, guest.Output[^1].Value & mask);
        Assert.Equal(2UL, guest.Output[^1].Value & 0x3_0202);
        Assert.Equal(0x08UL, guest.Processor.B_Gpr(15));
        Assert.Equal(0x10UL, guest.Processor.B_Gpr(6));
        Assert.Equal(FlatGuest.StackTop, guest.Processor.B_Gpr(4));
    }

    [Fact]
    public void SingleStepOverASoftwareInterruptDoesNotTrapInTheHandler()
    {
        const ulong Gdt = 0x4000, Idt = 0x5000, Interrupt = 0x11_0000, Debug = 0x12_0000;
        using var guest = new FlatGuest();
        guest.Memory.TryWrite(Gdt + 0x08, 0x00AF_9B00_0000_FFFFUL);
        guest.Memory.TryWrite(Gdt + 0x10, 0x00CF_9300_0000_FFFFUL);
        foreach ((int vector, ulong handler) in ((int, ulong)[])[(1, Debug), (0x80, Interrupt)])
        {
            guest.Memory.TryWrite(Idt + ((ulong)vector * 16), (handler & 0xFFFF) | (0x08UL << 16) | (0x8E00UL << 32) | ((handler >> 16) << 48));
        }
        guest.Memory.TryWrite<ushort>(0x6000, 0xFFF);
        guest.Memory.TryWrite(0x6002, Gdt);
        guest.Memory.TryWrite<ushort>(0x6010, 0xFFF);
        guest.Memory.TryWrite(0x6012, Idt);
        foreach ((ulong at, int value) in ((ulong, int)[])[(Debug, 1), (Interrupt, 0x80)])
        {
            guest.Load(
                a =>
                {
                    a.mov(eax, value);
                    FlatGuest.Exit(a);
                    a.hlt();
                },
                at);
        }
        guest.Load(a =>
        {
            a.lgdt(__[0x6000]);
            a.lidt(__[0x6010]);
            a.pushfq();
            a.or(__dword_ptr[rsp], 0x100);
            a.popfq();
            a.@int(0x80);
            a.hlt();
        });
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        Assert.Equal(0x80UL, guest.Output[^1].Value);
    }
}

internal static unsafe class VcpuTestExtensions
{
    public static ulong B_Gpr(this Lodge.Engine.Translation.Processor.Vcpu vcpu, int number) => vcpu.B->Gpr[number];
}
