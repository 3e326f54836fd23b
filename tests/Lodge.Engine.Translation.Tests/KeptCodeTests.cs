using Iced.Intel;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Tests.Harness;
using Microsoft.Win32.SafeHandles;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests;

/// <summary>Translated code that is kept in a file and taken from there by another machine: right whatever the other machine's memory holds, and whatever happened to the file.</summary>
public sealed class KeptCodeTests : IDisposable
{
    private const ulong Function = FlatGuest.CodeBase + 0x2000;
    private readonly string _path = Path.GetTempFileName();

    public void Dispose() => File.Delete(_path);

    // Loops with flags over block borders, calls, loads and stores, x87, strings, and an instruction for C#; RAX is the result.
    private static void Program(Assembler a)
    {
        Label again = a.CreateLabel(), smaller = a.CreateLabel(), next = a.CreateLabel();
        a.xor(eax, eax);
        a.mov(ecx, 500);
        a.mov(rbx, FlatGuest.DataBase);
        a.mov(r13, 7);
        a.Label(ref again);
        a.mov(__qword_ptr[rbx + rcx * 8], rcx);
        a.cmp(ecx, 250);
        a.jb(smaller);
        a.add(rax, __qword_ptr[rbx + rcx * 8]);
        a.jmp(next);
        a.Label(ref smaller);
        a.call(Function);
        a.Label(ref next);
        a.adc(rax, r13);
        a.imul(rax, rax, 3);
        a.dec(ecx);
        a.jne(again);
        a.fld1();
        a.fadd(st0, st0);
        a.fistp(__dword_ptr[rbx]);
        a.add(eax, __dword_ptr[rbx]);
        a.mov(rdi, FlatGuest.DataBase + 0x4000);
        a.mov(ecx, 64);
        a.rep.stosb();
        a.add(rax, __qword_ptr[rdi - 8]);
        a.mov(r12, rax);
        a.xor(eax, eax);
        a.cpuid();
        a.mov(rax, r12);
        FlatGuest.Exit(a);
    }

    private static void Load(FlatGuest guest, int added = 5)
    {
        guest.Load(Program);
        guest.Load(
            a =>
            {
                a.push(rcx);
                a.sub(rax, added);
                a.pop(rcx);
                a.ret();
            },
            Function);
    }

    private static ulong Run(FlatGuest guest)
    {
        guest.Run();
        return guest.Processor.SaveState().GeneralRegisters[0];
    }

    private static long Adopted(FlatGuest guest) => guest.Processor.Counters()["kept blocks used"];

    private static long Translated(FlatGuest guest) => guest.Processor.Counters()["translated blocks"];

    private ulong Keep(int added = 5)
    {
        using FlatGuest guest = new();
        Load(guest, added);
        guest.Partition.Record();
        ulong result = Run(guest);
        using SafeFileHandle file = File.OpenHandle(_path, FileMode.Create, FileAccess.Write);
        Assert.True(guest.Partition.Save(file) > 1000);
        return result;
    }

    private bool Use(FlatGuest guest)
    {
        using SafeFileHandle file = File.OpenHandle(_path);
        return guest.Partition.TryUse(file);
    }

    [Fact]
    public void AnotherMachineWithTheSameMemoryTranslatesNothing()
    {
        ulong expected = Keep();
        using FlatGuest guest = new();
        Load(guest);
        Assert.True(Use(guest));
        Assert.Equal(expected, Run(guest));
        Assert.True(Adopted(guest) >= 7);
        // Variants of loops are made anew.
        Assert.InRange(Translated(guest), 0, 3);
    }

    [Fact]
    public async Task EachProcessorTakesFromIt()
    {
        ulong expected = Keep();
        using FlatGuest guest = new(processors: 2);
        Load(guest);
        Assert.True(Use(guest));
        Assert.Equal(expected, Run(guest));
        ProcessorState first = FlatGuest.LongMode(false);
        guest.Partition.Vcpus[1].RestoreState(first);
        guest.Partition.Vcpus[0].Blocks.InvalidatePage(FlatGuest.CodeBase); // the other one's stay
        Task run = Task.Run(() => guest.Partition.Vcpus[1].RunLoop(), TestContext.Current.CancellationToken);
        while (guest.Output.Count < 2)
        {
            await Task.Delay(1, TestContext.Current.CancellationToken);
        }
        guest.Partition.Vcpus[1].RequestStop();
        await run;
        Assert.Equal(expected, guest.Output[1].Value | (expected & 0xFFFF_FFFF_0000_0000));
        Assert.True(guest.Partition.Vcpus[1].Counters()["kept blocks used"] >= 7);
    }

    [Fact]
    public void CodeThatMemoryDoesNotHoldIsNotTaken()
    {
        Keep(added: 5);
        ulong expected = Keep(added: 9);
        Keep(added: 5);
        using FlatGuest guest = new();
        Load(guest, added: 9);
        Assert.True(Use(guest));
        Assert.Equal(expected, Run(guest));
        Assert.True(Adopted(guest) >= 4);
        Assert.True(Translated(guest) > 0);
    }

    [Fact]
    public void CodeThatIsChangedLaterIsNotRunAnyMore()
    {
        Keep();
        ulong other = Keep(added: 9);
        Keep();
        using FlatGuest guest = new();
        Load(guest);
        Assert.True(Use(guest));
        Run(guest);
        guest.Load(
            a =>
            {
                a.push(rcx);
                a.sub(rax, 9);
                a.pop(rcx);
                a.ret();
            },
            Function);
        guest.Processor.RestoreState(FlatGuest.LongMode(false));
        Assert.Equal(other, Run(guest));
        Load(guest);
        ProcessorState again = FlatGuest.LongMode(false);
        guest.Processor.RestoreState(again);
        Assert.NotEqual(other, Run(guest));
    }

