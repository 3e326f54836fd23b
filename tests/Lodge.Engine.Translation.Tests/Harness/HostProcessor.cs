using System.Runtime.InteropServices;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Tests.Harness;

/// <summary>
/// Runs instructions on the host CPU itself with a full register file: the reference. Memory operands address a window of this process that lies at the
/// linear addresses that the guest uses.
/// </summary>
internal sealed unsafe partial class HostProcessor : IDisposable
{
    private const int CodeSize = 16 << 20, SlotSize = 2048;

    /// <summary>Bytes of the window that are data; below it lies room for signal frames.</summary>
    public const int WindowLength = 0xA000;

    private const ulong Room = 0x4_0000;
    private readonly CodeMemory _memory = new(CodeSize);
    private readonly ProcessorBlock* _block = (ProcessorBlock*)NativeMemory.AlignedAlloc((nuint)sizeof(ProcessorBlock), 4096);
    private readonly Emitter _e = new();
    private readonly byte* _leave;
    private readonly byte* _first;
    private byte* _at;

    public HostProcessor()
    {
        HostSignals.Install();
        NativeMemory.Clear(_block, (nuint)sizeof(ProcessorBlock));
        *(ushort*)_block->ExtendedState = 0x37F;
        _block->HostMxcsr = 0x1F80;
        _block->Self = (ulong)_block;
        const int ReadWrite = 3, PrivateAnonymousFixedNoReplace = 0x100022;
        void* wanted = (void*)(InstanceGenerator.DataStart - Room);
        if (mmap(wanted, (nuint)(Room + WindowLength), ReadWrite, PrivateAnonymousFixedNoReplace, -1, 0) != wanted)
        {
            throw new IOException("the address range of the data window is taken");
        }
        _e.Begin(_memory, _memory.Execute);

        // After a fault: the registers do not matter.
        byte* fault = _e.Here;
        _e.StoreImmediate64(Field.ExitInfo, ExitCode.HostFault);
        byte* toTail = _e.Jump();
        _e.Align(16);
        _leave = _e.Here;
        for (int i = 0; i < 16; i++)
        {
            _e.Store(i, Field.Gpr(i));
        }
        Stubs.PackFlags(_e, Field.PackedFlags);
        for (int i = 0; i < 16; i++)
        {
            _e.GsYmm(true, i, Field.Ymm + (i * 32));
        }
        _e.Gs(false, 0x0FAE, 3, Field.Mxcsr);
        _e.MovImmediate(Host.Rax, 1);
        _e.Reg(false, 0x33, Host.Rdx, Host.Rdx);
        _e.Gs(true, 0x0FAE, 4, Field.ExtendedState); // xsave64
        _e.Bind(toTail);
        _e.Byte(0xDB);
        _e.Byte(0xE3); // fninit
        _e.Gs(false, 0x0FAE, 2, Field.HostMxcsr);
        _e.Bytes([0xC5, 0xF8, 0x77]); // vzeroupper
        _e.Load(Host.Rsp, Field.HostRsp);
        _e.Bytes([0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C, 0x5B, 0x5D, 0xC3]); // pop r15 r14 r13 r12 rbx rbp; ret
        _e.Align(64);
        _first = _at = _e.Here;
        _block->FaultExit = (ulong)fault;
    }

    /// <summary>The data window.</summary>
    public static Span<byte> Window => new((void*)InstanceGenerator.DataStart, WindowLength);

    /// <summary>Runs code (which must not depend on where it lies) with the registers; the signal that ended it, or 0.</summary>
    public int Run(ReadOnlySpan<byte> code, RegisterFile registers, out RegisterFile result)
    {
        if (_at + SlotSize > _memory.Execute + CodeSize)
        {
            _at = _first;
        }
        byte* start = _at;
        _e.Begin(_memory, start);
        _e.Bytes([0x55, 0x53, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57]); // push rbp rbx r12 r13 r14 r15
        _e.Store(Host.Rsp, Field.HostRsp);
        _e.StoreImmediate64(Field.ExtendedState + 512, 1);
        _e.MovImmediate(Host.Rax, 1);
        _e.Reg(false, 0x33, Host.Rdx, Host.Rdx);
        _e.Gs(true, 0x0FAE, 5, Field.ExtendedState); // xrstor64
        for (int i = 0; i < 16; i++)
        {
            _e.GsYmm(false, i, Field.Ymm + (i * 32));
        }
        _e.Gs(false, 0x0FAE, 2, Field.Mxcsr);
        Stubs.UnpackFlags(_e);
        for (int i = 0; i < 16; i++)
        {
            _e.Load(i, Field.Gpr(i));
        }
        _e.Bytes(code);
        _e.JumpTo(_leave);
        _at = (byte*)(((nint)_e.Here + 63) & ~63);
        registers.Load(_block);
        _block->ExitInfo = 0;
        HostSignals.SetGsBase(_block);
        ((delegate* unmanaged<void>)start)();
        result = RegisterFile.Save(_block);
        result.Flags |= registers.Flags & ~RegisterFile.ArithmeticFlags;
        return (int)_block->ExitInfo == ExitCode.HostFault ? (int)_block->FaultSignal : 0;
    }

    public void Dispose()
    {
        munmap((void*)(InstanceGenerator.DataStart - Room), (nuint)(Room + WindowLength));
        _memory.Dispose();
        NativeMemory.AlignedFree(_block);
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial void* mmap(void* address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc")]
    private static partial int munmap(void* address, nuint length);
}
