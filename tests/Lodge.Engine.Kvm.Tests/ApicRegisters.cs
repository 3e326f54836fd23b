using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>What guests do to their local APIC, by its memory-mapped registers. RBP holds its address after <see cref="EnableApic"/>; EAX is lost.</summary>
internal static class ApicRegisters
{
    public const int Id = 0x20, EndOfInterrupt = 0xB0, Spurious = 0xF0, CommandLow = 0x300, CommandHigh = 0x310, Timer = 0x320, Lint0 = 0x350, Lint1 = 0x360, InitialCount = 0x380,
        CurrentCount = 0x390, Divide = 0x3E0;

    public static void EnableApic(this Assembler a)
    {
        a.mov(rbp, 0xFEE0_0000UL);
        a.Apic(Spurious, 0x1FF);
    }

    public static void Apic(this Assembler a, int register, uint value)
    {
        a.mov(eax, value);
        a.mov(__dword_ptr[rbp + register], eax);
    }

    /// <summary>A loop that waits for interrupts.</summary>
    public static void WaitForInterrupts(this Assembler a)
    {
        Label again = a.CreateLabel();
        a.Label(ref again);
        a.sti();
        a.hlt();
        a.jmp(again);
    }

    /// <summary>An interrupt handler that counts at <paramref name="counter"/>, tells the bus by a port and ends the interrupt.</summary>
    public static void CountingHandler(this Assembler a, ulong counter, byte port)
    {
        a.push(rax);
        a.push(rbx);
        a.mov(rbx, counter);
        a.mov(eax, __dword_ptr[rbx]);
        a.inc(eax);
        a.mov(__dword_ptr[rbx], eax);
        a.mov(rbx, 0xFEE0_0000UL + EndOfInterrupt);
        a.mov(__dword_ptr[rbx], 0);
        a.@out(port, eax);
        a.pop(rbx);
        a.pop(rax);
        a.iretq();
    }
}

/// <summary>An eventfd of the test's.</summary>
internal sealed class EventDescriptor : IDisposable
{
    public EventDescriptor() => Number = Interop.Libc.eventfd(0, Interop.Libc.EFD_CLOEXEC | Interop.Libc.EFD_NONBLOCK);

    public int Number { get; }

    /// <summary>Signals.</summary>
    public void Write()
    {
        using var handle = new Microsoft.Win32.SafeHandles.SafeFileHandle(Number, ownsHandle: false);
        RandomAccess.Write(handle, BitConverter.GetBytes(1UL), 0);
    }

    /// <summary>Takes the count of signals.</summary>
    public ulong Take()
    {
        try
        {
            using var handle = new Microsoft.Win32.SafeHandles.SafeFileHandle(Number, ownsHandle: false);
            byte[] count = new byte[8];
            RandomAccess.Read(handle, count, 0);
            return BitConverter.ToUInt64(count);
        }
        catch (IOException)
        {
            return 0; // nothing signalled
        }
    }

    public void Dispose() => Interop.Libc.close(Number);
}