    [Fact]
    public void AGuestThatPatchesCodeThatWasKeptRunsWhatItWrote()
    {
        // 1, then 2, then 1 again: what is kept is what memory held at first.
        static void Patches(FlatGuest guest)
        {
            guest.Load(a =>
            {
                a.xor(esi, esi);
                a.mov(rbx, Function);
                foreach (int value in (int[])[1, 2, 1])
                {
                    a.mov(__byte_ptr[rbx + 1], value);
                    a.call(Function);
                    a.imul(esi, esi, 10);
                    a.add(esi, eax);
                }
                a.mov(eax, esi);
                FlatGuest.Exit(a);
            });
            guest.Load(
                a =>
                {
                    a.mov(eax, 1);
                    a.ret();
                },
                Function);
        }
        using (FlatGuest guest = new())
        {
            Patches(guest);
            guest.Partition.Record();
            Assert.Equal(121UL, Run(guest));
            using SafeFileHandle file = File.OpenHandle(_path, FileMode.Create, FileAccess.Write);
            Assert.NotEqual(0, guest.Partition.Save(file));
        }
        using FlatGuest clone = new();
        Patches(clone);
        Assert.True(Use(clone));
        Assert.Equal(121UL, Run(clone));
        Assert.True(Adopted(clone) >= 3);
    }

    [Fact]
    public void CodeThatWasWrittenOverWhileProcessorsStoodIsNotKept()
    {
        ulong other = Keep(added: 9);
        using (FlatGuest guest = new())
        {
            Load(guest, added: 5);
            guest.Partition.Record();
            Run(guest);
            Load(guest, added: 9); // as a device does: no processor has heard of it yet
            using SafeFileHandle file = File.OpenHandle(_path, FileMode.Create, FileAccess.Write);
            guest.Partition.Save(file);
        }
        using FlatGuest clone = new();
        Load(clone, added: 9);
        Use(clone);
        Assert.Equal(other, Run(clone));
    }

    [Fact]
    public void BreakpointsStopInsideBlocksThatWereKept()
    {
        Keep();
        using FlatGuest guest = new();
        Load(guest);
        Assert.True(Use(guest));
        Assert.Equal(ProcessorExit.Debug, Stop(guest, Function + 1));
        Assert.Equal(Function + 1, guest.Processor.SaveState().InstructionPointer);
    }

    private static ProcessorExit Stop(FlatGuest guest, ulong at)
    {
        guest.Processor.SetDebug(new DebugRequest(false, [at], []));
        return guest.Run();
    }

    [Fact]
    public void WhatWasTakenCanBeKeptAgainOnlyIfItWasRecorded()
    {
        Keep();
        using FlatGuest guest = new();
        Load(guest);
        Assert.True(Use(guest));
        Run(guest);
        string second = Path.GetTempFileName();
        try
        {
            using SafeFileHandle file = File.OpenHandle(second, FileMode.Create, FileAccess.Write);
            Assert.Equal(0, guest.Partition.Save(file));
            Assert.Equal(0, RandomAccess.GetLength(file));
        }
        finally
        {
            File.Delete(second);
        }
    }

    [Fact]
    public void TheCacheMayBeDroppedAtAnyTime()
    {
        ulong expected = Keep();
        using FlatGuest guest = new();
        Load(guest);
        Assert.True(Use(guest));
        Assert.Equal(expected, Run(guest));
        long before = Adopted(guest);
        guest.Processor.Blocks.Trim();
        guest.Processor.RestoreState(FlatGuest.LongMode(false));
        Assert.Equal(expected, Run(guest));
        Assert.True(Adopted(guest) >= 2 * before - 3);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(10)]
    [InlineData(56)]
    [InlineData(-1)]
    [InlineData(-5000)]
    public void FilesThatAreCutOffAreRefused(int length)
    {
        ulong expected = Keep();
        byte[] file = File.ReadAllBytes(_path);
        File.WriteAllBytes(_path, file[..(length >= 0 ? length : Math.Max(0, file.Length + length))]);
        using FlatGuest guest = new();
        Load(guest);
        Assert.False(Use(guest));
        Assert.Equal(expected, Run(guest));
        Assert.Equal(0, Adopted(guest));
    }

    [Fact]
    public void DamageNeverChangesAResult()
    {
        ulong expected = Keep();
        byte[] whole = File.ReadAllBytes(_path);
        int cases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out int asked) ? asked : 300;
        int seed = Environment.TickCount;
        Random random = new(seed);
        for (int i = 0; i < cases; i++)
        {
            byte[] damaged = (byte[])whole.Clone();
            for (int flips = random.Next(1, 20); flips > 0; flips--)
            {
                damaged[random.Next(damaged.Length)] ^= (byte)(1 << random.Next(8));
            }
            File.WriteAllBytes(_path, damaged);
            using FlatGuest guest = new();
            Load(guest);
            Use(guest);
            Assert.True(expected == Run(guest), $"seed {seed}, case {i}");
        }
    }

    [Fact]
    public void AnotherLayoutOfTheFixedCodeIsRefused()
    {
        Keep();
        using SafeFileHandle file = File.OpenHandle(_path);
        using FlatGuest guest = new();
        Assert.Null(KeptCode.TryOpen(file, guest.Processor.Blocks.BlockStart + 64));
        using KeptCode? kept = KeptCode.TryOpen(file, guest.Processor.Blocks.BlockStart);
        Assert.NotNull(kept);
    }
}
