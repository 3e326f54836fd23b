using Lodge.Engine.Kvm.Interop;
using Xunit;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>The kernel's structures have the sizes that its request numbers carry (bits 16 to 29).</summary>
public unsafe class StructureTests
{
    [Theory]
    [InlineData(KvmIoctl.KVM_GET_REGS, 144)]
    [InlineData(KvmIoctl.KVM_SET_MSRS, 8)]
    public void RequestsCarrySizes(uint request, int size) => Assert.Equal(size, Size(request));

    [Fact]
    public void StructuresHaveTheirSizes()
    {
        Assert.Equal(Size(KvmIoctl.KVM_GET_REGS), sizeof(KvmRegs));
        Assert.Equal(Size(KvmIoctl.KVM_GET_SREGS), sizeof(KvmSregs));
        Assert.Equal(Size(KvmIoctl.KVM_GET_SREGS2), sizeof(KvmSregs2));
        Assert.Equal(Size(KvmIoctl.KVM_GET_FPU), sizeof(KvmFpu));
        Assert.Equal(Size(KvmIoctl.KVM_GET_XCRS), sizeof(KvmXcrs));
        Assert.Equal(Size(KvmIoctl.KVM_GET_DEBUGREGS), sizeof(KvmDebugRegs));
        Assert.Equal(Size(KvmIoctl.KVM_GET_VCPU_EVENTS), sizeof(KvmVcpuEvents));
        Assert.Equal(Size(KvmIoctl.KVM_TRANSLATE), sizeof(KvmTranslation));
        Assert.Equal(Size(KvmIoctl.KVM_SET_GUEST_DEBUG), sizeof(KvmGuestDebug));
        Assert.Equal(Size(KvmIoctl.KVM_SET_USER_MEMORY_REGION), sizeof(KvmMemoryRegion));
        Assert.Equal(Size(KvmIoctl.KVM_GET_DIRTY_LOG), sizeof(KvmDirtyLog));
        Assert.Equal(Size(KvmIoctl.KVM_CLEAR_DIRTY_LOG), sizeof(KvmClearDirtyLog));
        Assert.Equal(Size(KvmIoctl.KVM_IRQFD), sizeof(KvmIrqfd));
        Assert.Equal(Size(KvmIoctl.KVM_IOEVENTFD), sizeof(KvmIoeventfd));
        Assert.Equal(Size(KvmIoctl.KVM_SIGNAL_MSI), sizeof(KvmMsi));
        Assert.Equal(Size(KvmIoctl.KVM_ENABLE_CAP), sizeof(KvmEnableCap));
        Assert.Equal(Size(KvmIoctl.KVM_GET_CLOCK), sizeof(KvmClockData));
        Assert.Equal(Size(KvmIoctl.KVM_SET_DEVICE_ATTR), sizeof(KvmDeviceAttribute));
        Assert.Equal(Size(KvmIoctl.KVM_X86_SET_MSR_FILTER), 8 + (16 * sizeof(KvmMsrFilterRange)));
        Assert.Equal(48, sizeof(KvmMessageRoute));
        Assert.Equal(40, sizeof(KvmCpuidEntry));
        Assert.Equal(16, sizeof(KvmMsrEntry));
        Assert.Equal(16, sizeof(KvmDirtyGfn));
        Assert.Equal(2352, sizeof(KvmRun));
    }

    private static int Size(uint request) => (int)(request >> 16) & 0x3FFF;
}
