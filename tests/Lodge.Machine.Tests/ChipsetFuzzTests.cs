using System.Diagnostics;
using System.Globalization;
using Lodge.Engine.Processor;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>Random accesses to every port and register of a whole machine; LODGE_FUZZ_CASES is their number, LODGE_FUZZ_SECONDS makes it longer.</summary>
public class ChipsetFuzzTests
{
    private static readonly long _accesses =
        long.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), CultureInfo.InvariantCulture, out long cases) ? cases : 200_000;

    [Fact]
    public void Random_accesses_never_throw_hang_or_grow()
    {
        double seconds = double.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_SECONDS"), CultureInfo.InvariantCulture, out double given) ? given : 0;
        int seed = Environment.TickCount;
        var random = new Random(seed);
        var backend = new FakeBackend { Accepts = 100_000 };
        using var machine = new VirtualMachine(
            new MachineConfiguration
            {
                MemorySize = 16UL << 20,
                Model = CpuModel.Create(CpuModelName.V1, 1),
                Boot = static (_, _) => { },
                SerialPorts = [backend, new FakeBackend(), new FakeBackend { Accepts = 0 }, new FakeBackend()],
                DebugConsole = new FakeBackend { Accepts = 0 },
                DebugExitPort = 0xF4,
                RestartOnReset = true,
            },
            new FakeEngine(static p => p.Idle()));
        foreach (IDevice device in machine.Chipset.Devices)
        {
            device.Start(); // devices only: what the guest asks of the machine would stop it
        }
        machine.Clock.Start();
        RegionClaim[] claims = [.. machine.Chipset.Devices.SelectMany(static device => device.Claims)];
        byte[] data = new byte[8];
        var watch = Stopwatch.StartNew();
        long before = GC.GetTotalMemory(forceFullCollection: true);
        for (long i = 0; i < _accesses || watch.Elapsed.TotalSeconds < seconds; i++)
        {
            RegionClaim claim = claims[random.Next(claims.Length)];
            int width = 1 << random.Next(claim.Space == RegionSpace.Port ? 3 : 4);
            ulong offset = (ulong)random.NextInt64((long)claim.Length);
            ulong address = claim.Base + offset;
            try
            {
                Access(machine, random, claim.Space, address, data.AsSpan(0, width));
                if (random.Next(64) == 0)
                {
                    backend.Receiver.Receive(data.AsSpan(0, random.Next(9)));
                    machine.Chipset.Keyboard.SendKey(data.AsSpan(0, random.Next(5)));
                    machine.Chipset.Keyboard.MoveMouse(random.Next(-300, 300), random.Next(-300, 300), 1, (byte)random.Next(8));
                }
                if (random.Next(4096) == 0)
                {
                    foreach (IDevice device in machine.Chipset.Devices)
                    {
                        device.Restore(device.Saved());
                    }
                }
            }
            catch (Exception e)
            {
                Assert.Fail($"seed {seed}, access {i} of {width} bytes at {claim.Name}+{offset:x}: {e}");
            }
        }
        machine.Clock.Stop();
        foreach (IDevice device in machine.Chipset.Devices.Reverse())
        {
            device.Stop();
            device.Reset();
        }
        Assert.InRange(GC.GetTotalMemory(forceFullCollection: true) - before, long.MinValue, 8L << 20);
    }

    private static void Access(VirtualMachine machine, Random random, RegionSpace space, ulong address, Span<byte> data)
    {
        bool write = random.Next(2) == 0;
        if (write)
        {
            random.NextBytes(data);
            if (random.Next(4) == 0)
            {
                data[1..].Clear();
            }
        }
        switch (space, write)
        {
            case (RegionSpace.Port, true):
                machine.Chipset.Bus.WritePort((ushort)address, data);
                break;
            case (RegionSpace.Port, false):
                machine.Chipset.Bus.ReadPort((ushort)address, data);
                break;
            case (_, true):
                machine.Chipset.Bus.WriteMemory(address, data);
                break;
            default:
                machine.Chipset.Bus.ReadMemory(address, data);
                break;
        }
    }
}
