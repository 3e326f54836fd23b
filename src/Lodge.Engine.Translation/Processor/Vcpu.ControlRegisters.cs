using Iced.Intel;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Translation.Processor;

// Control registers (Intel SDM vol. 3, 2.5-2.6 and 5.1.2; vol. 2, MOV CRn). Faults precede every change.
internal sealed unsafe partial class Vcpu
{
    private const ulong Cr3NoFlush = 1UL << 63;

    /// <summary>PCID of the current address space, 0 without CR4.PCIDE.</summary>
    private int AddressSpaceId => (B->Cr4 & Cr4Bits.Pcide) != 0 ? (int)(B->Cr3 & 0xFFF) : 0;

    /// <summary>CR4 bits that the model has.</summary>
    private ulong SupportedCr4
    {
        get
        {
            ulong bits = Cr4Bits.Vme | Cr4Bits.Pvi | Cr4Bits.Tsd | Cr4Bits.De | Cr4Bits.Pse | Cr4Bits.Pae | Cr4Bits.Mce | Cr4Bits.Pge | Cr4Bits.Pce | Cr4Bits.Osfxsr | Cr4Bits.Osxmmexcpt;
            bits |= Model.Has(CpuFeature.Umip) ? Cr4Bits.Umip : 0;
            bits |= Model.Has(CpuFeature.FsGsBase) ? Cr4Bits.FsGsBase : 0;
            bits |= Model.Has(CpuFeature.Pcid) ? Cr4Bits.Pcide : 0;
            bits |= Model.Has(CpuFeature.Xsave) ? Cr4Bits.Osxsave : 0;
            bits |= Model.Has(CpuFeature.Smep) ? Cr4Bits.Smep : 0;
            bits |= Model.Has(CpuFeature.Smap) ? Cr4Bits.Smap : 0;
            bits |= Model.Has(CpuFeature.Pku) ? Cr4Bits.Pke : 0;
            return bits;
        }
    }

    private void RequireCpl0()
    {
        if (B->Cpl != 0)
        {
            GuestFault.GeneralProtection();
        }
    }

    private void ExecuteMoveControl(in Instruction instruction)
    {
        bool load = instruction.Op0Register.IsCR();
        Register control = load ? instruction.Op0Register : instruction.Op1Register;
        int number = control - Register.CR0;
        if (number is not (0 or 2 or 3 or 4 or 8))
        {
            GuestFault.InvalidOpcode();
        }
        RequireCpl0();
        if (!load)
        {
            WriteRegister(instruction.Op0Register, number switch
            {
                0 => B->Cr0,
                2 => B->Cr2,
                3 => B->Cr3,
                4 => B->Cr4,
                _ => (ulong)Apic.TaskPriority & 15,
            });
            return;
        }
        ulong value = ReadRegister(instruction.Op1Register);
        switch (number)
        {
            case 0:
                SetCr0(value);
                break;
            case 2:
                B->Cr2 = value;
                break;
            case 3:
                SetCr3(value);
                break;
            case 4:
                SetCr4(value);
                break;
            default:
                if (value > 15)
                {
                    GuestFault.GeneralProtection();
                }
                Apic.TaskPriority = (byte)value;
                break;
        }
    }

    /// <summary>Loads CR0 with all checks and consequences.</summary>
    /// <exception cref="GuestFault">#GP(0).</exception>
    internal void SetCr0(ulong value)
    {
        if (value >> 32 != 0)
        {
            GuestFault.GeneralProtection();
        }
        value = (value & Cr0Bits.All) | Cr0Bits.Et;
        ulong old = B->Cr0, changed = old ^ value, efer = B->Efer;
        bool paging = (value & Cr0Bits.Pg) != 0;
        if ((paging && (value & Cr0Bits.Pe) == 0) || (value & (Cr0Bits.Nw | Cr0Bits.Cd)) == Cr0Bits.Nw)
        {
            GuestFault.GeneralProtection();
        }
        if ((changed & Cr0Bits.Pg) != 0)
        {
            if (!paging)
            {
                if (Code64 || (B->Cr4 & Cr4Bits.Pcide) != 0)
                {
                    GuestFault.GeneralProtection();
                }
                efer &= ~EferBits.Lma;
            }
            else if ((efer & EferBits.Lme) != 0)
            {
                if ((B->Cr4 & Cr4Bits.Pae) == 0 || Segment(Seg.Cs)->Long)
                {
                    GuestFault.GeneralProtection();
                }
                efer |= EferBits.Lma;
            }
        }
        if ((changed & (Cr0Bits.Pg | Cr0Bits.Cd | Cr0Bits.Nw)) != 0 && UsesPdptes(value, B->Cr4, efer) && !TryLoadPdptes(B->Cr3))
        {
            GuestFault.GeneralProtection();
        }
        B->Cr0 = value;
        B->Efer = efer;
        if ((changed & (Cr0Bits.Pg | Cr0Bits.Pe | Cr0Bits.Wp)) != 0)
        {
            TlbFlushAll(true);
        }
        UpdateMode();
    }

    /// <summary>Loads CR3: checks, PDPTEs, translations of the address space.</summary>
    /// <exception cref="GuestFault">#GP(0).</exception>
    internal void SetCr3(ulong value)
    {
        bool identified = (B->Cr4 & Cr4Bits.Pcide) != 0;
        bool keep = identified && (value & Cr3NoFlush) != 0;
        if (identified)
        {
            value &= ~Cr3NoFlush;
        }
        if (LongModeActive ? value >> Model.PhysicalBits != 0 : (UsesPdptes(B->Cr0, B->Cr4, B->Efer) && !TryLoadPdptes(value)))
        {
            GuestFault.GeneralProtection();
        }
        B->Cr3 = value;
        TlbSwitch(AddressSpaceId, keep);
    }

