using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using Iced.Intel;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Translation.Processor;

// x87, SSE, AVX and PKRU state in memory (Intel SDM vol. 1, 10.5 FXSAVE and chapter 13 XSAVE).
internal sealed unsafe partial class Vcpu
{
    // Places in the legacy region and the XSAVE header (10.5.1, 13.4).
    private const int MxcsrOffset = 24, StOffset = 32, XmmOffset = 160, HeaderOffset = 512, CompactionOffset = 520, AvxOffset = 576;
    private const int StSize = 128, XmmSize = 256, AvxSize = 256, LegacySize = 512, MaximumAreaSize = 4096;
    private const uint MxcsrMask = 0xFFFF, MxcsrReset = 0x1F80;
    private const ushort ControlWordReset = 0x37F;
    private const ulong Compacted = 1UL << 63;

    private enum SaveForm
    {
        Plain,     // XSAVE: everything asked for
        Optimized, // XSAVEOPT: what is not in its initial state
        Compacted, // XSAVEC
    }

    [SkipLocalsInit]
    private void ExecuteFxsave(in Instruction instruction, bool wide)
    {
        ulong linear = AreaAddress(instruction, LegacySize, 16, AccessKind.Write);
        byte* bounce = stackalloc byte[LegacySize];
        byte* area = OpenArea(linear, LegacySize, AccessKind.Write, bounce, out ulong physical);
        SaveX87Component(area, wide);
        Unsafe.WriteUnaligned(area + MxcsrOffset, B->Mxcsr);
        Unsafe.WriteUnaligned(area + MxcsrOffset + 4, MxcsrMask);
        SaveXmm(area);
        CloseArea(linear, area, bounce, LegacySize, physical);
    }

    [SkipLocalsInit]
    private void ExecuteFxrstor(in Instruction instruction, bool wide)
    {
        ulong linear = AreaAddress(instruction, LegacySize, 16, AccessKind.Read);
        byte* bounce = stackalloc byte[LegacySize];
        byte* area = OpenArea(linear, LegacySize, AccessKind.Read, bounce, out _);
        uint mxcsr = Unsafe.ReadUnaligned<uint>(area + MxcsrOffset);
        CheckMxcsr(mxcsr);
        LoadX87Component(area, wide);
        B->Mxcsr = mxcsr;
        LoadXmm(area);
    }

    [SkipLocalsInit]
    private void ExecuteXsave(in Instruction instruction, SaveForm form, bool wide)
    {
        ulong asked = B->Xcr0 & EdxEax;
        int size = form == SaveForm.Compacted ? CpuModel.CompactedAreaSize(asked) : Model.StandardAreaSize(asked);
        ulong linear = AreaAddress(instruction, size, 64, AccessKind.Write);
        byte* bounce = stackalloc byte[MaximumAreaSize];
        byte* area = OpenArea(linear, size, AccessKind.Write, bounce, out ulong physical);
        ulong inUse = ComponentsInUse();
        if (form == SaveForm.Compacted && B->Mxcsr != MxcsrReset)
        {
            inUse |= CpuModel.ComponentSse;
        }
        ulong saved = form == SaveForm.Plain ? asked : asked & inUse;
        if ((saved & CpuModel.ComponentX87) != 0)
        {
            SaveX87Component(area, wide);
        }
        bool mxcsr = form == SaveForm.Compacted ? (saved & CpuModel.ComponentSse) != 0 : (asked & (CpuModel.ComponentSse | CpuModel.ComponentAvx)) != 0;
        if (mxcsr)
        {
            Unsafe.WriteUnaligned(area + MxcsrOffset, B->Mxcsr);
            Unsafe.WriteUnaligned(area + MxcsrOffset + 4, MxcsrMask);
        }
        if ((saved & CpuModel.ComponentSse) != 0)
        {
            SaveXmm(area);
        }
        if ((saved & CpuModel.ComponentAvx) != 0)
        {
            int registers = Code64 ? 16 : 8;
            for (int i = 0; i < registers; i++)
            {
                Unsafe.CopyBlockUnaligned(area + AvxOffset + (i * 16), B->Ymm + (i * 32) + 16, 16);
            }
        }
        if ((saved & CpuModel.ComponentPkru) != 0)
        {
            Unsafe.WriteUnaligned(area + PkruPlace(form == SaveForm.Compacted, asked), (ulong)B->Pkru);
        }
        ulong old = Unsafe.ReadUnaligned<ulong>(area + HeaderOffset);
        if (form == SaveForm.Compacted)
        {
            Unsafe.WriteUnaligned(area + HeaderOffset, asked & inUse);
            Unsafe.WriteUnaligned(area + CompactionOffset, asked | Compacted);
        }
        else
        {
            Unsafe.WriteUnaligned(area + HeaderOffset, (old & ~asked) | (asked & inUse));
        }
        CloseArea(linear, area, bounce, size, physical);
    }

