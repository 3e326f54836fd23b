using System.Buffers.Binary;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Translation.Interrupts;

// The saved form: the register page in xAPIC layout and the MSRs, the same for all engines.
internal sealed partial class LocalApic
{
    /// <summary>Writes the APIC's part of a processor's state. The processor is stopped.</summary>
    internal void Save(ProcessorState state)
    {
        CompleteParavirtualEoi();
        byte[] page = new byte[1024];
        void Put(uint register, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(page.AsSpan((int)register), value);
        Put(ApicRegister.Id, X2Apic ? ApicId : ApicId << 24);
        Put(ApicRegister.Version, VersionValue);
        Put(ApicRegister.TaskPriority, _taskPriority);
        Put(ApicRegister.ProcessorPriority, ProcessorPriority);
        Put(ApicRegister.LogicalDestination, X2Apic ? X2LogicalId : _logicalDestination);
        Put(ApicRegister.DestinationFormat, _destinationFormat);
        Put(ApicRegister.SpuriousInterrupt, _spurious);
        for (uint i = 0; i < 8; i++)
        {
            Put(ApicRegister.InService + (i * 16), _isr[i]);
            Put(ApicRegister.TriggerMode + (i * 16), _tmr[i]);
            Put(ApicRegister.InterruptRequest + (i * 16), _irr[i]);
        }
        Put(ApicRegister.ErrorStatus, _errorStatus);
        Put(ApicRegister.InterruptCommandLow, _interruptCommandLow);
        Put(ApicRegister.InterruptCommandHigh, _interruptCommandHigh);
        for (int i = 0; i < Lvt.Count; i++)
        {
            Put(ApicRegister.LocalVectorTable + ((uint)i * 16), _lvt[i]);
        }
        Put(ApicRegister.InitialCount, _initialCount);
        Put(ApicRegister.CurrentCount, SavedCount());
        Put(ApicRegister.DivideConfiguration, _divideConfiguration);
        state.LocalApic = page;
        state.Cr8 = TaskPriority;
        state.ModelSpecificRegisters[ApicMsr.Base] = _base;
        state.ModelSpecificRegisters[ApicMsr.TscDeadline] = TscDeadline;
        state.NmiPending = HasNmi;
        state.PendingInit = _initPending != 0;
        state.PendingSipi = _startUpVector;
    }

    /// <summary>Takes the APIC's part of a processor's state, which is not trusted; the TSC must have been restored before. The processor is stopped.</summary>
    internal void Restore(ProcessorState state)
    {
        StopTimer();
        byte[] page = new byte[1024];
        state.LocalApic.AsSpan(0, Math.Min(state.LocalApic.Length, page.Length)).CopyTo(page);
        uint Get(uint register) => BinaryPrimitives.ReadUInt32LittleEndian(page.AsSpan((int)register));
        if (state.ModelSpecificRegisters.TryGetValue(ApicMsr.Base, out ulong value))
        {
            ulong modes = value & (ApicMsr.GlobalEnable | ApicMsr.X2Apic);
            ulong address = value & ~0xFFFUL & ((1UL << _vcpu.Model.PhysicalBits) - 1);
            _base = address | (value & ApicMsr.Bootstrap) | (modes == ApicMsr.X2Apic ? 0 : modes);
        }
        _taskPriority = Get(ApicRegister.TaskPriority) & 0xFF;
        _logicalDestination = Get(ApicRegister.LogicalDestination) & 0xFF00_0000;
        _destinationFormat = Get(ApicRegister.DestinationFormat) | 0x0FFF_FFFF;
        _spurious = Get(ApicRegister.SpuriousInterrupt) & SpuriousWritable;
        for (uint i = 0; i < 8; i++)
        {
            uint legal = i == 0 ? 0xFFFF_0000 : uint.MaxValue;
            _isr[i] = Get(ApicRegister.InService + (i * 16)) & legal;
            _tmr[i] = Get(ApicRegister.TriggerMode + (i * 16)) & legal;
            _irr[i] = Get(ApicRegister.InterruptRequest + (i * 16)) & legal;
        }
        _errorStatus = Get(ApicRegister.ErrorStatus);
        _errors = 0;
        _interruptCommandLow = Get(ApicRegister.InterruptCommandLow) & CommandWritable;
        _interruptCommandHigh = Get(ApicRegister.InterruptCommandHigh);
        for (int i = 0; i < Lvt.Count; i++)
        {
            _lvt[i] = Get(ApicRegister.LocalVectorTable + ((uint)i * 16)) & Lvt.Writable(i);
        }
        RestoreTimer(Get(ApicRegister.InitialCount), Get(ApicRegister.CurrentCount), Get(ApicRegister.DivideConfiguration) & DivideWritable,
            state.ModelSpecificRegisters.GetValueOrDefault(ApicMsr.TscDeadline));
        _nmiPending = state.NmiPending ? 1 : 0;
        _initPending = state.PendingInit ? 1 : 0;
        _startUpVector = state.PendingSipi is >= 0 and <= 255 ? state.PendingSipi : NoStartUp;
        _externalMessage = 0;
        _paravirtualEoiPending = false;
        UpdateMemoryBase();
        _vcpu.NotifyInterrupt();
    }

    // A one-shot count that has reached its end and whose interrupt has not been sent yet, as time was stopped in between, ends a tick after the restore: 0 says that it was sent.
    private uint SavedCount()
    {
        lock (_timerGate)
        {
            return TimerMode == TimerModes.OneShot && _expiry is not null ? Math.Max(1, CountAt(Now)) : CurrentCount;
        }
    }

    private void RestoreTimer(uint initial, uint current, uint divide, ulong deadline)
    {
        lock (_timerGate)
        {
            _divideConfiguration = divide;
            _initialCount = TimerMode is TimerModes.OneShot or TimerModes.Periodic ? initial : 0;
            long done = _initialCount - (long)Math.Min(current, _initialCount);
            _countStart = Now - (done << DivideShift);
            if (TimerMode == TimerModes.Periodic || current != 0)
            {
                ArmCount();
            }
        }
        TscDeadline = deadline;
    }
}
