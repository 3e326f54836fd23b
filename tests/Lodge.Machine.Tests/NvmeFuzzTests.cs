using Lodge.Engine.State;
using Lodge.Machine.Tests.Harness;
using Lodge.Storage.Disks;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>
/// Random commands, PRPs, doorbells and registers. An exception on the worker ends the process, a hang fails the wait. LODGE_FUZZ_SECONDS lengthens it.
/// </summary>
public class NvmeFuzzTests
{
    private static readonly byte[] Opcodes = [0, 1, 2, 4, 5, 6, 8, 9, 0xA, 0xC, 0x7C];

    [Fact]
    public void NothingThatAGuestDoesHarms()
    {
        int seconds = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_SECONDS"), out int value) ? value : 0;
        long end = Environment.TickCount64 + (seconds * 1000L);
        int seed = seconds == 0 ? 1 : Environment.TickCount;
        for (int done = 0; done < 40_000 || Environment.TickCount64 < end; done += 2000)
        {
            Session(seed++);
        }
    }

    [Fact]
    public void AControllerWithAnyBitOfItsSavedStateFlippedIsResetByItsHost()
    {
        using var guest = new NvmeGuest(new TestDisk(1 << 20), memory: 4 << 20);
        guest.Controller.Start();
        guest.PlaceRegisters();
        guest.Enable(16, msix: true);
        guest.Controller.Stop();
        byte[] whole = guest.Save();
        for (int bit = 0; bit < whole.Length * 8; bit++)
        {
            byte[] saved = (byte[])whole.Clone();
            saved[bit / 8] ^= (byte)(1 << (bit % 8));
            try
            {
                guest.Controller.Restore(new StateReader(saved));
            }
            catch (SavedStateException)
            {
            }
            guest.PlaceRegisters();
            guest.Controller.Start();
            guest.Write(0x14, 0);
            Wait.Until(() => (guest.Read(0x1C) & 1) == 0, $"bit {bit}: reset");
            guest.Controller.Stop();
        }
    }

    private static void Session(int seed)
    {
        var random = new Random(seed);
        var disk = new TestDisk(1 << 20)
        {
            Asynchronous = random.Next(2) == 0,
            Fail = (_, _) => Random.Shared.Next(20) == 0 ? (DiskError)Random.Shared.Next(14) : null,
        };
        using var guest = new NvmeGuest(disk, memory: 4 << 20);
        guest.Controller.Start();
        byte[]? saved = null;
        Prepare();
        for (int i = 0; i < 2000; i++)
        {
            switch (random.Next(24))
            {
                case 0 when random.Next(8) == 0:
                    Prepare();
                    break;
                case 1 when random.Next(4) == 0:
                    guest.Write(random.Next(0x40) & ~3, Odd(random));
                    break;
                case 1 or 2:
                    guest.Write(0x1000 + (random.Next(12) * 4), random.Next(4) == 0 ? Odd(random) : (uint)random.Next(16));
                    break;
                case 3 when random.Next(4) == 0:
                    {
                        byte[] data = new byte[1 << random.Next(4)];
                        random.NextBytes(data);
                        guest.Bus.WriteMemory(guest.Bar + (ulong)random.Next(0x4000), data);
                        guest.Bus.ReadMemory(guest.Bar + (ulong)random.Next(0x4000), data);
                        break;
                    }
                case 4 when random.Next(4) == 0:
                    guest.Controller.Stop();
                    saved = guest.Save();
                    guest.Controller.Start();
                    break;
                case 4 when saved is not null && random.Next(3) == 0:
                    guest.Controller.Stop();
                    if (random.Next(2) == 0)
                    {
                        saved[random.Next(saved.Length)] ^= (byte)(1 << random.Next(8));
                    }
                    try
                    {
                        guest.Controller.Restore(new StateReader(saved));
                    }
                    catch (SavedStateException)
                    {
                    }
                    guest.Controller.Start();
                    break;
                case 5:
                    {
                        // A page of PRP entries.
                        ulong at = (ulong)random.Next(0x80) * 4096;
                        for (int entry = 0; entry < 40; entry++)
                        {
                            guest.Memory.TryWrite(at + ((ulong)(random.Next(4) == 0 ? 511 - (entry % 8) : entry) * 8), Address(random));
                        }
                        break;
                    }
                default:
                    byte[] command = new byte[64];
                    if (random.Next(20) == 0)
                    {
                        random.NextBytes(command);
                    }
                    command[0] = random.Next(16) == 0 ? (byte)random.Next(256) : Opcodes[random.Next(Opcodes.Length)];
                    command[1] = (byte)(random.Next(20) == 0 ? random.Next(256) : 0);
                    command[4] = (byte)(random.Next(10) == 0 ? random.Next(3) : 1);
                    BitConverter.TryWriteBytes(command.AsSpan(24), Address(random));
                    BitConverter.TryWriteBytes(command.AsSpan(32), Address(random));
                    BitConverter.TryWriteBytes(command.AsSpan(40), random.Next(6) == 0 ? Odd(random) : (uint)random.Next(0x800) | (random.Next(3) == 0 ? (uint)random.Next(64) << 16 : 0));
                    BitConverter.TryWriteBytes(command.AsSpan(44), random.Next(6) == 0 ? Odd(random) : random.Next(2) == 0 ? 0 : (uint)(1 | (random.Next(4) << 16)));
                    BitConverter.TryWriteBytes(command.AsSpan(48), random.Next(6) == 0 ? Odd(random) : (uint)random.Next(random.Next(2) == 0 ? 16 : 2048));
                    int queue = random.Next(3);
                    guest.Submit(queue, command);
                    while (guest.TryTake(queue, out _))
                    {
                    }
                    break;
            }
        }
        var stop = new Thread(guest.Controller.Stop);
        stop.Start();
        Assert.True(stop.Join(30_000), $"seed {seed} does not stop");

        void Prepare()
        {
            guest.PlaceRegisters();
            guest.Write(0x14, 0);
            Wait.Until(() => (guest.Read(0x1C) & 1) == 0, $"seed {seed}: reset");
            guest.Enable(16, msix: random.Next(2) == 0);
            guest.AssumeQueues(1, 2);
        }
    }

    private static ulong Address(Random random) => random.Next(12) == 0 ? Odd(random) : ((ulong)random.Next(0x400) * 4096) + (random.Next(12) == 0 ? (ulong)random.Next(4096) : 0);

    private static uint Odd(Random random) => random.Next(6) switch
    {
        0 => 0,
        1 => uint.MaxValue,
        2 => 1U << random.Next(32),
        3 => (uint)random.Next(256),
        4 => (1U << random.Next(32)) - 1,
        _ => (uint)random.NextInt64(),
    };
}
