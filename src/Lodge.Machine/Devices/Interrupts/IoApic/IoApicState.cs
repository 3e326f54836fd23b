using Lodge.Engine.State;
using static Lodge.Machine.Devices.Interrupts.IoApic.IoApicRegisters;

namespace Lodge.Machine.Devices.Interrupts.IoApic;

/// <summary>Registers of the I/O APIC, live and saved.</summary>
internal sealed class IoApicState : ISavedState<IoApicState>
{
    /// <summary>Number of inputs and redirection entries.</summary>
    public const int Entries = 24;

    public static int Version => 1;

    /// <summary>IOAPICID, bits 27:24 in place.</summary>
    public uint Id { get; set; }

    /// <summary>IOREGSEL.</summary>
    public byte Select { get; set; }

    /// <summary>Levels of the inputs.</summary>
    public uint Inputs { get; set; }

    /// <summary>IOREDTBL. All masked after reset (82093AA, 3.2.4).</summary>
    public ulong[] Redirection { get; private init; } = Enumerable.Repeat(Masked, Entries).ToArray();

    public void Write(StateWriter writer)
    {
        writer.UInt64(1, Id);
        writer.UInt64(2, Select);
        writer.UInt64(3, Inputs);
        writer.UInt64Array(4, Redirection);
    }

    public static IoApicState Read(StateReader reader)
    {
        var state = new IoApicState
        {
            Id = reader.UInt32(1) & IdMask,
            Select = reader.UInt8(2),
            Inputs = reader.UInt32(3, 0, (1U << Entries) - 1),
        };
        if (reader.Has(4))
        {
            ulong[] saved = reader.UInt64Array(4, Entries);
            for (int i = 0; i < Entries; i++)
            {
                ulong entry = saved[i] & (Writable | RemoteIrr);
                state.Redirection[i] = (entry & Level) != 0 ? entry : entry & ~RemoteIrr;
            }
        }
        return state;
    }
}
