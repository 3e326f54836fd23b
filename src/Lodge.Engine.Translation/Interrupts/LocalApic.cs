namespace Lodge.Engine.Translation.Interrupts;

/// <summary>Local APIC, xAPIC and x2APIC with TSC deadline (Intel SDM vol. 3, chapter 11).</summary>
internal sealed class LocalApic
{
    // IA32_APIC_BASE (0x1B), 0x6E0 and 0x800-0x8FF; false: #GP.
    internal bool TryReadMsr(uint index, out ulong value) => throw new NotImplementedException();
    internal bool TryWriteMsr(uint index, ulong value) => throw new NotImplementedException();
    // xAPIC page; offset 0-0xFFF.
    internal uint ReadMemory(uint offset) => throw new NotImplementedException();
    internal void WriteMemory(uint offset, uint value) => throw new NotImplementedException();
    // Guest physical address of the xAPIC page while it is enabled in xAPIC mode, else ulong.MaxValue. Read on every device access.
    internal ulong MemoryBase;
    internal uint ApicId => throw new NotImplementedException();
    internal bool Enabled => throw new NotImplementedException();
    // CR8.
    internal byte TaskPriority { get => throw new NotImplementedException(); set => throw new NotImplementedException(); }
    // Run loop: INIT/SIPI/NMI/interrupt taken in the order of the manual.
    internal bool TryTakeInit() => throw new NotImplementedException();
    internal bool TryTakeSipi(out byte vector) => throw new NotImplementedException();
    internal bool TryTakeNmi() => throw new NotImplementedException();
    internal bool HasInterrupt() => throw new NotImplementedException();          // fixed interrupt above PPR, or ExtINT accepted
    internal bool TryTakeInterrupt(out byte vector) => throw new NotImplementedException(); // moves IRR to ISR or acknowledges the 8259
    internal void Reset() => throw new NotImplementedException();
    internal void Save(Lodge.Engine.Processor.ProcessorState state) => throw new NotImplementedException();
    internal void Restore(Lodge.Engine.Processor.ProcessorState state) => throw new NotImplementedException();
}
