using Lodge.Engine;

namespace Lodge.Bench.Exits;

/// <summary>One device at all addresses, whose value that was written is read again. Stops the processor after so many accesses.</summary>
internal sealed class CountingBus : IMachineBus
{
    private readonly byte[] _device = new byte[8];
    private VirtualProcessor? _processor;
    private long _left;

    /// <summary>Runs the guest for so many accesses.</summary>
    public void Run(VirtualProcessor processor, long count)
    {
        _processor = processor;
        _left = Math.Max(count, 1);
        ProcessorExit exit = processor.Run();
        if (exit != ProcessorExit.Stopped)
        {
            throw new InvalidOperationException($"the guest ended with {exit}: {processor.FailureReason}");
        }
    }

    public void ReadPort(ushort port, Span<byte> data) => Read(data);

    public void WritePort(ushort port, ReadOnlySpan<byte> data) => Write(data);

    public void ReadMemory(ulong address, Span<byte> data) => Read(data);

    public void WriteMemory(ulong address, ReadOnlySpan<byte> data) => Write(data);

    private void Read(Span<byte> data)
    {
        _device.AsSpan(0, data.Length).CopyTo(data);
        Count();
    }

    private void Write(ReadOnlySpan<byte> data)
    {
        data.CopyTo(_device);
        Count();
    }

    private void Count()
    {
        if (--_left == 0)
        {
            _processor!.Stop();
        }
    }
}
