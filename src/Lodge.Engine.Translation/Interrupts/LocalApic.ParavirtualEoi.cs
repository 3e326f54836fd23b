namespace Lodge.Engine.Translation.Interrupts;

// KVM's paravirtual end of interrupt (Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_EOI_EN): a bit in guest memory says that the interrupt in service
// needs no write to the EOI register; the guest clears it instead, which is noticed at the next occasion.
internal sealed unsafe partial class LocalApic
{
    private const ulong ParavirtualEoiEnable = 1;
    private ulong _paravirtualEoi;
    private bool _paravirtualEoiPending;

    /// <summary>MSR_KVM_EOI_EN as last written.</summary>
    internal ulong ParavirtualEoi => _paravirtualEoi;

    /// <summary>MSR 0x4b564d04: bit 0 enables, the rest is the physical address of a naturally aligned 32-bit word. False: reserved bit set. vCPU thread.</summary>
    internal bool TrySetPvEoi(ulong value)
    {
        if ((value & 2) != 0)
        {
            return false;
        }
        CompleteParavirtualEoi();
        _paravirtualEoi = value;
        return true;
    }

    private uint* ParavirtualEoiWord =>
        (_paravirtualEoi & ParavirtualEoiEnable) == 0 ? null : (uint*)_vcpu.Memory.Pointer(_paravirtualEoi & ~3UL, 4);

    // Only when no broadcast is due and nothing waits for the end of this interrupt.
    private void OfferParavirtualEoi(byte vector)
    {
        if ((_paravirtualEoi & ParavirtualEoiEnable) == 0 || (Volatile.Read(ref _tmr[vector >> 5]) & (1u << (vector & 31))) != 0 || Highest(_irr) >= 0)
        {
            return;
        }
        uint* word = ParavirtualEoiWord;
        if (word != null)
        {
            Interlocked.Or(ref *word, 1);
            _vcpu.Memory.Written(_paravirtualEoi & ~3UL, 4);
            _paravirtualEoiPending = true;
        }
    }

    // Withdraws the offer. A bit that is already clear is the guest's end of interrupt.
    private void CompleteParavirtualEoi()
    {
        if (!_paravirtualEoiPending)
        {
            return;
        }
        _paravirtualEoiPending = false;
        uint* word = ParavirtualEoiWord;
        if (word != null && (Interlocked.And(ref *word, ~1u) & 1) == 0)
        {
            FinishHighest();
        }
    }
}
