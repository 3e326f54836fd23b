namespace Lodge.Engine.Kvm.Tests;

/// <summary>A bus with nothing on it.</summary>
internal sealed class SilentBus : IMachineBus
{
    public void ReadPort(ushort port, Span<byte> data) => data.Fill(0xFF);

    public void WritePort(ushort port, ReadOnlySpan<byte> data)
    {
    }

    public void ReadMemory(ulong address, Span<byte> data) => data.Fill(0xFF);

    public void WriteMemory(ulong address, ReadOnlySpan<byte> data)
    {
    }
}
