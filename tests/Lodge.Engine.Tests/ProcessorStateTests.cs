using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Xunit;

namespace Lodge.Engine.Tests;

/// <summary>The saved form of a processor.</summary>
public sealed class ProcessorStateTests
{
    private static byte[] Write(ProcessorState state)
    {
        var writer = new StateWriter();
        writer.Nested(1, state);
        return writer.ToArray();
    }

    private static ProcessorState Read(ReadOnlyMemory<byte> bytes) => new StateReader(bytes).Nested(1, new ProcessorState());

    private static ProcessorState Random(Random random)
    {
        ulong Any() => (ulong)random.NextInt64(long.MinValue, long.MaxValue);
        SegmentState Segment() => new((ushort)Any(), Any(), (uint)Any(), (uint)Any() & 0x1_F0FF);
        var state = new ProcessorState
        {
            InstructionPointer = Any(),
            Flags = Any(),
            Cr0 = Any(),
            Cr2 = Any(),
            Cr3 = Any(),
            Cr4 = Any(),
            Cr8 = Any(),
            Xcr0 = Any(),
            Dr6 = Any(),
            Dr7 = Any(),
            Pkru = (uint)Any(),
            LocalDescriptorTable = Segment(),
            TaskRegister = Segment(),
            GlobalDescriptorTable = new TableRegister(Any(), (ushort)Any()),
            InterruptDescriptorTable = new TableRegister(Any(), (ushort)Any()),
            Activity = (ActivityState)random.Next(4),
            InterruptShadow = random.Next(2) != 0,
            DebugShadow = random.Next(2) != 0,
            PendingDebug = Any(),
            NmiBlocked = random.Next(2) != 0,
            NmiPending = random.Next(2) != 0,
            PendingSipi = random.Next(-1, 256),
            PendingInit = random.Next(2) != 0,
            PendingTripleFault = random.Next(2) != 0,
            PendingEvent = random.Next(2) == 0 ? null
                : new PendingEvent((PendingEventKind)random.Next(3), (byte)random.Next(32), random.Next(2) == 0 ? null : (uint)Any()),
            PageDirectoryPointers = random.Next(2) == 0 ? null : [Any(), Any(), Any(), Any()],
            ExtendedState = new byte[832 + (random.Next(0, 1000) * 8)],
            NestedState = new byte[random.Next(3) * 4096],
        };
        random.NextBytes(state.ExtendedState);
        random.NextBytes(state.NestedState);
        random.NextBytes(state.LocalApic);
        for (int i = 0; i < 16; i++)
        {
            state.GeneralRegisters[i] = Any();
        }
        for (int i = 0; i < 6; i++)
        {
            state.Segments[i] = Segment();
        }
        for (int i = random.Next(64); i > 0; i--)
        {
            state.ModelSpecificRegisters[(uint)Any()] = Any();
        }
        return state;
    }

    [Fact]
    public void Every_field_survives()
    {
        var random = new Random(1);
        for (int i = 0; i < 500; i++)
        {
            byte[] bytes = Write(Random(random));
            Assert.Equal(bytes, Write(Read(bytes)));
        }
    }

    [Fact]
    public void States_of_version_1_are_read()
    {
        // Version 1 had 832 bytes of extended state and nothing above field 20.
        ProcessorState state = Random(new Random(2));
        state.ExtendedState = state.ExtendedState[..832];
        (state.PendingEvent, state.PendingTripleFault, state.NestedState, state.PageDirectoryPointers) = (null, false, [], null);
        var inner = new StateWriter();
        state.Write(inner);
        var old = new StateWriter();
        old.UInt64(0, 1);
        byte[] fields = [.. old.ToArray(), .. inner.ToArray().AsSpan(..^11)]; // without the last integer field, 22
        byte[] bytes = [1, 0, 2, .. BitConverter.GetBytes(fields.Length), .. fields];
        ProcessorState read = Read(bytes);
        Assert.Equal(Write(state), Write(read));
        Assert.Null(read.PendingEvent);
    }

    [Fact]
    public void Extended_state_has_bounds()
    {
        foreach ((int length, bool good) in (ReadOnlySpan<(int, bool)>)[(0, false), (576, false), (831, false), (832, true), (11008, true), (16384, true), (16385, false)])
        {
            byte[] bytes = Write(new ProcessorState { ExtendedState = new byte[length] });
            if (good)
            {
                Assert.Equal(length, Read(bytes).ExtendedState.Length);
            }
            else
            {
                Assert.Throws<SavedStateException>(() => Read(bytes));
            }
        }
    }

    [Fact]
    public void Hostile_bytes_end_in_an_exception_or_a_state_in_bounds()
    {
        var random = new Random(3);
        for (int i = 0; i < 20_000; i++)
        {
            byte[] bytes = Write(Random(random));
            for (int n = random.Next(1, 6); n > 0; n--)
            {
                // Mostly where lengths and kinds stand, not in the midst of large arrays.
                bytes[random.Next(3) == 0 ? random.Next(bytes.Length) : random.Next(Math.Min(bytes.Length, 700))] = (byte)random.Next(256);
            }
            ReadOnlyMemory<byte> input = random.Next(4) == 0 ? bytes.AsMemory(0, random.Next(bytes.Length)) : bytes;
            try
            {
                ProcessorState state = Read(input);
                Assert.InRange(state.ExtendedState.Length, 832, XsaveLayout.MaximumLength);
                Assert.Equal((16, 6, 4, 1024), (state.GeneralRegisters.Length, state.Segments.Length, state.DebugAddresses.Length, state.LocalApic.Length));
                Assert.True(state.Activity <= ActivityState.WaitForSipi && state.PendingSipi is >= -1 and <= 255 && state.ModelSpecificRegisters.Count <= 4096);
            }
            catch (SavedStateException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
        }
    }
}