    [SkipLocalsInit]
    private void ExecuteXrstor(in Instruction instruction, bool wide)
    {
        ulong asked = B->Xcr0 & EdxEax;
        ulong linear = AreaAddress(instruction, AvxOffset, 64, AccessKind.Read);
        byte* bounce = stackalloc byte[MaximumAreaSize];
        byte* area = OpenArea(linear, AvxOffset, AccessKind.Read, bounce, out _);
        ulong present = Unsafe.ReadUnaligned<ulong>(area + HeaderOffset), format = Unsafe.ReadUnaligned<ulong>(area + CompactionOffset);
        bool compacted = (format & Compacted) != 0;
        ulong reserved = Unsafe.ReadUnaligned<ulong>(area + CompactionOffset + 8);
        if (compacted)
        {
            for (int i = 2; i < 7; i++)
            {
                reserved |= Unsafe.ReadUnaligned<ulong>(area + CompactionOffset + (i * 8));
            }
        }
        bool valid = reserved == 0 && (compacted
            ? Model.Has(CpuFeature.XsaveC) && (format & ~Compacted & ~B->Xcr0) == 0 && (present & ~format) == 0
            : format == 0 && (present & ~B->Xcr0) == 0);
        if (!valid || (present & Compacted) != 0)
        {
            GuestFault.GeneralProtection();
        }
        ulong loaded = asked & present;
        int size = compacted ? CpuModel.CompactedAreaSize(format & ((loaded & CpuModel.ComponentPkru) != 0 ? ~0UL : ~CpuModel.ComponentPkru)) : Model.StandardAreaSize(loaded);
        if (size > AvxOffset)
        {
            _ = AreaAddress(instruction, size, 64, AccessKind.Read);
            area = OpenArea(linear, size, AccessKind.Read, bounce, out _);
        }
        bool loadMxcsr = compacted ? (loaded & CpuModel.ComponentSse) != 0 : (asked & (CpuModel.ComponentSse | CpuModel.ComponentAvx)) != 0;
        uint mxcsr = Unsafe.ReadUnaligned<uint>(area + MxcsrOffset);
        if (loadMxcsr)
        {
            CheckMxcsr(mxcsr);
            B->Mxcsr = mxcsr;
        }
        else if (compacted && (asked & CpuModel.ComponentSse) != 0)
        {
            B->Mxcsr = MxcsrReset;
        }
        RestoreComponents(area, asked, loaded, PkruPlace(compacted, format), wide);
    }

    private void RestoreComponents(byte* area, ulong asked, ulong loaded, int pkruPlace, bool wide)
    {
        if ((loaded & CpuModel.ComponentX87) != 0)
        {
            LoadX87Component(area, wide);
        }
        else if ((asked & CpuModel.ComponentX87) != 0)
        {
            ResetX87();
        }
        int registers = Code64 ? 16 : 8;
        if ((loaded & CpuModel.ComponentSse) != 0)
        {
            LoadXmm(area);
        }
        else if ((asked & CpuModel.ComponentSse) != 0)
        {
            for (int i = 0; i < registers; i++)
            {
                Unsafe.InitBlockUnaligned(B->Ymm + (i * 32), 0, 16);
            }
        }
        if ((asked & CpuModel.ComponentAvx) != 0)
        {
            bool load = (loaded & CpuModel.ComponentAvx) != 0;
            for (int i = 0; i < registers; i++)
            {
                if (load)
                {
                    Unsafe.CopyBlockUnaligned(B->Ymm + (i * 32) + 16, area + AvxOffset + (i * 16), 16);
                }
                else
                {
                    Unsafe.InitBlockUnaligned(B->Ymm + (i * 32) + 16, 0, 16);
                }
            }
        }
        if ((asked & CpuModel.ComponentPkru) != 0)
        {
            SetPkru((loaded & CpuModel.ComponentPkru) != 0 ? Unsafe.ReadUnaligned<uint>(area + pkruPlace) : 0);
        }
    }

