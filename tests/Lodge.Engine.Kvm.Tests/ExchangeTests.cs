using System.Buffers.Binary;
using Iced.Intel;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Engine.Translation;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>
/// A guest that computes, with a timer that is armed and an interrupt that waits, stopped in the midst on one engine and resumed on another: the result is that of a run
/// that nobody stopped. All that passes between the engines is saved bytes and RAM.
/// </summary>
public sealed class ExchangeTests
{
    private const ulong Size = 4 << 20, StopAddress = 0xD000_0000, EndAddress = 0xD000_0008, ApicPage = 0xFEE0_0000;
    private const ulong Ticks = SmallGuest.Data, Messages = SmallGuest.Data + 8, Sum = SmallGuest.Data + 16, Vector = SmallGuest.Data + 24, Handlers = SmallGuest.Code + 0x1000;
    private const int TimerVector = 0x40, MessageVector = 0x50, Chunks = 4;
    private const uint TimerCount = 300_000_000; // nanoseconds: later than the last stop, if this host is not too slow

    private sealed record Result(uint Ticks, uint Messages, ulong Sum, ulong Vector);

    // Stops the processor at each of the guest's stops while another leg follows.
    private sealed class Bus : IMachineBus
    {
        public VirtualProcessor? Processor { get; set; }

        public bool Stops { get; set; }

        public bool Ended { get; private set; }

        /// <summary>Milliseconds that the first stop takes.</summary>
        public int Delay { get; set; }

        public void ReadPort(ushort port, Span<byte> data) => data.Fill(0xFF);

        public void WritePort(ushort port, ReadOnlySpan<byte> data)
        {
        }

        public void ReadMemory(ulong address, Span<byte> data) => data.Fill(0xFF);

        public void WriteMemory(ulong address, ReadOnlySpan<byte> data)
        {
            if (address == EndAddress || (address == StopAddress && Stops))
            {
                Ended |= address == EndAddress;
                Thread.Sleep(Delay);
                Delay = 0;
                Processor!.Stop();
            }
        }
    }

