namespace Lodge.Engine.Translation.Processor;

internal sealed unsafe partial class Vcpu
{
    /// <summary>Recomputes the mode key after any change of CS/SS/DS/ES attributes or bases, CPL, CR0, CR4, EFER, XCR0, EFLAGS.VM/AC/TF, DR7.</summary>
    internal void UpdateMode()
    {
    }

    /// <summary>Forgets translations of all address spaces, global ones too when asked.</summary>
    internal void TlbFlushAll(bool includeGlobal)
    {
    }

    /// <summary>Forgets the non-global translations of one PCID.</summary>
    internal void TlbFlushPcid(int pcid)
    {
    }

    /// <summary>Forgets the translation of one page in a PCID (and global ones).</summary>
    internal void TlbFlushPage(int pcid, ulong linear)
    {
    }

    /// <summary>CR3 was loaded: continue with the address space of a PCID (0 without CR4.PCIDE), forgetting its non-global translations unless told to keep them.</summary>
    internal void TlbSwitch(int pcid, bool keep)
    {
    }
}
