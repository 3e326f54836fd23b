using System.Buffers.Binary;
using Lodge.Engine.Time;

namespace Lodge.Engine.Translation.Processor;

// KVM's paravirtual clock and hypercalls (Linux Documentation/virt/kvm/x86/msr.rst, hypercalls.rst).
internal sealed unsafe partial class Vcpu
{
    private const ulong SystemTimeEnable = 1;
    private const byte TscStable = 1;
    private const int SystemTimeSize = 32, WallClockSize = 12;

    // KVM_EPERM and KVM_ENOSYS, negated.
    private const ulong HypercallNotPermitted = unchecked((ulong)-1), HypercallUnknown = unchecked((ulong)-1000);

    private ulong _wallClockMsr, _systemTimeMsr;
    private uint _systemTimeVersion;

    private void WriteWallClockMsr(ulong value)
    {
        _wallClockMsr = value;
        // struct pvclock_wall_clock: version, seconds, nanoseconds of the wall time at which the system time was zero.
        Span<byte> area = stackalloc byte[WallClockSize];
        if (!Memory.TryRead(value, area))
        {
            return;
        }
        uint version = (BinaryPrimitives.ReadUInt32LittleEndian(area) | 1) + 1;
        long start = Partition.WallClockAtZero();
        BinaryPrimitives.WriteUInt32LittleEndian(area, version);
        BinaryPrimitives.WriteUInt32LittleEndian(area[4..], (uint)(start / 1_000_000_000));
        BinaryPrimitives.WriteUInt32LittleEndian(area[8..], (uint)(start % 1_000_000_000));
        Memory.TryWrite(value, area);
    }

    private void WriteSystemTimeMsr(ulong value)
    {
        _systemTimeMsr = value;
        UpdateSystemTime();
    }

    private void TimestampChanged()
    {
        UpdateSystemTime();
        Apic.TimestampChanged();
    }

    /// <summary>Rewrites the guest's pvclock_vcpu_time_info after the relation of TSC and machine time changed. Only while this processor does not run guest code.</summary>
    internal void UpdateSystemTime()
    {
        if ((_systemTimeMsr & SystemTimeEnable) == 0)
        {
            return;
        }
        ulong address = _systemTimeMsr & ~SystemTimeEnable;
        TimeReference reference = Partition.TimeReference;
        (uint multiplier, sbyte shift) = TimeScale(Partition.TimestampFrequency);
        _systemTimeVersion += 2;
        Span<byte> area = stackalloc byte[SystemTimeSize];
        area.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(area, _systemTimeVersion - 1); // odd: being changed
        if (!Memory.TryWrite(address, area[..4]))
        {
            return;
        }
        BinaryPrimitives.WriteUInt64LittleEndian(area[8..], reference.HostTimestamp + B->TscOffset);
        BinaryPrimitives.WriteInt64LittleEndian(area[16..], reference.MachineTime);
        BinaryPrimitives.WriteUInt32LittleEndian(area[24..], multiplier);
        area[28] = (byte)shift;
        area[29] = TscStable;
        Memory.TryWrite(address + 4, area[4..]);
        Memory.TryWrite(address, _systemTimeVersion);
    }

    /// <summary>Guest TSC of a machine whose clock stands.</summary>
    internal ulong TimestampWhileStopped() => Partition.MachineTimestamp() + B->TscOffset;

    /// <summary>The host's counter went on by <paramref name="ticks"/> while the machine stood still.</summary>
    internal void ShiftTimestamp(ulong ticks)
    {
        B->TscOffset -= ticks;
        TimestampChanged();
    }

    /// <summary>Factor of nanoseconds per tick as pvclock has it: ns = ((ticks shifted left by shift) * multiplier) >> 32.</summary>
    internal static (uint Multiplier, sbyte Shift) TimeScale(long frequency)
    {
        // multiplier = 10^9 * 2^32 / (frequency * 2^shift), with shift such that it lies in [2^31, 2^32).
        int shift = 0;
        double factor = 1e9 / frequency;
        while (factor >= 1 && shift < 31)
        {
            factor /= 2;
            shift++;
        }
        while (factor < 0.5 && shift > -31)
        {
            factor *= 2;
            shift--;
        }
        const ulong Numerator = 1_000_000_000UL << 32;
        ulong multiplier = shift >= 0 ? Numerator / ((ulong)frequency << shift) : TickScale.Truncated(Numerator, 1UL << -shift, (ulong)frequency);
        return ((uint)Math.Min(multiplier, uint.MaxValue), (sbyte)shift);
    }

    // VMCALL and VMMCALL. No hypercall is advertised, and one that is unknown says so.
    private void ExecuteHypercall() => B->Gpr[0] = B->Cpl != 0 ? HypercallNotPermitted : HypercallUnknown;
}