    /// <summary>Loads CR4 with all checks and consequences.</summary>
    /// <exception cref="GuestFault">#GP(0).</exception>
    internal void SetCr4(ulong value)
    {
        ulong old = B->Cr4, changed = old ^ value;
        if ((value & ~SupportedCr4) != 0
            || (LongModeActive && (value & Cr4Bits.Pae) == 0)
            || ((changed & value & Cr4Bits.Pcide) != 0 && (!LongModeActive || (B->Cr3 & 0xFFF) != 0)))
        {
            GuestFault.GeneralProtection();
        }
        const ulong ReloadsPdptes = Cr4Bits.Pae | Cr4Bits.Pge | Cr4Bits.Pse | Cr4Bits.Smep;
        if ((changed & ReloadsPdptes) != 0 && UsesPdptes(B->Cr0, value, B->Efer) && !TryLoadPdptes(B->Cr3))
        {
            GuestFault.GeneralProtection();
        }
        B->Cr4 = value;
        if ((changed & Cr4Bits.Tsd) != 0)
        {
            ClearJumpCache(); // blocks of CPL 3 differ
        }
        const ulong Translation = Cr4Bits.Pse | Cr4Bits.Pae | Cr4Bits.Pge | Cr4Bits.Pcide | Cr4Bits.Smep | Cr4Bits.Smap | Cr4Bits.Pke;
        if ((changed & Translation) != 0)
        {
            TlbFlushAll(true);
        }
        UpdateMode();
    }

    private void ExecuteClts()
    {
        RequireCpl0();
        B->Cr0 &= ~Cr0Bits.Ts;
        UpdateMode();
    }

    private void ExecuteLmsw(in Instruction instruction)
    {
        RequireCpl0();
        ulong value = ReadOperand(instruction, 0);
        const ulong Loaded = Cr0Bits.Pe | Cr0Bits.Mp | Cr0Bits.Em | Cr0Bits.Ts;
        SetCr0((B->Cr0 & ~(Loaded & ~Cr0Bits.Pe)) | (value & Loaded)); // PE can be set, not cleared
    }

    private void ExecuteSmsw(in Instruction instruction)
    {
        RefuseUnderUmip();
        WriteOperand(instruction, 0, B->Cr0);
    }

    /// <summary>SGDT, SIDT, SLDT, STR and SMSW: #GP(0) above CPL 0 under CR4.UMIP.</summary>
    internal void RefuseUnderUmip()
    {
        if (B->Cpl != 0 && (B->Cr4 & Cr4Bits.Umip) != 0)
        {
            GuestFault.GeneralProtection();
        }
    }

    private void ExecuteXgetbv()
    {
        if ((B->Cr4 & Cr4Bits.Osxsave) == 0)
        {
            GuestFault.InvalidOpcode();
        }
        ulong value = (uint)B->Gpr[1] switch
        {
            0 => B->Xcr0,
            1 when Model.Has(CpuFeature.Xgetbv1) => B->Xcr0 & ComponentsInUse(),
            _ => ulong.MaxValue,
        };
        if (value == ulong.MaxValue)
        {
            GuestFault.GeneralProtection();
        }
        SetEdxEax(value);
    }

    private void ExecuteXsetbv()
    {
        if ((B->Cr4 & Cr4Bits.Osxsave) == 0)
        {
            GuestFault.InvalidOpcode();
        }
        RequireCpl0();
        ulong value = EdxEax;
        if ((uint)B->Gpr[1] != 0 || !IsValidXcr0(value))
        {
            GuestFault.GeneralProtection();
        }
        B->Xcr0 = value;
        UpdateMode();
    }

    private bool IsValidXcr0(ulong value) =>
        (value & ~Model.SupportedXcr0) == 0 && (value & CpuModel.ComponentX87) != 0 && (value & (CpuModel.ComponentSse | CpuModel.ComponentAvx)) != CpuModel.ComponentAvx;

    private ulong EdxEax => ((ulong)(uint)B->Gpr[2] << 32) | (uint)B->Gpr[0];

    private void SetEdxEax(ulong value)
    {
        B->Gpr[0] = (uint)value;
        B->Gpr[2] = value >> 32;
    }

    private void ExecuteInvlpg(in Instruction instruction)
    {
        RequireCpl0();
        ulong linear = UncheckedAddress(instruction);
        if (!LongModeActive || IsCanonical(linear))
        {
            TlbFlushPage(AddressSpaceId, linear);
        }
    }

    // Segment base and offset without limit or canonical checks (INVLPG).
    private ulong UncheckedAddress(in Instruction instruction)
    {
        int segment = SegmentNumber(instruction);
        ulong offset = EffectiveOffset(instruction);
        return Code64 ? (segment >= Seg.Fs ? Segment(segment)->Base : 0) + offset : (uint)(Segment(segment)->Base + offset);
    }

    private void ExecuteInvpcid(in Instruction instruction)
    {
        RequireCpl0();
        ulong type = ReadRegister(instruction.Op0Register);
        ulong address = OperandAddress(instruction, 16, AccessKind.Read);
        ulong pcid = ReadLinear(address, 8, false);
        ulong linear = ReadLinear(LinearAt(address, 8), 8, false);
        bool identified = (B->Cr4 & Cr4Bits.Pcide) != 0;
        if (type > 3 || pcid > 0xFFF || (type <= 1 && !identified && pcid != 0) || (type == 0 && !IsCanonical(linear)))
        {
            GuestFault.GeneralProtection();
        }
        switch (type)
        {
            case 0:
                TlbFlushPage((int)pcid, linear);
                break;
            case 1:
                TlbFlushPcid((int)pcid);
                break;
            default:
                TlbFlushAll(includeGlobal: type == 2);
                break;
        }
    }
}
