using Iced.Intel;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

public class ProtectedModeTests
{
    private const ulong Entry = SmallGuest.Code + 0x200;

    /// <summary>A guest that goes from real to flat 32-bit mode itself and runs <paramref name="code"/> there.</summary>
    private static SmallGuest Create(Action<Assembler> code)
    {
        var guest = new SmallGuest();
        ulong[] descriptors = [0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];
        for (int i = 0; i < descriptors.Length; i++)
        {
            guest.Memory.TryWrite(SmallGuest.GlobalTable + ((ulong)i * 8), descriptors[i]);
        }
        guest.Memory.TryWrite(SmallGuest.Code + 0x100, (ushort)0x17);
        guest.Memory.TryWrite(SmallGuest.Code + 0x102, (uint)SmallGuest.GlobalTable);
        guest.Put(SmallGuest.Code, 16, a =>
        {
            a.mov(ax, cs);
            a.mov(ds, ax);
            a.lgdt(__fword_ptr[0x100]);
            a.mov(eax, cr0);
            a.or(al, 1);
            a.mov(cr0, eax);
            a.db([0x66, 0xEA, .. BitConverter.GetBytes((uint)Entry), 8, 0]); // jmp 8:Entry
        });
        guest.Put(Entry, 32, a =>
        {
            a.mov(ax, 0x10);
            a.mov(ds, ax);
            a.mov(es, ax);
            a.mov(ss, ax);
            a.mov(esp, (uint)SmallGuest.Stack);
            code(a);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.RealMode();
        return guest;
    }

    [Fact]
    public void GuestEntersProtectedModeAndUsesMemory()
    {
        using SmallGuest guest = Create(a =>
        {
            a.mov(ebx, (uint)SmallGuest.Data);
            a.mov(__dword_ptr[ebx], 0x1234_5678);
            a.push(7);
            a.pop(ecx);
            a.imul(ecx, ecx, 6);
            a.mov(__dword_ptr[ebx + 4], ecx);
        });
        guest.RunToEnd();
        Assert.Equal(0x1234_5678u, guest.Word(SmallGuest.Data));
        Assert.Equal(42u, guest.Word(SmallGuest.Data + 4));
    }

    [Fact]
    public void MemoryMappedRegistersOfAllWidths()
    {
        using SmallGuest guest = Create(a =>
        {
            a.mov(ebx, 0xD000_0000);
            a.mov(eax, 0xA1B2_C3D4);
            a.mov(__byte_ptr[ebx], al);
            a.mov(__word_ptr[ebx + 2], ax);
            a.mov(__dword_ptr[ebx + 4], eax);
            a.movzx(eax, __byte_ptr[ebx + 8]);
            a.movzx(ecx, __word_ptr[ebx + 0xA]);
            a.mov(edx, __dword_ptr[ebx + 0xC]);
            a.mov(edi, (uint)SmallGuest.Data);
            a.mov(__dword_ptr[edi], eax);
            a.mov(__dword_ptr[edi + 4], ecx);
            a.mov(__dword_ptr[edi + 8], edx);
        });
        guest.Bus.Answer = static (address, _) => 0x8182_8384 + (address & 0xF);
        guest.RunToEnd();
        Assert.Equal(["write8 D0000000 D4", "write16 D0000002 C3D4", "write32 D0000004 A1B2C3D4", "read8 D0000008", "read16 D000000A", "read32 D000000C"], guest.Bus.Log);
        Assert.Equal([0x8Cu, 0x838Eu, 0x8182_8390u], [guest.Word(SmallGuest.Data), guest.Word(SmallGuest.Data + 4), guest.Word(SmallGuest.Data + 8)]);
    }

    [Fact]
    public void StringsToAndFromMemoryMappedRegisters()
    {
        using SmallGuest guest = Create(a =>
        {
            a.cld();
            a.mov(edi, 0xD000_0000);
            a.mov(eax, 0x55);
            a.mov(ecx, 3);
            a.rep.stosb();
            a.mov(esi, 0xD000_0100);
            a.mov(edi, (uint)SmallGuest.Data);
            a.mov(ecx, 2);
            a.rep.movsd();
        });
        guest.Bus.Answer = static (address, _) => address;
        guest.RunToEnd();
        Assert.Equal(["write8 D0000000 55", "write8 D0000001 55", "write8 D0000002 55", "read32 D0000100", "read32 D0000104"], guest.Bus.Log);
        Assert.Equal([0xD000_0100u, 0xD000_0104u], [guest.Word(SmallGuest.Data), guest.Word(SmallGuest.Data + 4)]);
    }
}
