using Iced.Intel;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests;

/// <summary>SYSCALL, SYSRETQ, SWAPGS and POP RSP in translated code, against the same program executed one instruction at a time.</summary>
public sealed unsafe class SystemCallTests
{
    private const ulong User = 0x11_0000, Handler = 0x12_0000;
    private const int Calls = 500;

    [Theory]
    [InlineData(0x25_7FD5u, true)]  // Linux's mask
    [InlineData(0x04_0101u, true)]  // TF, AC and CF
    [InlineData(0x00_0200u, false)] // TF and AC stay: C# has to look
    public void Many_calls_leave_the_same_state_in_both_tiers(uint mask, bool stays)
    {
        (ulong[] interpreted, _) = Run(mask, true);
        (ulong[] translated, long exits) = Run(mask, false);
        Assert.Equal(interpreted, translated);
        Assert.True(stays ? exits < Calls / 5 : exits > Calls, $"{exits} exits");
    }

    // Registers, flags, selectors, attributes and bases at the end; exits from translated code.
    private static (ulong[] State, long Exits) Run(uint mask, bool interpret)
    {
        using var guest = new FlatGuest();
        guest.Processor.ForceInterpret = interpret;
        foreach ((uint register, ulong value) in ((uint, ulong)[])
            [(0xC000_0081, 0x0023_0010_0000_0000), (0xC000_0082, Handler), (0xC000_0084, mask), (0xC000_0101, FlatGuest.DataBase), (0xC000_0102, FlatGuest.DataBase + 0x1000)])
        {
            Assert.True(guest.Processor.TryWriteMsr(register, value));
        }
        guest.Memory.TryWrite(FlatGuest.DataBase, 0x1111_2222_3333_4444UL);
        guest.Memory.TryWrite(FlatGuest.DataBase + 0x1000, 0x5555_6666_7777_8888UL);
        guest.Load(a =>
        {
            a.mov(ebp, Calls);
            a.mov(rbx, 0x9E37_79B9_7F4A_7C15);
            a.mov(r12, 0xD1B5_4A32_D192_ED03);
            a.mov(ecx, (uint)User);
            a.mov(r11d, 0x202);
            a.sysretq();
        });
        guest.Load(
            a =>
            {
                Label loop = a.CreateLabel();
                a.Label(ref loop);
                a.add(rbx, r12); // every combination of arithmetic flags
                a.syscall();
                a.pushfq();
                a.pop(r14);
                a.add(rdi, r14);
                a.dec(ebp);
                a.jmp(loop);
            },
            User);
        guest.Load(
            a =>
            {
                Label end = a.CreateLabel();
                a.pushfq();
                a.pop(r13);
                a.imul(rdi, rdi, 31);
                a.add(rdi, r13);
                a.add(rdi, r11);
                a.add(rdi, rcx);
                a.swapgs();
                a.add(rdi, __.gs[0]);
                a.push(rbx);
                a.lea(rax, __[rsp - 64]);
                a.mov(__[rsp - 64], rsp);
                a.mov(rsp, rax);
                a.pop(rsp);
                a.pop(rax);
                a.add(rdi, rax);
                a.swapgs();
                a.add(rdi, __.gs[0]);
                a.mov(eax, cs);
                a.add(rdi, rax);
                a.mov(eax, ss);
                a.add(rdi, rax);
                a.test(ebp, ebp);
                a.je(end);
                a.xor(r11d, 0x20_0C85); // other flags come back: ID, DF and OF, SF, PF, CF
                a.sysretq();
                a.Label(ref end);
                FlatGuest.Exit(a);
                a.hlt();
            },
            Handler);
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        Processor.ProcessorBlock* b = guest.Processor.B;
        List<ulong> state = [guest.Processor.Rflags, b->Cpl, b->Segment5.Base, b->KernelGsBase];
        for (int i = 0; i < 16; i++)
        {
            state.Add(b->Gpr[i]);
        }
        foreach (Processor.Segment* s in (Processor.Segment*[])[&b->Segment1, &b->Segment2])
        {
            state.AddRange([s->Selector, s->Attributes, s->Base, s->Limit]);
        }
        Assert.Equal((0xFFFF_FFFFUL << 32) + 0x10, (state[23] << 32) + state[20]); // ended in the handler
        return ([.. state], guest.Processor.Exits);
    }

    [Fact]
    public void Time_stamp_disable_holds_for_code_that_ran_before()
    {
        const ulong Gdt = 0x4000, Idt = 0x5000, Fault = 0x13_0000;
        using var guest = new FlatGuest();
        guest.Memory.TryWrite(Gdt + 0x08, 0x00AF_9B00_0000_FFFFUL);
        guest.Memory.TryWrite(Idt + (13 * 16), (Fault & 0xFFFF) | (0x08UL << 16) | (0x8E00UL << 32) | ((Fault >> 16) << 48));
        guest.Memory.TryWrite(0x1004, FlatGuest.StackTop - 0x1000); // RSP0
        guest.Memory.TryWrite<ushort>(0x6000, 0xFFF);
        guest.Memory.TryWrite(0x6002, Gdt);
        guest.Memory.TryWrite<ushort>(0x6010, 0xFFF);
        guest.Memory.TryWrite(0x6012, Idt);
        foreach ((uint register, ulong value) in ((uint, ulong)[])[(0xC000_0081, 0x0023_0010_0000_0000), (0xC000_0082, Handler), (0xC000_0084, 0x4_0300)])
        {
            Assert.True(guest.Processor.TryWriteMsr(register, value));
        }
        guest.Load(a =>
        {
            a.lgdt(__[0x6000]);
            a.lidt(__[0x6010]);
            a.mov(ebp, 4);
            a.mov(ecx, (uint)User);
            a.mov(r11d, 2);
            a.sysretq();
        });
        guest.Load(
            a =>
            {
                a.rdtsc();
                a.syscall();
            },
            User);
        guest.Load(
            a =>
            {
                Label again = a.CreateLabel(), disable = a.CreateLabel();
                a.mov(ecx, (uint)User);
                a.dec(ebp);
                a.cmp(ebp, 1);
                a.jg(again);
                a.je(disable);
                a.mov(eax, 1);
                FlatGuest.Exit(a);
                a.Label(ref disable);
                a.mov(rax, cr4);
                a.or(eax, 4);
                a.mov(cr4, rax);
                a.Label(ref again);
                a.sysretq();
            },
            Handler);
        guest.Load(
            a =>
            {
                a.mov(eax, 13);
                FlatGuest.Exit(a);
                a.hlt();
            },
            Fault);
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        Assert.Equal(13UL, guest.Output[^1].Value);
    }
}
