using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Lodge.Engine.Translation.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class SystemRegisterTests : IDisposable
{
    private static readonly byte[] s_movCr0Rax = [0x0F, 0x22, 0xC0], s_movCr3Rax = [0x0F, 0x22, 0xD8], s_movCr4Rax = [0x0F, 0x22, 0xE0], s_rdmsr = [0x0F, 0x32], s_wrmsr = [0x0F, 0x30], s_xsetbv = [0x0F, 0x01, 0xD1];
    private readonly GuestFixture _guest = new();

    public void Dispose() => _guest.Dispose();

    private void Wrmsr(uint index, ulong value)
    {
        (_guest.B->Gpr[1], _guest.B->Gpr[0], _guest.B->Gpr[2]) = (index, (uint)value, value >> 32);
        _guest.Execute(s_wrmsr);
    }

    private ulong Rdmsr(uint index)
    {
        _guest.B->Gpr[1] = index;
        _guest.Execute(s_rdmsr);
        return (_guest.B->Gpr[2] << 32) | _guest.B->Gpr[0];
    }

    private void WrmsrFaults(uint index, ulong value)
    {
        (_guest.B->Gpr[1], _guest.B->Gpr[0], _guest.B->Gpr[2]) = (index, (uint)value, value >> 32);
        _guest.Faults(Vector.GeneralProtection, s_wrmsr);
    }

    [Theory]
    [InlineData(1UL << 32)]
    [InlineData(Cr0Bits.Pg)]
    [InlineData(Cr0Bits.Pe | Cr0Bits.Nw)]
    public void Cr0_refuses_impossible_values(ulong value)
    {
        _guest.EnterProtectedMode();
        ulong before = _guest.B->Cr0;
        Assert.Throws<GuestFault>(() => _guest.Vcpu.SetCr0(value));
        Assert.Equal(before, _guest.B->Cr0);
    }

    [Fact]
    public void Long_mode_is_entered_and_left_by_the_book()
    {
        _guest.EnterProtectedMode();
        Wrmsr(Msr.Efer, EferBits.Lme);
        _guest.B->Gpr[0] = Cr0Bits.Pe | Cr0Bits.Pg;
        _guest.Faults(Vector.GeneralProtection, s_movCr0Rax); // no PAE
        _guest.B->Gpr[0] = Cr4Bits.Pae;
        _guest.Execute(s_movCr4Rax);
        _guest.B->Gpr[0] = Cr0Bits.Pe | Cr0Bits.Pg;
        _guest.Execute(s_movCr0Rax);
        Assert.Equal(EferBits.Lme | EferBits.Lma, _guest.B->Efer);
        WrmsrFaults(Msr.Efer, 0); // LME under paging
        _guest.B->Gpr[0] = 0;
        _guest.Faults(Vector.GeneralProtection, s_movCr4Rax); // PAE under LMA
        _guest.B->Gpr[0] = Cr0Bits.Pe;
        _guest.Execute(s_movCr0Rax);
        Assert.Equal(EferBits.Lme, _guest.B->Efer);
    }

    [Fact]
    public void Cr4_takes_only_what_the_model_has()
    {
        _guest.EnterLongMode(0);
        foreach (ulong bit in new[] { 1UL << 12, 1UL << 13, 1UL << 14, 1UL << 15, 1UL << 19, 1UL << 23, 1UL << 24, 1UL << 32 })
        {
            _guest.B->Gpr[0] = Cr4Bits.Pae | bit;
            _guest.Faults(Vector.GeneralProtection, s_movCr4Rax);
        }
        using var old = new GuestFixture(CpuModelName.V1);
        Assert.Throws<GuestFault>(() => old.Vcpu.SetCr4(Cr4Bits.Osxsave));
    }

    [Fact]
    public void Pcid_needs_long_mode_and_a_clean_cr3()
    {
        _guest.EnterProtectedMode();
        Assert.Throws<GuestFault>(() => _guest.Vcpu.SetCr4(Cr4Bits.Pae | Cr4Bits.Pcide));
        _guest.EnterLongMode(0x1008);
        Assert.Throws<GuestFault>(() => _guest.Vcpu.SetCr4(Cr4Bits.Pae | Cr4Bits.Pcide));
        _guest.B->Gpr[0] = 0x1000 | (1UL << 63);
        _guest.Faults(Vector.GeneralProtection, s_movCr3Rax); // bit 63 without PCIDE
        _guest.B->Cr3 = 0x1000;
        _guest.Vcpu.SetCr4(Cr4Bits.Pae | Cr4Bits.Pcide);
        _guest.B->Gpr[0] = 0x1005 | (1UL << 63);
        _guest.Execute(s_movCr3Rax);
        Assert.Equal(0x1005UL, _guest.B->Cr3);
    }

    [Fact]
    public void System_instructions_need_cpl_0()
    {
        _guest.EnterLongMode(0, cpl: 3);
        foreach (byte[] code in new byte[][] { s_movCr0Rax, s_rdmsr, s_wrmsr, [0xF4], [0x0F, 0x06], [0x0F, 0x09], [0x0F, 0x01, 0xF8], [0x0F, 0x23, 0xC0] })
        {
            _guest.Faults(Vector.GeneralProtection, code);
        }
        _guest.Faults(Vector.InvalidOpcode, 0x0F, 0x01, 0xCA); // CLAC
        Assert.Equal(0u, _guest.B->Activity);
    }

    [Fact]
    public void Msrs_check_what_they_hold()
    {
        _guest.EnterLongMode(0);
        Wrmsr(Msr.Lstar, 0xFFFF_8000_0000_1234);
        Assert.Equal(0xFFFF_8000_0000_1234, Rdmsr(Msr.Lstar));
        WrmsrFaults(Msr.Lstar, 0x8000_0000_0000);
        WrmsrFaults(Msr.FsBase, 0x8000_0000_0000);
        WrmsrFaults(Msr.KernelGsBase, 0x8000_0000_0000);
        WrmsrFaults(Msr.Pat, 0x02);
        WrmsrFaults(Msr.Efer, 1 << 12);
        WrmsrFaults(Msr.MtrrDefType, 0x1000);
        WrmsrFaults(Msr.TscAux, 1UL << 32);
        WrmsrFaults(Msr.MtrrCap, 0);
        if (_guest.Vcpu.Model.Has(CpuFeature.SpeculationControl))
        {
            Wrmsr(Msr.SpecCtrl, 1 | 1 << 10); // IBRS, BHI_DIS_S
            Assert.Equal(1UL | 1 << 10, Rdmsr(Msr.SpecCtrl));
            WrmsrFaults(Msr.SpecCtrl, 1 << 2);
        }
        WrmsrFaults(0xDEAD_BEEF, 0);
        _guest.B->Gpr[1] = 0x1234_5678;
        _guest.Faults(Vector.GeneralProtection, s_rdmsr);
        Wrmsr(Msr.FsBase, 0x1234);
        Assert.Equal(0x1234UL, _guest.Vcpu.Segment(Seg.Fs)->Base);
    }

    [Fact]
    public void Tsc_adjust_follows_writes_of_the_tsc()
    {
        _guest.EnterLongMode(0);
        ulong offset = _guest.B->TscOffset;
        Wrmsr(Msr.Tsc, 0);
        ulong moved = _guest.B->TscOffset - offset;
        Assert.Equal(moved, Rdmsr(Msr.TscAdjust));
        Wrmsr(Msr.TscAdjust, 0);
        Assert.Equal(offset, _guest.B->TscOffset);
    }

    [Fact]
    public void Xcr0_needs_sse_for_avx_and_always_x87()
    {
        _guest.EnterLongMode(0, Cr4Bits.Osxsave);
        _guest.B->Gpr[1] = _guest.B->Gpr[2] = 0;
        foreach (ulong bad in new[] { 0UL, 2UL, 5UL, 6UL, 1UL | 1 << 3, 7UL | 0xE0 })
        {
            _guest.B->Gpr[0] = bad;
            _guest.Faults(Vector.GeneralProtection, s_xsetbv);
        }
        _guest.B->Gpr[0] = 3;
        _guest.Execute(s_xsetbv);
        Assert.Equal(3UL, _guest.B->Xcr0);
        _guest.Faults(Vector.InvalidOpcode, 0xC5, 0xF8, 0xAE, 0x18); // VSTMXCSR without AVX in XCR0
        _guest.B->Cr4 &= ~Cr4Bits.Osxsave;
        _guest.Faults(Vector.InvalidOpcode, s_xsetbv);
    }

    [Fact]
    public void Debug_registers()
    {
        _guest.EnterLongMode(0);
        _guest.B->Dr7 = 0x400;
        _guest.B->Gpr[0] = 0x0000_0000_FFFF_FFFF;
        _guest.Execute(0x0F, 0x23, 0xF0); // mov dr6, rax
        Assert.Equal(0xFFFF_EFFFUL, _guest.B->Dr6);
        _guest.B->Gpr[0] = 1UL << 32;
        _guest.Faults(Vector.GeneralProtection, 0x0F, 0x23, 0xF8);
        _guest.B->Cr4 |= Cr4Bits.De;
        _guest.Faults(Vector.InvalidOpcode, 0x0F, 0x21, 0xE0); // mov rax, dr4
        _guest.B->Dr7 |= 1 << 13;
        Assert.Equal(1UL << 13, _guest.Faults(Vector.Debug, 0x0F, 0x21, 0xC0).Address);
    }

    [Fact]
    public void Data_breakpoints_are_noted()
    {
        _guest.EnterProtectedMode();
        _guest.B->Dr0 = 0x2004;
        _guest.B->Gpr[0] = 0x1 | (0xDu << 16); // L0, stores, 4 bytes
        _guest.Execute(0x0F, 0x23, 0xF8);
        _guest.Vcpu.ReadLinear(0x2004, 4, false);
        _guest.Vcpu.WriteLinear(0x2008, 0, 4, false);
        Assert.Equal(0UL, _guest.Vcpu.PendingDebug);
        _guest.Vcpu.WriteLinear(0x2000, 0, 8, false);
        Assert.Equal(1UL, _guest.Vcpu.PendingDebug);
    }

    [Fact]
    public void Umip_and_tsd_guard_user_mode()
    {
        _guest.EnterLongMode(0, Cr4Bits.Umip | Cr4Bits.Tsd, cpl: 3);
        _guest.Faults(Vector.GeneralProtection, 0x0F, 0x01, 0xE0); // SMSW EAX
        _guest.Faults(Vector.GeneralProtection, 0x0F, 0x31);
        _guest.B->Cr4 = Cr4Bits.Pae;
        _guest.Execute(0x0F, 0x01, 0xE0);
        Assert.Equal((uint)_guest.B->Cr0, _guest.B->Gpr[0]);
        _guest.Execute(0x0F, 0x31);
    }

    [Fact]
    public void Task_switched_and_emulation_raise_the_right_fault()
    {
        _guest.EnterLongMode(0, Cr4Bits.Osfxsr | Cr4Bits.Osxsave);
        byte[] fxsave = [0x0F, 0xAE, 0x00], stmxcsr = [0x0F, 0xAE, 0x18], xsave = [0x0F, 0xAE, 0x20];
        _guest.B->Cr0 |= Cr0Bits.Ts;
        _guest.Faults(Vector.DeviceNotAvailable, fxsave);
        _guest.Faults(Vector.DeviceNotAvailable, stmxcsr);
        _guest.Faults(Vector.DeviceNotAvailable, xsave);
        _guest.Execute(0x0F, 0x06); // CLTS
        _guest.B->Cr0 |= Cr0Bits.Em;
        _guest.Faults(Vector.DeviceNotAvailable, fxsave);
        _guest.Faults(Vector.InvalidOpcode, stmxcsr);
        _guest.B->Cr0 &= ~Cr0Bits.Em;
        _guest.B->Cr4 &= ~Cr4Bits.Osfxsr;
        _guest.Faults(Vector.InvalidOpcode, stmxcsr);
    }

    [Fact]
    public void Unoffered_instructions_are_undefined()
    {
        _guest.EnterLongMode(0, Cr4Bits.Osfxsr | Cr4Bits.Osxsave);
        byte[][] absent =
        [
            [0x0F, 0x01, 0xC8], [0x0F, 0x01, 0xC9],             // MONITOR, MWAIT
            [0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC1],             // VADDPS zmm
            [0xC7, 0xF8, 0, 0, 0, 0],                         // XBEGIN
            [0x0F, 0x0B], [0x0F, 0x01, 0xC4],                 // UD2, VMXOFF
            [0x0F, 0xC7, 0x28],                               // XSAVES
        ];
        Assert.All(absent, code => _guest.Faults(Vector.InvalidOpcode, code));
    }

    [Fact]
    public void Vex_needs_protected_mode()
    {
        byte[] andn = [0xC4, 0xE2, 0x78, 0xF2, 0xC1], vaddps = [0xC5, 0xF0, 0x58, 0xC2];
        _guest.EnterProtectedMode();
        Assert.Equal(AvailabilityClass.VexGeneral, ClassOf(andn));
        Assert.Equal(AvailabilityClass.Avx, ClassOf(vaddps));
        Assert.Equal(AvailabilityClass.Mmx, ClassOf([0x0F, 0xFC, 0xC1]));         // PADDB mm
        Assert.Equal(AvailabilityClass.Mmx, ClassOf([0x0F, 0x70, 0xC1, 0]));      // PSHUFW mm, of SSE
        Assert.Equal(AvailabilityClass.Sse, ClassOf([0x0F, 0x2C, 0xC1]));         // CVTTPS2PI
        Assert.Equal(AvailabilityClass.Sse, ClassOf([0x66, 0x0F, 0x38, 0xDC, 0xC1])); // AESENC
        Assert.Equal(AvailabilityClass.X87, ClassOf([0xDD, 0x08]));               // FISTTP
        Assert.Equal(AvailabilityClass.Wait, ClassOf([0x9B]));
        Assert.Equal(AvailabilityClass.Always, ClassOf([0x0F, 0x18, 0x00]));      // PREFETCHNTA
        Assert.Equal(AvailabilityClass.Always, ClassOf([0xF2, 0x0F, 0x38, 0xF0, 0xC1])); // CRC32
        Assert.Equal(AvailabilityClass.Always, ClassOf([0x0F, 0xC3, 0x00]));      // MOVNTI
        Assert.Equal(AvailabilityClass.Never, ClassOf([0x0F, 0x0F, 0xC1, 0x9E])); // 3DNow!
        Assert.Equal(AvailabilityClass.Always, ClassOf([0x01, 0xC0]));
        _guest.B->Cr0 = 0;
        foreach (byte[] code in new[] { andn, vaddps })
        {
            Assert.Equal(Vector.InvalidOpcode, Assert.Throws<GuestFault>(() => _guest.Vcpu.CheckAvailability(_guest.Decode(code))).Vector);
        }
    }

    private AvailabilityClass ClassOf(byte[] code) => _guest.Vcpu.ClassOf(_guest.Decode(code));

    [Fact]
    public void Cpuid_and_random_numbers_reach_registers()
    {
        _guest.EnterLongMode(0);
        for (int i = 0; i < 100; i++)
        {
            _guest.B->Gpr[0] = ulong.MaxValue;
            _guest.Execute(0x0F, 0xC7, 0xF0); // RDRAND EAX
            Assert.True(_guest.B->Gpr[0] <= uint.MaxValue);
            Assert.Equal(1UL, _guest.Vcpu.Rflags & 0x8D5);
        }
        Wrmsr(Msr.TscAux, 77);
        _guest.Execute(0xF3, 0x48, 0x0F, 0xC7, 0xF9); // RDPID RCX
        Assert.Equal(77UL, _guest.B->Gpr[1]);
    }

    [Fact]
    public void Gs_bases_swap_and_wrgsbase_wants_a_canonical_one()
    {
        _guest.EnterLongMode(0, Cr4Bits.FsGsBase);
        (_guest.Vcpu.Segment(Seg.Gs)->Base, _guest.B->KernelGsBase) = (1, 2);
        _guest.Execute(0x0F, 0x01, 0xF8);
        Assert.Equal((2UL, 1UL), (_guest.Vcpu.Segment(Seg.Gs)->Base, _guest.B->KernelGsBase));
        _guest.B->Gpr[0] = 0x8000_0000_0000;
        _guest.Faults(Vector.GeneralProtection, 0xF3, 0x48, 0x0F, 0xAE, 0xD8); // WRGSBASE RAX
        _guest.B->Cr4 = Cr4Bits.Pae;
        _guest.Faults(Vector.InvalidOpcode, 0xF3, 0x48, 0x0F, 0xAE, 0xC8); // RDGSBASE RAX
    }

    [Fact]
    public void Segment_limits_hold_outside_64_bit_code()
    {
        _guest.EnterProtectedMode();
        Segment* ds = _guest.Vcpu.Segment(Seg.Ds);
        (ds->Base, ds->Limit) = (0x1000, 0xFFF);
        Assert.Equal(0x1FFCUL, _guest.Vcpu.LinearAddress(Seg.Ds, 0xFFC, 4, AccessKind.Read));
        Assert.Equal(Vector.GeneralProtection, Assert.Throws<GuestFault>(() => _guest.Vcpu.LinearAddress(Seg.Ds, 0xFFD, 4, AccessKind.Read)).Vector);
        ds->Attributes = 0xC097; // expand-down: above the limit only
        Assert.Throws<GuestFault>(() => _guest.Vcpu.LinearAddress(Seg.Ds, 0xFFF, 1, AccessKind.Read));
        Assert.Equal(0x2000UL, _guest.Vcpu.LinearAddress(Seg.Ds, 0x1000, 4, AccessKind.Write));
        Assert.Throws<GuestFault>(() => _guest.Vcpu.LinearAddress(Seg.Cs, 0, 1, AccessKind.Write));
        ds->Attributes = Segment.AttributeUnusable;
        Assert.Throws<GuestFault>(() => _guest.Vcpu.LinearAddress(Seg.Ds, 0, 1, AccessKind.Read));
        _guest.EnterLongMode(0);
        Assert.Equal(Vector.StackFault, Assert.Throws<GuestFault>(() => _guest.Vcpu.LinearAddress(Seg.Ss, 0x7FFF_FFFF_FFFC, 8, AccessKind.Read)).Vector);
    }

    [Fact]
    public void State_survives_saving_and_refuses_nonsense()
    {
        _guest.Vcpu.ResetRegisters();
        Assert.Equal((0xFFF0UL, 0xFFFF_0000UL, 0x6000_0010UL), (_guest.B->Rip, _guest.Vcpu.Segment(Seg.Cs)->Base, _guest.B->Cr0));
        _guest.B->Gpr[3] = 42;
        _guest.B->Ymm[17] = 9;
        _guest.B->Lstar = 0x1234;
        ProcessorState state = _guest.Vcpu.SaveRegisters();
        using var other = new GuestFixture();
        other.Vcpu.ResetRegisters();
        other.Vcpu.RestoreRegisters(state);
        Assert.Equal((42UL, (byte)9, 0x1234UL), (other.B->Gpr[3], other.B->Ymm[17], other.B->Lstar));
        Assert.Equal(state.ModelSpecificRegisters, other.Vcpu.SaveRegisters().ModelSpecificRegisters);
        state.Cr4 = 1UL << 40;
        Assert.Throws<SavedStateException>(() => other.Vcpu.RestoreRegisters(state));
        state.Cr4 = 0;
        state.ModelSpecificRegisters[Msr.Pat] = 2;
        Assert.Throws<SavedStateException>(() => other.Vcpu.RestoreRegisters(state));
    }

    [Fact]
    public void Paravirtual_clock_page_is_consistent()
    {
        _guest.EnterLongMode(0);
        Wrmsr(Msr.KvmSystemTimeNew, 0x2000 | 1);
        _guest.Memory.TryRead(0x2000, out uint version);
        Assert.True(version != 0 && version % 2 == 0);
        _guest.Memory.TryRead(0x2018, out uint multiplier);
        _guest.Memory.TryRead(0x201C, out sbyte shift);
        double nanoseconds = Math.ScaleB(multiplier, shift - 32); // per tick
        Assert.Equal(1e9, nanoseconds * _guest.Partition.TimestampFrequency, 1e9 * 1e-8);
        _guest.Memory.TryRead(0x201D, out byte flags);
        Assert.Equal(1, flags);
        Assert.Equal(_guest.Partition.TimeReference.HostTimestamp + _guest.B->TscOffset, _guest.Read64(0x2008));
    }
}