    private int PkruPlace(bool compacted, ulong format) =>
        compacted ? AvxOffset + ((format & CpuModel.ComponentAvx) != 0 ? AvxSize : 0) : Model.PkruOffset;

    /// <summary>XINUSE: components that are not in their initial state (13.6).</summary>
    private ulong ComponentsInUse()
    {
        SaveX87();
        byte* x = B->ExtendedState;
        ulong inUse = 0;
        if (*(ushort*)x != ControlWordReset || *(ushort*)(x + 2) != 0 || x[4] != 0 || !IsZero(x + 6, 18) || !IsZero(x + StOffset, StSize))
        {
            inUse |= CpuModel.ComponentX87;
        }
        ulong low = 0, high = 0;
        ulong* ymm = (ulong*)B->Ymm;
        for (int i = 0; i < 64; i += 4)
        {
            low |= ymm[i] | ymm[i + 1];
            high |= ymm[i + 2] | ymm[i + 3];
        }
        inUse |= low != 0 ? CpuModel.ComponentSse : 0;
        inUse |= high != 0 ? CpuModel.ComponentAvx : 0;
        return inUse | (B->Pkru != 0 ? CpuModel.ComponentPkru : 0);
    }

    private static bool IsZero(byte* start, int length) => !new ReadOnlySpan<byte>(start, length).ContainsAnyExcept((byte)0);

    // Bytes 0-23 and the ST registers. Without REX.W the pointers are 32-bit offsets with selectors, which are deprecated and read as zero.
    private void SaveX87Component(byte* area, bool wide)
    {
        SaveX87();
        byte* x = B->ExtendedState;
        Unsafe.CopyBlockUnaligned(area, x, MxcsrOffset);
        if (!wide)
        {
            Unsafe.WriteUnaligned(area + 12, 0u);
            Unsafe.WriteUnaligned(area + 20, 0u);
        }
        Unsafe.CopyBlockUnaligned(area + StOffset, x + StOffset, StSize);
    }

    private void LoadX87Component(byte* area, bool wide)
    {
        SaveX87();
        byte* x = B->ExtendedState;
        Unsafe.CopyBlockUnaligned(x, area, MxcsrOffset);
        *(ushort*)x = (ushort)((*(ushort*)x & 0x1F3F) | 0x40);
        x[5] = 0;
        *(ushort*)(x + 6) &= 0x7FF;
        if (!wide)
        {
            *(uint*)(x + 12) = 0;
            *(uint*)(x + 20) = 0;
        }
        Unsafe.CopyBlockUnaligned(x + StOffset, area + StOffset, StSize);
        for (int i = 0; i < 8; i++)
        {
            Unsafe.InitBlockUnaligned(x + StOffset + (i * 16) + 10, 0, 6);
        }
    }

    private void ResetX87()
    {
        SaveX87();
        Unsafe.InitBlockUnaligned(B->ExtendedState, 0, LegacySize);
        *(ushort*)B->ExtendedState = ControlWordReset;
        *(uint*)(B->ExtendedState + MxcsrOffset) = MxcsrReset;
    }

    private void SaveXmm(byte* area)
    {
        int registers = Code64 ? 16 : 8;
        for (int i = 0; i < registers; i++)
        {
            Unsafe.CopyBlockUnaligned(area + XmmOffset + (i * 16), B->Ymm + (i * 32), 16);
        }
    }

    private void LoadXmm(byte* area)
    {
        int registers = Code64 ? 16 : 8;
        for (int i = 0; i < registers; i++)
        {
            Unsafe.CopyBlockUnaligned(B->Ymm + (i * 32), area + XmmOffset + (i * 16), 16);
        }
    }

    private static void CheckMxcsr(uint value)
    {
        if ((value & ~MxcsrMask) != 0)
        {
            GuestFault.GeneralProtection();
        }
    }

    private void ExecuteLdmxcsr(in Instruction instruction)
    {
        uint value = (uint)ReadOperand(instruction, 0);
        CheckMxcsr(value);
        B->Mxcsr = value;
    }

    private void SetPkru(uint value)
    {
        if (value != B->Pkru)
        {
            B->Pkru = value;
            if ((B->Cr4 & Cr4Bits.Pke) != 0)
            {
                TlbFlushAll(true);
            }
        }
    }

    private ulong AreaAddress(in Instruction instruction, int size, uint alignment, AccessKind access)
    {
        ulong linear = OperandAddress(instruction, size, access);
        if ((linear & (alignment - 1)) != 0)
        {
            GuestFault.GeneralProtection();
        }
        return linear;
    }

