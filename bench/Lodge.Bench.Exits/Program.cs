using System.Diagnostics;
using System.Globalization;
using Lodge.Bench.Exits;
using Lodge.Engine;
using Lodge.Engine.Kvm;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Time;

// The guest of bench/exits.c on Lodge's hardware engine, with the same arguments and output.
if (args is not [string argument] || !(argument == "first" || long.TryParse(argument, CultureInfo.InvariantCulture, out _)))
{
    return 2;
}
using var memory = new GuestMemory(LoopGuest.MemorySize);
LoopGuest.Write(memory);
var bus = new CountingBus();
using Partition partition = new KvmEngine().CreatePartition(new PartitionOptions(1, CpuModel.Create(CpuModelName.V1, 1), memory, bus, new MachineClock()));
VirtualProcessor processor = partition.Processors[0];
if (argument == "first")
{
    LoopGuest.Enter(processor, 0, 0);
    bus.Run(processor, 1);
    Console.WriteLine("first");
    return 0;
}
long count = long.Parse(argument, CultureInfo.InvariantCulture);
foreach (int ring in (ReadOnlySpan<int>)[0, 3])
{
    for (int kind = 0; kind < LoopGuest.Kinds.Length; kind++)
    {
        LoopGuest.Enter(processor, kind, ring);
        bus.Run(processor, count / 4);
        long begin = Stopwatch.GetTimestamp();
        bus.Run(processor, count);
        long nanoseconds = (long)(Stopwatch.GetElapsedTime(begin).TotalMicroseconds * 1000);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"ring{ring}-{LoopGuest.Kinds[kind].Name} {nanoseconds}"));
    }
}
return 0;
