using Iced.Intel;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests;

/// <summary>#AC: CR0.AM, EFLAGS.AC and CPL 3 (Intel SDM vol. 3, 7.15, interrupt 17, table 7-7).</summary>
public sealed class AlignmentCheckTests
{
    private const ulong Data = FlatGuest.DataBase, NotPresent = 0x28_0000;
    private const ulong Aligned = 0x80;

    public static TheoryData<string, ulong, ulong> Accesses => new()
    {
        { "8A03", Data + 1, Aligned }, // mov al, [rbx]
        { "668B03", Data + 1, 17 }, // mov ax, [rbx]
        { "668B03", Data + 2, Aligned },
        { "8B03", Data + 2, 17 }, // mov eax, [rbx]
        { "890B", Data + 2, 17 }, // mov [rbx], ecx
        { "8B03", Data + 4, Aligned },
        { "488B03", Data + 4, 17 }, // mov rax, [rbx]
        { "480103", Data + 4, 17 }, // add [rbx], rax
        { "FF33", Data + 4, 17 }, // push qword [rbx]
        { "F20F1003", Data + 4, 17 }, // movsd xmm0, [rbx]
        { "F30F6F03", Data + 1, Aligned }, // movdqu xmm0, [rbx]: more than 8 bytes
        { "DB2B", Data + 4, 17 }, // fld tbyte [rbx]
        { "DB2B", Data + 8, Aligned },
        { "D933", Data + 2, 17 }, // fnstenv [rbx]
        { "D933", Data + 4, Aligned },
        { "4889DC50", Data + 0x104, 17 }, // mov rsp, rbx; push rax
        { "4889DC58", Data + 0x104, 17 }, // mov rsp, rbx; pop rax
        { "4889DCC3", Data + 0x104, 17 }, // mov rsp, rbx; ret
        { "4889DC0FA0", Data + 0x104, 17 }, // mov rsp, rbx; push fs
        { "668E2B", Data + 1, 17 }, // mov gs, [rbx]
        { "4889DEA5", Data + 2, 17 }, // mov rsi, rbx; movsd
        { "4889DFB904000000F3AB", Data + 2, 17 }, // mov rdi, rbx; mov ecx, 4; rep stosd
        { "4889DFB904000000F3AA", Data + 1, Aligned }, // the same with bytes
        { "8B03", NotPresent + 1, 14 }, // #PF comes first
        { "8B03", NotPresent - 2, 14 }, // on the second page as well
    };

    [Theory]
    [MemberData(nameof(Accesses))]
    public void Misaligned_accesses_of_user_code_fault(string code, ulong address, ulong vector)
    {
        using FlatGuest guest = Guest(code, address, true);
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        Assert.Equal(vector, guest.Output[0].Value);
        if (vector == 17)
        {
            Assert.Equal(0UL, guest.Output[1].Value); // error code
            Assert.InRange(guest.Output[2].Value, FlatGuest.CodeBase, FlatGuest.CodeBase + 64);
        }
    }

    [Theory]
    [InlineData(false, true, true)]
    [InlineData(true, false, true)]
    [InlineData(true, true, false)]
    public void All_three_conditions_are_needed(bool user, bool flag, bool mask)
    {
        using FlatGuest guest = Guest("8B03488B03", Data + 1, user, flag, mask);
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        Assert.Equal(Aligned, guest.Output[0].Value);
    }

    [Fact]
    public void POPF_switches_the_check_on_in_translated_code()
    {
        using FlatGuest guest = Guest("9C810C24000004009D8B03", Data + 1, true, false); // pushfq; or dword [rsp], 0x40000; popfq; mov eax, [rbx]
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        Assert.Equal((17UL, FlatGuest.CodeBase + 9), (guest.Output[0].Value, guest.Output[2].Value));
    }

    private static FlatGuest Guest(string code, ulong address, bool user, bool flag = true, bool mask = true)
    {
        var guest = new FlatGuest(userMode: user);
        guest.InstallHandlers((byte)Aligned);
        ulong entry = FlatGuest.Tables + 0x3000 + (NotPresent >> 12) * 8;
        guest.Memory.TryWrite(entry, 0UL);
        byte[] program = [.. Convert.FromHexString(code), 0xCD, (byte)Aligned];
        guest.Memory.TryWrite(FlatGuest.CodeBase, program);
        ProcessorState state = guest.Processor.SaveState();
        state.GeneralRegisters[3] = address;
        state.Flags = flag ? 0x4_0002u : 2u;
        state.Cr0 = mask ? state.Cr0 | (1 << 18) : state.Cr0 & ~(1UL << 18);
        guest.Processor.RestoreState(state);
        return guest;
    }
}