    // The area itself where it lies in one page of RAM, else a copy in the bounce buffer that CloseArea writes back.
    private byte* OpenArea(ulong linear, int size, AccessKind access, byte* bounce, out ulong physical)
    {
        bool user = B->Cpl == 3;
        NoteDataAccess(linear, size, access == AccessKind.Write);
        if ((int)(linear & PageMask) + size <= PageMask + 1)
        {
            PageTranslation page = Translate(linear, access, user);
            physical = page.Physical;
            if (page.Host != null)
            {
                return page.Host;
            }
        }
        physical = 0;
        if (access == AccessKind.Write)
        {
            ProbeWrite(linear, size, user);
        }
        ReadPages(linear, new Span<byte>(bounce, size), user);
        return bounce;
    }

    private void CloseArea(ulong linear, byte* area, byte* bounce, int size, ulong physical)
    {
        if (area == bounce)
        {
            WritePages(linear, new ReadOnlySpan<byte>(bounce, size), B->Cpl == 3);
        }
        else
        {
            Memory.Written(physical, (ulong)size);
        }
    }

    /// <summary>The extended state in the standard XSAVE format, 832 bytes: x87, SSE and AVX, all marked present.</summary>
    internal byte[] GetExtendedState()
    {
        SaveX87();
        byte[] result = new byte[832];
        fixed (byte* area = result)
        {
            SaveX87Component(area, true);
            Unsafe.WriteUnaligned(area + MxcsrOffset, B->Mxcsr);
            Unsafe.WriteUnaligned(area + MxcsrOffset + 4, MxcsrMask);
            for (int i = 0; i < 16; i++)
            {
                Unsafe.CopyBlockUnaligned(area + XmmOffset + (i * 16), B->Ymm + (i * 32), 16);
                Unsafe.CopyBlockUnaligned(area + AvxOffset + (i * 16), B->Ymm + (i * 32) + 16, 16);
            }
        }
        BinaryPrimitives.WriteUInt64LittleEndian(result.AsSpan(HeaderOffset), CpuModel.ComponentX87 | CpuModel.ComponentSse | CpuModel.ComponentAvx);
        return result;
    }

    /// <summary>Replaces the extended state. Components that the header does not mark present are in their initial state.</summary>
    /// <exception cref="State.SavedStateException">The area has another size or reserved bits of MXCSR.</exception>
    internal void SetExtendedState(ReadOnlySpan<byte> state)
    {
        if (state.Length < 832)
        {
            throw new State.SavedStateException($"extended state has {state.Length} bytes, expected at least 832");
        }
        ulong beyond = BinaryPrimitives.ReadUInt64LittleEndian(state[HeaderOffset..]) & ~(CpuModel.ComponentX87 | CpuModel.ComponentSse | CpuModel.ComponentAvx | CpuModel.ComponentPkru);
        if (beyond != 0)
        {
            string feature = (beyond & CpuModel.ComponentsAvx512) != 0 ? "AVX-512" : (beyond & CpuModel.ComponentsAmx) != 0 ? "AMX" : $"components 0x{beyond:X}";
            throw new State.SavedStateException($"the guest uses {feature} state, which the software engine lacks");
        }
        uint mxcsr = BinaryPrimitives.ReadUInt32LittleEndian(state[MxcsrOffset..]);
        if ((mxcsr & ~MxcsrMask) != 0)
        {
            throw new State.SavedStateException($"MXCSR 0x{mxcsr:X} has reserved bits set");
        }
        ulong present = BinaryPrimitives.ReadUInt64LittleEndian(state[HeaderOffset..]);
        ResetX87();
        Unsafe.InitBlockUnaligned(B->Ymm, 0, 512);
        B->Mxcsr = mxcsr;
        fixed (byte* area = state)
        {
            if ((present & CpuModel.ComponentX87) != 0)
            {
                LoadX87Component(area, true);
            }
            for (int i = 0; i < 16; i++)
            {
                if ((present & CpuModel.ComponentSse) != 0)
                {
                    Unsafe.CopyBlockUnaligned(B->Ymm + (i * 32), area + XmmOffset + (i * 16), 16);
                }
                if ((present & CpuModel.ComponentAvx) != 0)
                {
                    Unsafe.CopyBlockUnaligned(B->Ymm + (i * 32) + 16, area + AvxOffset + (i * 16), 16);
                }
            }
        }
    }
}
