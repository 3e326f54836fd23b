using Lodge.Engine.Translation.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class PagingTests : IDisposable
{
    private const ulong Pml4 = 0x1000, Pdpt = 0x2000, Directory = 0x3000, Table = 0x4000, Page = 0x8000;
    private const ulong P = 1, W = 2, U = 4, A = 32, D = 64, PS = 128, G = 256, NX = 1UL << 63;
    private readonly GuestFixture _guest = new();

    public void Dispose() => _guest.Dispose();

    // Linear 0x5000 maps to Page with the given leaf bits, everything above permissive.
    private void Map(ulong leaf)
    {
        _guest.Write64(Pml4, Pdpt | P | W | U);
        _guest.Write64(Pdpt, Directory | P | W | U);
        _guest.Write64(Directory, Table | P | W | U);
        _guest.Write64(Table + (5 * 8), Page | leaf);
        _guest.EnterLongMode(Pml4, Cr4Bits.Smep | Cr4Bits.Smap | Cr4Bits.Pge);
    }

    private uint Fault(AccessKind access, AccessRights rights, ulong linear = 0x5123)
    {
        Assert.False(_guest.Vcpu.TryWalk(linear, access, rights, out _, out uint error));
        return error;
    }

    private PageTranslation Walk(AccessKind access, AccessRights rights, ulong linear = 0x5123)
    {
        Assert.True(_guest.Vcpu.TryWalk(linear, access, rights, out PageTranslation page, out _));
        return page;
    }

    [Fact]
    public void Load_sets_accessed_bits_on_every_level_and_store_the_dirty_bit()
    {
        Map(P | W | U | G);
        PageTranslation page = Walk(AccessKind.Read, AccessRights.User);
        Assert.Equal(Page + 0x123, page.Physical);
        Assert.True(page.Host == _guest.Memory.Pointer(Page + 0x123, 1));
        Assert.True(page.User && page.Global && page.PageShift == 12);
        Assert.False(page.Writable); // not dirty yet
        Assert.All(new[] { Pml4, Pdpt, Directory }, entry => Assert.Equal(A, _guest.Read64(entry) & (A | D)));
        Assert.Equal(A, _guest.Read64(Table + 40) & (A | D));
        Assert.True(Walk(AccessKind.Write, AccessRights.User).Writable);
        Assert.Equal(A | D, _guest.Read64(Table + 40) & (A | D));
        Assert.True(Walk(AccessKind.Read, AccessRights.User).Writable);
    }

    [Fact]
    public void Faulting_walk_sets_no_bits()
    {
        Map(P);
        Fault(AccessKind.Write, AccessRights.User);
        Assert.Equal(0UL, _guest.Read64(Pml4) & A);
        Assert.Equal(0UL, _guest.Read64(Table + 40) & (A | D));
    }

    [Theory]
    [InlineData(0UL, (int)AccessKind.Read, (int)AccessRights.Supervisor, 0u)]
    [InlineData(0UL, (int)AccessKind.Write, (int)AccessRights.User, 6u)]
    [InlineData(0UL, (int)AccessKind.Execute, (int)AccessRights.User, 0x14u)]
    [InlineData(P | W, (int)AccessKind.Read, (int)AccessRights.User, 5u)]
    [InlineData(P | U, (int)AccessKind.Write, (int)AccessRights.User, 7u)]
    [InlineData(P, (int)AccessKind.Write, (int)AccessRights.Supervisor, 3u)]
    [InlineData(P | W | U | NX, (int)AccessKind.Execute, (int)AccessRights.User, 0x15u)]
    [InlineData(P | W | NX, (int)AccessKind.Execute, (int)AccessRights.Supervisor, 0x11u)]
    [InlineData(P | W | U, (int)AccessKind.Execute, (int)AccessRights.Supervisor, 0x11u)] // SMEP
    [InlineData(P | W | U, (int)AccessKind.Read, (int)AccessRights.Supervisor, 1u)] // SMAP
    [InlineData(P | W | U, (int)AccessKind.Write, (int)AccessRights.ImplicitSupervisor, 3u)]
    public void Error_code_says_why(ulong leaf, int access, int rights, uint expected)
    {
        Map(leaf);
        Assert.Equal(expected, Fault((AccessKind)access, (AccessRights)rights));
    }

    [Fact]
    public void Alignment_check_flag_suspends_smap_for_explicit_accesses_only()
    {
        Map(P | W | U);
        _guest.B->SystemFlags |= FlagBits.AlignmentCheck;
        Walk(AccessKind.Write, AccessRights.Supervisor);
        Assert.Equal(1u, Fault(AccessKind.Read, AccessRights.ImplicitSupervisor));
    }

    [Fact]
    public void Supervisor_writes_read_only_pages_without_wp()
    {
        Map(P);
        _guest.B->Cr0 &= ~Cr0Bits.Wp;
        Assert.True(Walk(AccessKind.Write, AccessRights.Supervisor).Writable);
        Assert.NotEqual(0UL, _guest.Read64(Table + 40) & D);
    }

    [Fact]
    public void Reserved_bits_are_told_from_protection()
    {
        Map(P | W | U);
        int bits = _guest.Vcpu.Model.PhysicalBits;
        if (bits < 52)
        {
            _guest.Write64(Table + 40, Page | P | W | U | (1UL << bits));
            Assert.Equal(0xDu, Fault(AccessKind.Read, AccessRights.User));
        }
        Map(P | W | U | NX);
        _guest.B->Efer &= ~EferBits.Nxe;
        Assert.Equal(9u, Fault(AccessKind.Read, AccessRights.Supervisor));
        Map(P | W | U);
        _guest.Write64(Pml4, Pdpt | P | W | U | PS);
        Assert.Equal(0xFu, Fault(AccessKind.Write, AccessRights.User));
        Map(P | W | U);
        _guest.Write64(Directory, 0x20_0000 | 0x2000 | P | W | U | PS); // bit 13 of a 2 MiB page
        Assert.Equal(0xDu, Fault(AccessKind.Read, AccessRights.User));
    }

    [Fact]
    public void Large_pages()
    {
        Map(0);
        _guest.Write64(Directory, 0x20_0000 | P | W | PS);
        PageTranslation page = Walk(AccessKind.Read, AccessRights.Supervisor, 0x12_3456);
        Assert.Equal((0x32_3456UL, 21), (page.Physical, page.PageShift));
        _guest.Write64(Pdpt, P | W | PS);
        page = Walk(AccessKind.Write, AccessRights.Supervisor, 0x3FF_FFFF);
        Assert.Equal((0x3FF_FFFFUL, 30), (page.Physical, page.PageShift));
        Assert.True(page.Host == null); // beyond RAM
    }

    [Fact]
    public void Protection_keys_restrict_user_pages()
    {
        Map(P | W | U | (3UL << 59));
        _guest.B->Cr4 |= Cr4Bits.Pke;
        _guest.B->Cr4 &= ~Cr4Bits.Smap;
        _guest.B->Pkru = 2u << 6; // key 3: no writes
        Assert.False(Walk(AccessKind.Read, AccessRights.User).Writable);
        Assert.Equal(0x27u, Fault(AccessKind.Write, AccessRights.User));
        Assert.Equal(0x23u, Fault(AccessKind.Write, AccessRights.Supervisor));
        _guest.B->Cr0 &= ~Cr0Bits.Wp;
        Walk(AccessKind.Write, AccessRights.Supervisor);
        _guest.B->Pkru = 1u << 6; // key 3: no access
        Assert.Equal(0x25u, Fault(AccessKind.Read, AccessRights.User));
        Walk(AccessKind.Execute, AccessRights.User);
    }

    [Fact]
    public void Tables_outside_ram_fault_and_never_reach_devices()
    {
        _guest.EnterLongMode(0x8000_0000);
        Assert.False(_guest.Vcpu.TryWalk(0, AccessKind.Write, AccessRights.Supervisor, out _, out _));
        Assert.Empty(_guest.MemoryReads);
    }

    [Fact]
    public void Pae_uses_the_pdptes_loaded_with_cr3()
    {
        _guest.EnterProtectedMode();
        _guest.B->Cr4 = Cr4Bits.Pae;
        _guest.Write64(Pdpt + 8, Directory | P);
        _guest.Write64(Directory, Table | P | W | U);
        _guest.Write64(Table, Page | P | W | U);
        _guest.Vcpu.SetCr3(Pdpt);
        _guest.Vcpu.SetCr0(Cr0Bits.Pe | Cr0Bits.Pg);
        Assert.Equal(Page + 8, Walk(AccessKind.Write, AccessRights.User, 0x4000_0008).Physical);
        _guest.Write64(Pdpt + 8, 0);
        Assert.Equal(Page + 8, Walk(AccessKind.Read, AccessRights.User, 0x4000_0008).Physical);
        _guest.Write64(Pdpt, Directory | P | W); // R/W is reserved here
        Assert.Throws<GuestFault>(() => _guest.Vcpu.SetCr3(Pdpt));
    }

    [Fact]
    public void Two_level_paging_with_4_mib_pages()
    {
        _guest.EnterProtectedMode();
        _guest.Memory.TryWrite(Directory, (uint)(Table | P | W | U));
        _guest.Memory.TryWrite(Table + 4, (uint)(Page | P | W));
        _guest.Memory.TryWrite(Directory + 4, (uint)(P | W | U | PS | (1 << 13)));
        _guest.B->Cr3 = Directory;
        _guest.B->Cr4 = Cr4Bits.Pse;
        _guest.B->Cr0 |= Cr0Bits.Pg | Cr0Bits.Wp;
        Assert.Equal(Page + 4, Walk(AccessKind.Write, AccessRights.Supervisor, 0x1004).Physical);
        Assert.Equal(Page | P | W | A | D, _guest.Read64(Table + 4) & 0xFFFF_FFFF);
        Assert.Equal(5u, Fault(AccessKind.Read, AccessRights.User, 0x1004));
        Assert.Equal(0x1_0000_0000UL + 0x123, Walk(AccessKind.Read, AccessRights.User, 0x40_0123).Physical); // PSE-36
        _guest.Memory.TryWrite(Directory + 4, (uint)(P | PS | (1 << 21)));
        Assert.Equal(9u, Fault(AccessKind.Read, AccessRights.Supervisor, 0x40_0000));
    }

    [Fact]
    public void Debugger_translation_leaves_the_tables_alone()
    {
        Map(P | W | U);
        Assert.True(_guest.Vcpu.TryTranslateQuietly(0x5001, out ulong physical));
        Assert.Equal(Page + 1, physical);
        Assert.Equal(0UL, _guest.Read64(Table + 40) & A);
        Assert.False(_guest.Vcpu.TryTranslateQuietly(0x6000, out _));
        Assert.False(_guest.Vcpu.TryTranslateQuietly(0x8000_0000_0000, out _));
    }

    [Fact]
    public void Stores_over_a_page_boundary_fault_before_storing()
    {
        Map(P | W);
        GuestFault fault = Assert.Throws<GuestFault>(() => _guest.Vcpu.WriteLinear(0x5FFC, ulong.MaxValue, 8, false));
        Assert.Equal((Vector.PageFault, 2u, 0x6000UL), (fault.Vector, fault.ErrorCode!.Value, fault.Address));
        Assert.Equal(0UL, _guest.Read64(Page + 0xFF8));
    }

    [Fact]
    public void Device_accesses_are_split_naturally()
    {
        _guest.EnterProtectedMode();
        Assert.Equal(ulong.MaxValue, _guest.Vcpu.ReadLinear(0x8000_0001, 8, false));
        Assert.Equal([(0x8000_0001UL, 1), (0x8000_0002UL, 2), (0x8000_0004UL, 4), (0x8000_0008UL, 1)], _guest.MemoryReads);
        _guest.Vcpu.WriteLinear(0x8000_0FFE, 0, 4, false);
        Assert.Equal([(0x8000_0FFEUL, 2), (0x8000_1000UL, 2)], _guest.MemoryWrites);
    }
}
