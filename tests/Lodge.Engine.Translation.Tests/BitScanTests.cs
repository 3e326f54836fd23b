using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Tests.Harness;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

/// <summary>The encodings of TZCNT and LZCNT are BSF and BSR on processors without them.</summary>
public sealed class BitScanTests
{
    [Theory]
    [InlineData(CpuModelName.V1, false, 4, 11)]
    [InlineData(CpuModelName.V2, true, 4, 11)]
    [InlineData(CpuModelName.V2, false, 4, 11)]
    [InlineData(CpuModelName.V3, true, 4, 52)]
    [InlineData(CpuModelName.V3, false, 4, 52)]
    public void The_prefix_counts_only_where_the_instruction_exists(CpuModelName model, bool interpret, uint trailing, uint leading)
    {
        using var guest = new FlatGuest(model: model);
        guest.Processor.ForceInterpret = interpret;
        // mov ecx, 0x810; tzcnt rax, rcx; out 0xE0, eax; lzcnt rax, rcx; out 0xE0, eax; tzcnt eax, [0x200000] (0x800); out; out 0xF4, eax; hlt
        byte[] program = Convert.FromHexString("B910080000F3480FBCC1E7E0F3480FBDC1E7E0F30FBC042500002000E7E0E7F4F4");
        guest.Memory.TryWrite(FlatGuest.CodeBase, program);
        guest.Memory.TryWrite(FlatGuest.DataBase, 0x800UL);
        Assert.Equal(ProcessorExit.Stopped, guest.Run());
        Assert.Equal([trailing, leading, 11UL], guest.Output.Take(3).Select(o => o.Value));
    }
}
