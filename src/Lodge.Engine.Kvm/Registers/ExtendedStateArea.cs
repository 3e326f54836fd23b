using System.Buffers.Binary;
using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;
using Lodge.Engine.State;

namespace Lodge.Engine.Kvm.Registers;

/// <summary>x87, vector and protection key registers: XCR0 and the standard-format XSAVE area (api.rst, 4.42 to 4.45 and 4.134; Intel SDM vol. 1, 13.4).</summary>
internal static class ExtendedStateArea
{
    private const int SoftwareBytes = 464, Header = 512, CompactionMask = 520, HeaderEnd = 576, AvxEnd = 832, LegacyEnd = 512;
    private const int MxcsrOffset = 24;
    private const int ProtectionKeys = 9;
    private const uint MxcsrReserved = 0xFFFF_0000;

    /// <summary>Puts a state's into a processor.</summary>
    /// <param name="handle">The processor.</param>
    /// <param name="state">The state.</param>
    /// <param name="model">The model, whose layout the area has.</param>
    /// <param name="length">Bytes that the kernel expects.</param>
    /// <exception cref="SavedStateException">Components that the model lacks are in use.</exception>
    public static void Load(KvmProcessorHandle handle, ProcessorState state, CpuModel model, int length)
    {
        ulong beyond = state.Xcr0 & ~model.SupportedXcr0;
        if (beyond != 0)
        {
            throw new SavedStateException($"the guest has enabled {Names(beyond)} state, which its processor lacks here");
        }
        byte[] saved = state.ExtendedState, area = new byte[length];
        if (saved.Length < AvxEnd)
        {
            throw new SavedStateException($"extended state has {saved.Length} bytes, expected at least {AvxEnd}");
        }
        if ((BinaryPrimitives.ReadUInt32LittleEndian(saved.AsSpan(MxcsrOffset)) & MxcsrReserved) != 0)
        {
            throw new SavedStateException("MXCSR has reserved bits set");
        }
        ulong present = BinaryPrimitives.ReadUInt64LittleEndian(saved.AsSpan(Header)) & ~(1UL << ProtectionKeys);
        saved.AsSpan(0, SoftwareBytes).CopyTo(area);
        foreach (int component in XsaveLayout.Components.Where(c => c != ProtectionKeys && (present >> c & 1) != 0))
        {
            int from = component == 2 ? HeaderEnd : model.Layout.Offset(component), size = XsaveLayout.Size(component);
            bool fits = from >= HeaderEnd && from + size <= saved.Length;
            if ((model.SupportedXcr0 >> component & 1) == 0)
            {
                // The software engine marks AVX present whether the model has it or not.
                if (!fits || saved.AsSpan(from, size).ContainsAnyExcept((byte)0))
                {
                    throw new SavedStateException($"the guest uses {Names(1UL << component)} state, which its processor lacks here");
                }
                present &= ~(1UL << component);
            }
            else if (!fits || from + size > length)
            {
                throw new SavedStateException($"extended state of {saved.Length} bytes is too short for {Names(1UL << component)}");
            }
            else
            {
                saved.AsSpan(from, size).CopyTo(area.AsSpan(from));
            }
        }
        if ((present & ~model.SupportedXcr0) != 0)
        {
            throw new SavedStateException($"the guest uses {Names(present & ~model.SupportedXcr0)} state, which its processor lacks here");
        }
        if (state.Pkru != 0)
        {
            if (!model.Has(CpuFeature.Pku))
            {
                throw new SavedStateException($"the guest uses {CpuFeature.Pku}, which its processor lacks here");
            }
            BinaryPrimitives.WriteUInt32LittleEndian(area.AsSpan(model.PkruOffset), state.Pkru);
            present |= 1UL << ProtectionKeys;
        }
        BinaryPrimitives.WriteUInt64LittleEndian(area.AsSpan(Header), present);
        handle.SetXsave(area);
        KvmXcrs control = handle.ExtendedControl;
        if (control.Count == 0 || control.Registers[0].Value != state.Xcr0)
        {
            KvmXcrs wanted = new() { Count = 1 };
            wanted.Registers[0] = new KvmXcr { Value = state.Xcr0 };
            handle.ExtendedControl = wanted;
        }
    }

    /// <summary>Reads a processor's.</summary>
    public static void Store(KvmProcessorHandle handle, ProcessorState state, CpuModel model, int length)
    {
        byte[] area = new byte[length];
        handle.GetXsave(area);
        area.AsSpan(SoftwareBytes, LegacyEnd - SoftwareBytes).Clear(); // the kernel's own notes
        area.AsSpan(CompactionMask, HeaderEnd - CompactionMask).Clear();
        ulong present = BinaryPrimitives.ReadUInt64LittleEndian(area.AsSpan(Header)) & (model.SupportedXcr0 | CpuModel.ComponentX87 | CpuModel.ComponentSse);
        if ((present >> ProtectionKeys & 1) != 0)
        {
            state.Pkru = BinaryPrimitives.ReadUInt32LittleEndian(area.AsSpan(model.PkruOffset));
            present &= ~(1UL << ProtectionKeys);
        }
        BinaryPrimitives.WriteUInt64LittleEndian(area.AsSpan(Header), present);
        byte[] kept = new byte[Math.Clamp(model.StandardAreaSize(present), AvxEnd, length)];
        area.AsSpan(0, HeaderEnd).CopyTo(kept);
        foreach (int component in XsaveLayout.Components.Where(c => (present >> c & 1) != 0))
        {
            int offset = model.Layout.Offset(component), size = XsaveLayout.Size(component);
            area.AsSpan(offset, size).CopyTo(kept.AsSpan(offset));
        }
        state.ExtendedState = kept;
        KvmXcrs control = handle.ExtendedControl;
        state.Xcr0 = control.Count > 0 ? control.Registers[0].Value : 1;
    }

    private static string Names(ulong components) => string.Join(", ", new (ulong Mask, string Name)[]
    {
        (CpuModel.ComponentAvx, "AVX"), (CpuModel.ComponentsAvx512, "AVX-512"), (CpuModel.ComponentPkru, "PKU"), (CpuModel.ComponentsAmx, "AMX"),
        (~(CpuModel.ComponentX87 | CpuModel.ComponentSse | CpuModel.ComponentAvx | CpuModel.ComponentsAvx512 | CpuModel.ComponentPkru | CpuModel.ComponentsAmx), $"unknown (0x{components:X})"),
    }.Where(c => (components & c.Mask) != 0).Select(c => c.Name).DefaultIfEmpty($"0x{components:X}"));
}