    [Theory]
    [InlineData(3, "translate", "kvm")]
    [InlineData(3, "kvm", "translate")]
    [InlineData(3, "kvm", "translate", "kvm", "translate")]
    [InlineData(0, "translate", "kvm")]
    [InlineData(0, "kvm", "translate")]
    [InlineData(0, "translate", "kvm", "translate", "kvm")]
    public void A_guest_goes_on_on_the_other_engine(int ring, params string[] engines)
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        Result expected = Run(ring, "translate"), natural = Run(ring, "kvm");
        Assert.Equal((1u, 1u), (expected.Ticks, expected.Messages));
        Assert.NotEqual(0UL, expected.Sum);
        Assert.Equal(expected, natural);
        Assert.Equal(expected, Run(ring, engines));
    }

    /// <summary>The timer runs out while the processor is outside of the guest, and it does not get back in before it is saved.</summary>
    [Theory]
    [InlineData("kvm", "translate")]
    [InlineData("kvm", "kvm")]
    [InlineData("translate", "kvm")]
    public void A_timer_that_runs_out_outside_of_the_guest_is_not_lost(params string[] engines)
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        Assert.Equal(Run(0, "translate"), RunSlowly(0, (int)(TimerCount / 1_000_000) + 50, engines));
    }

    private static Result Run(int ring, params string[] engines) => RunSlowly(ring, 0, engines);

    private static Result RunSlowly(int ring, int delay, params string[] engines)
    {
        byte[] ram = new byte[Size];
        byte[]? saved = null;
        long time = 0;
        for (int leg = 0; leg < engines.Length; leg++)
        {
            bool last = leg == engines.Length - 1;
            using var memory = new GuestMemory(Size);
            var clock = new MachineClock();
            var bus = new Bus { Stops = !last, Delay = leg == 0 ? delay : 0 };
            IEngine engine = engines[leg] == "kvm" ? new KvmEngine() : new TranslationEngine();
            CpuModel model = CommonModel.Create(CpuModelName.V1, engine);
            using Partition partition = engine.CreatePartition(new PartitionOptions(1, model, memory, bus, clock));
            VirtualProcessor processor = bus.Processor = partition.Processors[0];
            if (saved is null)
            {
                Prepare(memory, processor, ring);
            }
            else
            {
                Assert.True(memory.TryWrite(0, ram));
                clock.Set(time);
                var reader = new StateReader(saved);
                model.Adopt(reader.Nested(1, new CpuModelState()));
                processor.SetState(reader.Nested(2, new ProcessorState()));
            }
            clock.Start();
            ProcessorExit exit = processor.Run();
            clock.Stop();
            Assert.True(exit == ProcessorExit.Stopped && bus.Ended == last, $"{engines[leg]}, leg {leg}: {exit} {processor.FailureReason}");
            ProcessorState state = processor.GetState();
            Assert.True(memory.TryRead(0, ram));
            time = clock.Now;
            if (!last)
            {
                // What is under way: the message waits for the task priority, the timer counts or its interrupt waits as well.
                Assert.Equal(ring, (int)(state.Segments[1].Selector & 3));
                uint Register(int at) => BinaryPrimitives.ReadUInt32LittleEndian(state.LocalApic.AsSpan(at));
                Assert.Equal(1u << (MessageVector & 31), Register(0x200 + (MessageVector / 32 * 16)) & 1u << (MessageVector & 31));
                Assert.True(Register(0x390) is > 0 and <= TimerCount || (Register(0x200 + (TimerVector / 32 * 16)) >> (TimerVector & 31) & 1) != 0);
            }
            var writer = new StateWriter();
            writer.Nested(1, model.Save());
            writer.Nested(2, state);
            saved = writer.ToArray();
        }
        return new Result(BitConverter.ToUInt32(ram, (int)Ticks), BitConverter.ToUInt32(ram, (int)Messages), BitConverter.ToUInt64(ram, (int)Sum), BitConverter.ToUInt64(ram, (int)Vector));
    }

    private static void Put(GuestMemory memory, ulong address, Action<Assembler> code)
    {
        var assembler = new Assembler(64);
        code(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), address);
        Assert.True(memory.TryWrite(address, stream.ToArray()));
    }

    private static void Prepare(GuestMemory memory, VirtualProcessor processor, int ring)
    {
        const ulong Tables = SmallGuest.PageTables;
        memory.TryWrite(Tables, (Tables + 0x1000) | 7);
        for (ulong i = 0; i < 4; i++)
        {
            ulong directory = Tables + 0x2000 + (i << 12);
            memory.TryWrite(Tables + 0x1000 + (i * 8), directory | 7);
            for (ulong j = 0; j < 512; j++)
            {
                memory.TryWrite(directory + (j * 8), (i << 30) | (j << 21) | 0x87);
            }
        }
        ulong[] descriptors =
            [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF, 0x0000_8B00_0000_0067 | (SmallGuest.TaskState & 0xFF_FFFF) << 16, 0];
        for (int i = 0; i < descriptors.Length; i++)
        {
            memory.TryWrite(SmallGuest.GlobalTable + ((ulong)i * 8), descriptors[i]);
        }
        memory.TryWrite(SmallGuest.TaskState + 4, SmallGuest.Stack);
        Gate(memory, TimerVector, Handlers);
        Gate(memory, MessageVector, Handlers + 0x100);
        Put(memory, Handlers, a => Handler(a, Ticks));
        Put(memory, Handlers + 0x100, a => Handler(a, Messages));
        Put(memory, SmallGuest.Code, a => Program(a, ring));
        ProcessorState state = processor.GetState();
        state.Cr0 = 0x8000_0031;
        state.Cr3 = Tables;
        state.Cr4 = 0x620;
        state.ModelSpecificRegisters[0xC000_0080] = 0x501;
        var data = new SegmentState(SmallGuest.KernelData, 0, uint.MaxValue, 0xC093);
        state.Segments = [data, new SegmentState(SmallGuest.KernelCode, 0, uint.MaxValue, 0xA09B), data, data, data, data];
        state.TaskRegister = new SegmentState(SmallGuest.TaskSelector, SmallGuest.TaskState, 0x67, 0x8B);
        state.LocalDescriptorTable = new SegmentState(0, 0, 0xFFFF, 0x82);
        state.GlobalDescriptorTable = new TableRegister(SmallGuest.GlobalTable, 0x3F);
        state.InterruptDescriptorTable = new TableRegister(SmallGuest.InterruptTable, 0xFFF);
        state.InstructionPointer = SmallGuest.Code;
        state.GeneralRegisters[4] = SmallGuest.Stack;
        state.Flags = 2;
        processor.SetState(state);
    }

    private static void Gate(GuestMemory memory, int vector, ulong handler)
    {
        ulong at = SmallGuest.InterruptTable + ((ulong)vector * 16);
        memory.TryWrite(at, (handler & 0xFFFF) | ((ulong)SmallGuest.KernelCode << 16) | (0x8E00UL << 32) | ((handler >> 16 & 0xFFFF) << 48));
        memory.TryWrite(at + 8, handler >> 32);
    }

    // RDI is the local APIC's page throughout.
    private static void Handler(Assembler a, ulong counter)
    {
        a.inc(__dword_ptr[counter]);
        a.mov(__dword_ptr[rdi + 0xB0], 0);
        a.iretq();
    }

    private static void Program(Assembler a, int ring)
    {
        Label work = a.CreateLabel(), chunk = a.CreateLabel(), step = a.CreateLabel(), wait = a.CreateLabel(), over = a.CreateLabel();
        a.mov(edi, unchecked((int)ApicPage));
        a.mov(__dword_ptr[rdi + 0x80], 0xF0); // task priority: nothing comes through
        a.mov(__dword_ptr[rdi + 0xF0], 0x1FF);
        a.mov(__dword_ptr[rdi + 0x3E0], 0xB);
        a.mov(__dword_ptr[rdi + 0x320], TimerVector);
        a.mov(__dword_ptr[rdi + 0x380], (int)TimerCount);
        a.mov(__dword_ptr[rdi + 0x300], 0x4_4000 | MessageVector); // to itself
        if (ring == 3)
        {
            a.push(SmallGuest.UserData);
            a.push((int)SmallGuest.Stack - 0x1000);
            a.push(0x202);
            a.push(SmallGuest.UserCode);
            a.lea(rax, __[work]);
            a.push(rax);
            a.iretq();
        }
        a.Label(ref work);
        a.mov(esi, unchecked((int)StopAddress));
        a.mov(r8d, 0x1234_5678);
        a.mov(ebx, Chunks);
        if (ring == 3)
        {
            a.pxor(xmm1, xmm1);
        }
        a.Label(ref chunk);
        a.mov(ecx, ring == 3 ? 20_000 : 400);
        a.Label(ref step);
        a.imul(r8, r8, 0x5851_F42D);
        a.add(r8, rcx);
        a.rol(r8, 7);
        if (ring == 3)
        {
            a.movq(xmm0, r8);
            a.paddq(xmm1, xmm0);
        }
        a.dec(ecx);
        a.jnz(step);
        a.mov(__dword_ptr[rsi], ebx);
        a.dec(ebx);
        a.jnz(chunk);
        a.mov(__dword_ptr[rdi + 0x80], 0);
        if (ring == 0)
        {
            a.sti();
        }
        a.Label(ref wait);
        a.cmp(__dword_ptr[Ticks], 1);
        a.jne(wait);
        a.cmp(__dword_ptr[Messages], 1);
        a.jne(wait);
        a.mov(__qword_ptr[Sum], r8);
        if (ring == 3)
        {
            a.movq(__qword_ptr[Vector], xmm1);
        }
        a.mov(__dword_ptr[rsi + 8], eax);
        a.Label(ref over);
        a.jmp(over);
    }
}
