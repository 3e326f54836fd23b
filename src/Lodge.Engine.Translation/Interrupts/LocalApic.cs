#pragma warning disable
namespace Lodge.Engine.Translation.Interrupts;

/// <summary>Local APIC, xAPIC and x2APIC with TSC deadline (Intel SDM vol. 3, chapter 11).</summary>
internal sealed class LocalApic(Processor.Vcpu v, TranslationPartition p, Time.TimerService t)
{
    // IA32_APIC_BASE (0x1B), 0x6E0 and 0x800-0x8FF; false: #GP.
    internal bool TryReadMsr(uint index, out ulong value) { value = 0; return true; }
    internal bool TryWriteMsr(uint index, ulong value) => default!;
    // xAPIC page; offset 0-0xFFF.
    internal uint ReadMemory(uint offset) => default!;
    internal void WriteMemory(uint offset, uint value) {}
    // Guest physical address of the xAPIC page while it is enabled in xAPIC mode, else ulong.MaxValue. Read on every device access.
    internal ulong MemoryBase;
    internal uint ApicId => default!;
    internal bool Enabled => default!;
    // CR8.
    internal byte TaskPriority { get => default!; set => throw new NotImplementedException(); }
    // Run loop: INIT/SIPI/NMI/interrupt taken in the order of the manual.
    internal bool TryTakeInit() => default!;
    internal bool TryTakeSipi(out byte vector) { vector = 0; return false; }
    internal bool TryTakeNmi() => default!;
    internal bool HasInterrupt() => default!;          // fixed interrupt above PPR, or ExtINT accepted
    internal bool TryTakeInterrupt(out byte vector) { vector = 0; return false; } // moves IRR to ISR or acknowledges the 8259
    internal void Reset() {}
    internal void Save(Lodge.Engine.Processor.ProcessorState state) {}
    internal void Restore(Lodge.Engine.Processor.ProcessorState state) {}
}
