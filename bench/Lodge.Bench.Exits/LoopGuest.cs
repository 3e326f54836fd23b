using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;

namespace Lodge.Bench.Exits;

/// <summary>The guest of bench/exits.c: loops of one access in long mode, ring 0 and ring 3.</summary>
internal static class LoopGuest
{
    public const ulong MemorySize = 2 << 20;

    private const ulong DeviceAddress = 0xD000_0000, DevicePort = 0x510;
    private const ulong RootTable = 0x1000, DescriptorTable = 0x5000, TaskState = 0x6000, Code = 0xA000;

    /// <summary>The loops.</summary>
    public static readonly (string Name, byte[] Code)[] Kinds =
    [
        ("port-write", [0xEF, 0xEB, 0xFD]),        // out dx, eax; jmp
        ("port-read", [0xED, 0xEB, 0xFD]),         // in eax, dx; jmp
        ("memory-write", [0x89, 0x03, 0xEB, 0xFC]), // mov [rbx], eax; jmp
        ("memory-read", [0x8B, 0x03, 0xEB, 0xFC]),  // mov eax, [rbx]; jmp
    ];

    /// <summary>Puts it into memory.</summary>
    public static void Write(GuestMemory memory)
    {
        memory.TryWrite(RootTable, 0x2007UL);
        memory.TryWrite(0x2000, 0x3007UL);
        memory.TryWrite(0x2018, 0x4007UL);
        for (ulong i = 0; i < 512; i++)
        {
            memory.TryWrite(0x3000 + (i * 8), (i << 21) | 0x87);
            memory.TryWrite(0x4000 + (i * 8), ((i << 21) | 0x87) + 0xC000_0000);
        }
        ReadOnlySpan<ulong> descriptors = [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF, 0x0000_8B00_6000_2067, 0];
        for (int i = 0; i < descriptors.Length; i++)
        {
            memory.TryWrite(DescriptorTable + ((ulong)i * 8), descriptors[i]);
        }
        memory.TryWrite(TaskState + 0x66, (ushort)0x68); // the permission map, which allows all ports
        for (int i = 0; i < Kinds.Length; i++)
        {
            memory.TryWrite(Code + ((ulong)i * 16), Kinds[i].Code);
        }
    }

    /// <summary>Puts the processor before a loop.</summary>
    public static void Enter(VirtualProcessor processor, int kind, int ring)
    {
        ProcessorState state = processor.GetState();
        ushort code = ring == 0 ? (ushort)0x08 : (ushort)0x23, data = ring == 0 ? (ushort)0x10 : (ushort)0x1B;
        uint level = (uint)ring << 5;
        Array.Fill(state.Segments, new SegmentState(data, 0, uint.MaxValue, 0xC093 | level));
        state.Segments[1] = new SegmentState(code, 0, uint.MaxValue, 0xA09B | level);
        state.TaskRegister = new SegmentState(0x28, TaskState, 0x2067, 0x8B);
        state.GlobalDescriptorTable = new TableRegister(DescriptorTable, 0x37);
        state.Cr0 = 0x8000_0033; // PG, NE, ET, MP, PE
        state.Cr3 = RootTable;
        state.Cr4 = 0x20; // PAE
        state.ModelSpecificRegisters[0xC000_0080] = 0x500; // EFER: LMA, LME
        Array.Clear(state.GeneralRegisters);
        state.GeneralRegisters[2] = DevicePort;
        state.GeneralRegisters[3] = DeviceAddress;
        state.InstructionPointer = Code + ((ulong)kind * 16);
        state.Flags = 2;
        state.Activity = ActivityState.Active;
        processor.SetState(state);
    }
}
