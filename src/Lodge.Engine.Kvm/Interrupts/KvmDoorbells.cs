using Lodge.Engine.Kvm.Interop;

namespace Lodge.Engine.Kvm.Interrupts;

/// <summary>Doorbells by ioeventfd.</summary>
internal sealed class KvmDoorbells(KvmVirtualMachine machine) : IDoorbells
{
    /// <inheritdoc/>
    public bool TryAttach(in Doorbell doorbell, int eventDescriptor)
    {
        try
        {
            machine.SetIoeventfd(Describe(doorbell, eventDescriptor));
            return true;
        }
        catch (KvmException)
        {
            return false;
        }
    }

    /// <inheritdoc/>
    public void Detach(in Doorbell doorbell, int eventDescriptor)
    {
        KvmIoeventfd binding = Describe(doorbell, eventDescriptor);
        binding.Flags |= KvmIoeventfd.Deassign;
        try
        {
            machine.SetIoeventfd(binding);
        }
        catch (KvmException)
        {
            // The virtual machine is gone, and the binding with it.
        }
    }

    private static KvmIoeventfd Describe(in Doorbell doorbell, int eventDescriptor) => new()
    {
        Address = doorbell.Address,
        Length = (uint)doorbell.Width,
        EventDescriptor = eventDescriptor,
        DataMatch = doorbell.Value ?? 0,
        Flags = (doorbell.IsPort ? KvmIoeventfd.Port : 0) | (doorbell.Value is null ? 0 : KvmIoeventfd.DataMatchFlag),
    };
}
