namespace Lodge.Engine.Translation.Emission;

/// <summary>Host instructions that .NET has no intrinsic for, as emitted machine code.</summary>
internal static unsafe class HostInstructions
{
    private static readonly delegate* unmanaged[SuppressGCTransition]<ulong> Rdtsc = Emit();

    /// <summary>RDTSC.</summary>
    public static ulong ReadTimestamp() => Rdtsc();

    private static delegate* unmanaged[SuppressGCTransition]<ulong> Emit()
    {
        var memory = new CodeMemory(65536);
        // rdtsc; shl rdx, 32; or rax, rdx; ret
        ReadOnlySpan<byte> code = [0x0F, 0x31, 0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0, 0xC3];
        code.CopyTo(new Span<byte>(memory.Write, code.Length));
        return (delegate* unmanaged[SuppressGCTransition]<ulong>)memory.Execute;
    }
}
