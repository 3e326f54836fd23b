using Iced.Intel;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class LongModeTests
{
    private const ulong User = SmallGuest.Code + 0x1000, Handler = SmallGuest.Code + 0x2000;

    [Fact]
    public void RingThreeRunsAndFaultsIntoRingZero()
    {
        using var guest = new SmallGuest();
        guest.Gate(13, Handler);
        guest.Put(SmallGuest.Code, 64, a =>
        {
            a.push((int)SmallGuest.UserData);
            a.push((int)SmallGuest.Stack - 0x2000);
            a.push(2);
            a.push((int)SmallGuest.UserCode);
            a.push((int)User);
            a.iretq();
        });
        guest.Put(User, 64, a =>
        {
            Label again = a.CreateLabel();
            a.mov(rbx, SmallGuest.Data);
            a.mov(ecx, 1000);
            a.xor(eax, eax);
            a.Label(ref again);
            a.add(eax, ecx);
            a.dec(ecx);
            a.jnz(again);
            a.mov(__dword_ptr[rbx], eax);
            a.hlt();
        });
        guest.Put(Handler, 64, a =>
        {
            a.mov(rbx, SmallGuest.Data);
            a.pop(rax);
            a.mov(__qword_ptr[rbx + 8], rax);
            a.pop(rax);
            a.mov(__qword_ptr[rbx + 16], rax);
            a.pop(rax);
            a.mov(__qword_ptr[rbx + 24], rax);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.LongMode();
        guest.RunToEnd();
        Assert.Equal(500_500u, guest.Word(SmallGuest.Data));
        Assert.Equal(0u, guest.Word(SmallGuest.Data + 8));
        Assert.InRange(guest.Word(SmallGuest.Data + 16), (uint)User, (uint)User + 64);
        Assert.Equal(SmallGuest.UserCode, guest.Word(SmallGuest.Data + 24));
    }

    [Fact]
    public void MemoryMappedRegistersOfAllWidths()
    {
        using var guest = new SmallGuest();
        guest.Bus.Answer = static (address, _) => 0x8182_8384_8586_8788;
        guest.Put(SmallGuest.Code, 64, a =>
        {
            a.mov(rbx, 0xD000_0000UL);
            a.mov(rax, 0x0102_0304_0506_0708UL);
            a.mov(__qword_ptr[rbx], rax);
            a.mov(__dword_ptr[rbx + 8], eax);
            a.mov(__word_ptr[rbx + 0xC], ax);
            a.mov(__byte_ptr[rbx + 0xE], al);
            a.mov(rcx, __qword_ptr[rbx + 0x10]);
            a.mov(rdi, SmallGuest.Data);
            a.mov(__qword_ptr[rdi], rcx);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.LongMode();
        guest.RunToEnd();
        Assert.Equal(["write64 D0000000 102030405060708", "write32 D0000008 5060708", "write16 D000000C 708", "write8 D000000E 8", "read64 D0000010"], guest.Bus.Log);
        Assert.Equal(0x8586_8788u, guest.Word(SmallGuest.Data));
        Assert.Equal(0x8182_8384u, guest.Word(SmallGuest.Data + 4));
    }

    [Fact]
    public void TranslatesWithTheGuestsPageTables()
    {
        using var guest = new SmallGuest();
        guest.LongMode();
        // One more page: linear 1 GiB * 5 by way of small pages.
        guest.Memory.TryWrite(SmallGuest.PageTables + 0x1000 + (5 * 8), (SmallGuest.Data + 0x1000) | 7);
        guest.Memory.TryWrite(SmallGuest.Data + 0x1000, (SmallGuest.Data + 0x2000) | 7);
        guest.Memory.TryWrite(SmallGuest.Data + 0x2000 + (3 * 8), 0x12_3000UL | 1);
        Assert.True(guest.Processor.TryTranslate((5UL << 30) + (3 << 12) + 0x45, out ulong physical));
        Assert.Equal(0x12_3045UL, physical);
        Assert.True(guest.Processor.TryTranslate(0x8765_4321, out physical));
        Assert.Equal(0x8765_4321UL, physical);
        Assert.False(guest.Processor.TryTranslate(6UL << 30, out _));
        Assert.False(guest.Processor.TryTranslate(1UL << 47, out _));
        Assert.True(guest.Memory.TryRead(SmallGuest.Data + 0x2000 + (3 * 8), out ulong entry));
        Assert.Equal(0x12_3001UL, entry); // no accessed bit
    }
}
