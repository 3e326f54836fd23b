using Lodge.Engine.Translation.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class ExtendedStateTests : IDisposable
{
    private const ulong Area = 0x20_0000;
    private static readonly byte[] s_fxsave = [0x48, 0x0F, 0xAE, 0x03], s_fxrstor = [0x48, 0x0F, 0xAE, 0x0B], s_xsave = [0x48, 0x0F, 0xAE, 0x23], s_xrstor = [0x48, 0x0F, 0xAE, 0x2B],
        s_xsaveopt = [0x48, 0x0F, 0xAE, 0x33], s_xsavec = [0x48, 0x0F, 0xC7, 0x23];
    private readonly GuestFixture _guest = new();

    public ExtendedStateTests()
    {
        // The first GiB maps itself.
        _guest.Write64(0x1000, 0x2000 | 7);
        _guest.Write64(0x2000, 0x87);
        _guest.Vcpu.ResetRegisters();
        _guest.EnterLongMode(0x1000, Cr4Bits.Osfxsr | Cr4Bits.Osxsave);
        _guest.B->Gpr[3] = Area;
        _guest.B->Gpr[0] = _guest.B->Gpr[2] = uint.MaxValue;
        Fill();
    }

    public void Dispose() => _guest.Dispose();

    private void Fill()
    {
        for (int i = 0; i < 512; i++)
        {
            _guest.B->Ymm[i] = (byte)((i * 7) + 1);
        }
        _guest.B->Mxcsr = 0x1FA0;
        _guest.B->ExtendedState[4] = 0x81;
        for (int i = 0; i < 10; i++)
        {
            _guest.B->ExtendedState[32 + i] = (byte)(0xA0 + i);
        }
    }

    private void Clear()
    {
        for (int i = 0; i < 512; i++)
        {
            _guest.B->Ymm[i] = _guest.B->ExtendedState[i] = 0;
        }
        _guest.B->Mxcsr = 0;
    }

    private byte[] State() => _guest.Vcpu.GetExtendedState();

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void Saved_state_comes_back(int form)
    {
        byte[] before = State();
        _guest.Execute(new[] { s_xsave, s_xsaveopt, s_xsavec }[form]);
        Clear();
        Assert.NotEqual(before, State());
        _guest.Execute(s_xrstor);
        Assert.Equal(before, State());
        Assert.Equal(7UL, _guest.Read64(Area + 512));
        Assert.Equal(form == 2 ? (1UL << 63) | 7 : 0, _guest.Read64(Area + 520));
    }

    [Fact]
    public void Area_over_a_page_boundary_works_too()
    {
        byte[] before = State();
        _guest.B->Gpr[3] = Area + 0xF00;
        _guest.Execute(s_xsave);
        Clear();
        _guest.Execute(s_xrstor);
        Assert.Equal(before, State());
    }

    [Fact]
    public void Fxsave_keeps_the_upper_halves()
    {
        byte[] before = State();
        _guest.Execute(s_fxsave);
        for (int i = 0; i < 16; i++)
        {
            _guest.B->Ymm[i * 32] = 0;
        }
        _guest.Execute(s_fxrstor);
        Assert.Equal(before, State());
    }

    [Fact]
    public void Header_tells_what_is_in_use()
    {
        Clear();
        _guest.Vcpu.SetExtendedState(Engine.Processor.ProcessorState.CreateResetExtendedState());
        _guest.Write64(Area + 512, 0xF0);
        _guest.Execute(s_xsave);
        Assert.Equal(0xF0UL, _guest.Read64(Area + 512)); // bits outside RFBM stay
        _guest.B->Ymm[16] = 1;
        _guest.B->Mxcsr = 0x1F81;
        _guest.Execute(s_xsavec);
        Assert.Equal(6UL, _guest.Read64(Area + 512)); // MXCSR counts for XSAVEC
    }

    [Fact]
    public void Absent_components_are_initialized_and_unasked_ones_kept()
    {
        _guest.Memory.TryWrite(Area + 24, 0x1F80u);
        _guest.B->Gpr[0] = 4;
        _guest.Execute(s_xrstor);
        Assert.Equal(0, _guest.B->Ymm[16]);
        Assert.Equal(1, _guest.B->Ymm[0]);
        Assert.Equal(0x1F80u, _guest.B->Mxcsr);
        Assert.Equal(0x81, _guest.B->ExtendedState[4]);
    }

    [Theory]
    [InlineData(512, 8UL)]                   // XSTATE_BV outside XCR0
    [InlineData(520, 1UL)]                   // XCOMP_BV without bit 63
    [InlineData(520, (1UL << 63) | (1 << 3))] // component outside XCR0
    [InlineData(528, 1UL)]                   // reserved
    [InlineData(24, 0x1_0000UL)]             // MXCSR
    public void Bad_areas_fault_without_effect(int offset, ulong value)
    {
        byte[] before = State();
        _guest.Write64(Area + (ulong)offset, value);
        _guest.Faults(Vector.GeneralProtection, s_xrstor);
        Assert.Equal(before, State());
    }

    [Fact]
    public void Alignment_is_required()
    {
        _guest.B->Gpr[3] = Area + 16;
        _guest.Execute(s_fxsave);
        _guest.Faults(Vector.GeneralProtection, s_xsave);
        _guest.B->Gpr[3] = Area + 8;
        _guest.Faults(Vector.GeneralProtection, s_fxsave);
    }

    [Fact]
    public void Ldmxcsr_refuses_reserved_bits()
    {
        _guest.Memory.TryWrite(Area, 0x1_1F80u);
        _guest.Faults(Vector.GeneralProtection, 0x0F, 0xAE, 0x13);
        Assert.Equal(0x1FA0u, _guest.B->Mxcsr);
    }
}
