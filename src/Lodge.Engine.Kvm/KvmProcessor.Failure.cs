using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Kvm.Memory;

namespace Lodge.Engine.Kvm;

// What KVM could not do, and where in the guest, in one line.
internal sealed unsafe partial class KvmProcessor
{
    private const uint Emulation = 1, SimultaneousExceptions = 2, DeliveryEvent = 3, UnexpectedExit = 4;
    private const ulong InstructionBytesValid = 1;

    private string DescribeFailure(KvmRun* run)
    {
        string what = run->ExitReason switch
        {
            KvmExit.FailEntry => $"the processor refused to enter the guest (hardware reason 0x{run->HardwareReason:x} on host processor {run->HardwareProcessor}): its state is not valid",
            KvmExit.Unknown => $"exit unknown to KVM (hardware reason 0x{run->HardwareReason:x})",
            KvmExit.InternalError => run->InternalSuberror switch
            {
                Emulation => "KVM cannot emulate an instruction",
                SimultaneousExceptions => "exceptions came together in a way that KVM cannot handle",
                DeliveryEvent => "KVM got an exit while it delivered an event",
                UnexpectedExit => $"KVM got an exit that it does not expect (hardware reason 0x{Data(run, 0):x})",
                uint other => $"KVM's internal error {other}",
            },
            KvmExit.MemoryFault => $"KVM cannot reach host memory behind guest address 0x{run->MemoryFaultAddress:x} ({run->MemoryFaultSize} bytes)",
            KvmExit.SystemEvent => $"system event {run->SystemEventType}",
            KvmExit.Halt => "HLT left the kernel, which keeps it itself with its local APIC",
            KvmExit.Exception => "exception exit",
            var other => $"KVM exit {(uint)other}, which this engine does not ask for",
        };
        bool withBytes = run->ExitReason == KvmExit.InternalError && run->InternalSuberror == Emulation && run->InternalDataCount >= 4
            && (run->InternalData[0] & InstructionBytesValid) != 0 && run->InstructionLength is > 0 and <= 15;
        string bytes = withBytes ? Convert.ToHexStringLower(new ReadOnlySpan<byte>(run->InstructionBytes, run->InstructionLength)) : "";
        return what + Where(bytes);
    }

    private static ulong Data(KvmRun* run, int index) => (uint)index < run->InternalDataCount ? run->InternalData[index] : 0;

    // Registers of a failed processor are read for this only; that they cannot be must not hide the failure.
    private string Where(string bytes)
    {
        try
        {
            KvmSregs s = _handle.SpecialRegisters;
            KvmRegs r = _handle.Registers;
            bool protectedMode = (s.Cr0 & 1) != 0, virtual8086 = (r.Rflags & (1 << 17)) != 0;
            string mode = !protectedMode ? "real mode" : virtual8086 ? "virtual-8086 mode" : s.Cs.L != 0 ? $"64-bit mode, ring {s.Ss.Dpl}" : $"{(s.Cs.Db != 0 ? 32 : 16)}-bit mode, ring {s.Ss.Dpl}";
            ulong linear = s.Cs.L != 0 ? r.Rip : (uint)(s.Cs.Base + r.Rip);
            if (bytes.Length == 0)
            {
                Span<byte> code = stackalloc byte[15];
                int length = 0;
                for (; length < code.Length; length++)
                {
                    if (!PageWalk.TryTranslate(_partition.Options.Memory, s, linear + (uint)length, out ulong physical) || !_partition.Options.Memory.TryRead(physical, code.Slice(length, 1)))
                    {
                        break;
                    }
                }
                bytes = length == 0 ? "not in RAM" : Convert.ToHexStringLower(code[..length]);
            }
            return $"; at {s.Cs.Selector:x4}:{r.Rip:x} (linear 0x{linear:x}, {mode}), code {bytes}, cr0 {s.Cr0:x} cr3 {s.Cr3:x} cr4 {s.Cr4:x} efer {s.Efer:x}";
        }
        catch (KvmException)
        {
            return "";
        }
    }
}
