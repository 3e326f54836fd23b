namespace Lodge.Engine.Translation.Processor;

/// <summary>What an access does.</summary>
internal enum AccessKind
{
    /// <summary>Load.</summary>
    Read = 0,

    /// <summary>Store, or load of a read-modify-write.</summary>
    Write = 1,

    /// <summary>Instruction fetch.</summary>
    Execute = 2,
}

/// <summary>In whose name memory is accessed (Intel SDM vol. 3, 5.6).</summary>
internal enum AccessRights
{
    /// <summary>User-mode access: CPL 3.</summary>
    User,

    /// <summary>Explicit supervisor-mode access: CPL below 3; EFLAGS.AC suspends SMAP.</summary>
    Supervisor,

    /// <summary>Access to a system structure (descriptor tables, TSS): supervisor-mode at any CPL; SMAP always holds.</summary>
    ImplicitSupervisor,
}

/// <summary>Outcome of a page walk.</summary>
internal unsafe struct PageTranslation
{
    /// <summary>Guest physical address of the byte asked for.</summary>
    public ulong Physical;

    /// <summary>Host address of the byte when it is RAM, else null.</summary>
    public byte* Host;

    /// <summary>Stores may go to this page without another walk (permission and dirty bit are there).</summary>
    public bool Writable;

    /// <summary>User-mode access is permitted.</summary>
    public bool User;

    /// <summary>Global page (CR4.PGE).</summary>
    public bool Global;

    /// <summary>Instruction fetch is permitted.</summary>
    public bool Executable;

    /// <summary>log2 of the page size: 12, 21, 22 or 30.</summary>
    public int PageShift;
}
