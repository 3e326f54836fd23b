using System.Globalization;
using Iced.Intel;
using Lodge.Engine.Memory;
using Lodge.Engine.Translation.Execution;

namespace Lodge.Engine.Translation.Lockstep;

/// <summary>What a processor is doing for a comparison.</summary>
internal enum ComparisonPhase
{
    /// <summary>Nothing is being compared.</summary>
    None,

    /// <summary>T1 runs a block; pages are copied before they are written.</summary>
    Translated,

    /// <summary>T0 runs the same instructions on the copies.</summary>
    Interpreted,
}

/// <summary>
/// The comparison of T0 with T1 while a guest runs, a switch for development: LODGE_LOCKSTEP=[chains:]PERIOD[:FIRST[:TOLERATED]]. Of every block the
/// FIRST executions (3) and every PERIOD-th one are compared, with period 0 only the first ones. With <c>chains</c> blocks are linked behind the first
/// ones, and every PERIOD-th time that the run loop enters translated code, all that runs until it leaves again, at the latest when another thread asks it to, is compared.
/// The run fails at the first divergence, or after TOLERATED ones, which are written to standard error.
/// </summary>
internal sealed class TierComparison : IDisposable
{
    private const string Variable = "LODGE_LOCKSTEP";
    private readonly long _period;
    private readonly long _first = 3;
    private readonly long _tolerated;
    private readonly GuestMemory _memory;
    private readonly bool _chains;
    private readonly AutoResetEvent _chainBegins = new(false);
    private Thread? _stopper;
    private volatile bool _disposed;
    private long _entries;
    private int _thread;
    private long _foreignWrites;

    /// <summary>Makes one for a processor's guest memory.</summary>
    /// <exception cref="ArgumentException">The setting is not understood.</exception>
    public TierComparison(GuestMemory memory, string setting)
    {
        const string Chains = "chains:";
        _chains = setting.StartsWith(Chains, StringComparison.Ordinal);
        string[] parts = (_chains ? setting[Chains.Length..] : setting).Split(':');
        if (parts.Length > 3 || !Number(parts[0], out _period) || (parts.Length > 1 && !Number(parts[1], out _first)) || (parts.Length > 2 && !Number(parts[2], out _tolerated)))
        {
            throw new ArgumentException($"{Variable} is '{setting}', not [chains:]PERIOD[:FIRST[:TOLERATED]]");
        }
        _memory = memory;
        Shadow = new ShadowMemory(memory);
        memory.AnyWritten += NoteWrite;
    }

    /// <summary>The comparison that the environment asks for, or null.</summary>
    /// <exception cref="ArgumentException">The variable is not understood, or there are several processors.</exception>
    public static TierComparison? FromEnvironment(GuestMemory memory, int processors)
    {
        string? setting = Environment.GetEnvironmentVariable(Variable);
        if (string.IsNullOrEmpty(setting))
        {
            return null;
        }
        return processors == 1 ? new TierComparison(memory, setting) : throw new ArgumentException($"{Variable} compares one processor, not {processors}");
    }

    /// <summary>Whether the environment asks for it.</summary>
    public static bool IsAsked => !string.IsNullOrEmpty(Environment.GetEnvironmentVariable(Variable));

    private static bool Number(string text, out long value) => long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out value);

    /// <summary>Counters for <c>--trace</c>.</summary>
    public long Blocks, DistinctBlocks, Chains, Instructions, Cut, GivenUp, Raced, Divergences;

    /// <summary>What is being done.</summary>
    public ComparisonPhase Phase { get; set; }

    /// <summary>Memory for T0.</summary>
    public ShadowMemory Shadow { get; }

    /// <summary>Registers before the block, after T1, after T0.</summary>
    public RegisterImage Before { get; } = new();

    /// <inheritdoc cref="Before"/>
    public RegisterImage AfterT1 { get; } = new();

    /// <inheritdoc cref="Before"/>
    public RegisterImage AfterT0 { get; } = new();

    /// <summary>T1 left at an instruction with effects outside the processor and RAM.</summary>
    public bool LeftAtEffect { get; set; }

    /// <summary>The next block is to be the careful variant.</summary>
    public bool NextIsCareful { get; set; }

    /// <summary>Counts an execution of a block; true when it is to be compared.</summary>
    public bool Wants(Block block)
    {
        long number = ++block.Executions;
        return number <= _first || (!_chains && _period != 0 && number % _period == 0);
    }

    /// <summary>Counts an entry of translated code; true when everything up to the next exit is to be compared.</summary>
    public bool WantsChain(Block block) => _chains && _period != 0 && block.Executions > _first && ++_entries % _period == 0;

    /// <summary>Whether a jump between two blocks may be linked: neither is to be compared alone any more.</summary>
    public bool MayLink(Block target) => (_chains || _period == 0) && target.Executions >= _first;

    /// <inheritdoc cref="MayLink(Block)"/>
    public bool MayLink(Block source, Block target) => MayLink(source) && MayLink(target);

    /// <summary>Begins a comparison.</summary>
    public void Begin()
    {
        _thread = Environment.CurrentManagedThreadId;
        Interlocked.Exchange(ref _foreignWrites, 0);
        Shadow.Clear();
        LeftAtEffect = false;
        Phase = ComparisonPhase.Translated;
    }

    /// <summary>Begins the comparison of a chain, which <paramref name="stop"/>, called on another thread, ends soon.</summary>
    public void BeginChain(Action stop)
    {
        Begin();
        if (_entries / _period % 2 == 0)
        {
            stop(); // every other one ends at the first jump backwards or by register
            return;
        }
        if (_stopper is null)
        {
            _stopper = new Thread(() =>
            {
                while (_chainBegins.WaitOne() && !_disposed)
                {
                    stop();
                }
            })
            { IsBackground = true, Name = "end of chain" };
            _stopper.Start();
        }
        _chainBegins.Set();
    }

    // Any thread.
    private void NoteWrite(ulong address, ulong length)
    {
        if (Environment.CurrentManagedThreadId != _thread)
        {
            Interlocked.Increment(ref _foreignWrites);
        }
    }

    /// <summary>Whether a device may have written RAM since <see cref="Begin"/>, so that the two tiers may have read different values.</summary>
    public bool DeviceWrote()
    {
        Thread.Sleep(20); // a device stores first and reports then
        return Interlocked.Read(ref _foreignWrites) != 0;
    }

    /// <summary>Counts a divergence; fails the run when there were too many.</summary>
    /// <exception cref="Processor.EngineFailure">More than are tolerated.</exception>
    public void Diverged(string report)
    {
        Divergences++;
        if (Divergences > _tolerated)
        {
            throw new Processor.EngineFailure(report);
        }
        Console.Error.WriteLine(report);
    }

    /// <summary>
    /// Whether an instruction that C# executes in both tiers may be executed twice: it changes nothing but registers and RAM, and reads nothing that
    /// changes by itself.
    /// </summary>
    public static bool IsRepeatable(in Instruction instruction)
    {
        if (InstructionKinds.Of(instruction) is InstructionKind.Copy or InstructionKind.CopyX87 or InstructionKind.Lea or InstructionKind.Nop)
        {
            return true;
        }
        return instruction.Mnemonic switch
        {
            Mnemonic.Pushf or Mnemonic.Pushfd or Mnemonic.Pushfq or Mnemonic.Popf or Mnemonic.Popfd or Mnemonic.Popfq or Mnemonic.Lahf or Mnemonic.Sahf
                or Mnemonic.Cld or Mnemonic.Std or Mnemonic.Cli or Mnemonic.Push or Mnemonic.Pop or Mnemonic.Leave or Mnemonic.Enter or Mnemonic.Pusha
                or Mnemonic.Pushad or Mnemonic.Popa or Mnemonic.Popad or Mnemonic.Xlatb
                or Mnemonic.Movsb or Mnemonic.Movsw or Mnemonic.Movsq or Mnemonic.Stosb or Mnemonic.Stosw or Mnemonic.Stosd or Mnemonic.Stosq
                or Mnemonic.Lodsb or Mnemonic.Lodsw or Mnemonic.Lodsd or Mnemonic.Lodsq or Mnemonic.Cmpsb or Mnemonic.Cmpsw or Mnemonic.Cmpsq
                or Mnemonic.Scasb or Mnemonic.Scasw or Mnemonic.Scasd or Mnemonic.Scasq
                or Mnemonic.Cpuid or Mnemonic.Xgetbv or Mnemonic.Clac or Mnemonic.Stac or Mnemonic.Swapgs or Mnemonic.Rdpid or Mnemonic.Rdpkru
                or Mnemonic.Rdfsbase or Mnemonic.Rdgsbase or Mnemonic.Wrfsbase or Mnemonic.Wrgsbase
                or Mnemonic.Fxsave or Mnemonic.Fxsave64 or Mnemonic.Fxrstor or Mnemonic.Fxrstor64 or Mnemonic.Xsave or Mnemonic.Xsave64
                or Mnemonic.Xsaveopt or Mnemonic.Xsaveopt64 or Mnemonic.Xsavec or Mnemonic.Xsavec64 or Mnemonic.Xrstor or Mnemonic.Xrstor64
                or Mnemonic.Ldmxcsr or Mnemonic.Stmxcsr or Mnemonic.Vldmxcsr or Mnemonic.Vstmxcsr
                or Mnemonic.Lar or Mnemonic.Lsl or Mnemonic.Verr or Mnemonic.Verw or Mnemonic.Str or Mnemonic.Sldt or Mnemonic.Sgdt or Mnemonic.Sidt
                or Mnemonic.Smsw or Mnemonic.Clflush or Mnemonic.Clflushopt or Mnemonic.Clwb
                or Mnemonic.Maskmovq or Mnemonic.Maskmovdqu or Mnemonic.Vmaskmovdqu or Mnemonic.Vmaskmovps or Mnemonic.Vmaskmovpd
                or Mnemonic.Vpmaskmovd or Mnemonic.Vpmaskmovq => true,
            Mnemonic.Movsd or Mnemonic.Cmpsd => instruction.IsStringInstruction,
            Mnemonic.Mov => !(instruction.Op0Kind == OpKind.Register && (instruction.Op0Register.IsCR() || instruction.Op0Register.IsDR()))
                && !(instruction.Op1Kind == OpKind.Register && (instruction.Op1Register.IsCR() || instruction.Op1Register.IsDR())),
            _ => false,
        };
    }

    /// <summary>Whether the tiers may both execute an instruction inside a chain.</summary>
    public static bool MayFollow(in Instruction instruction) =>
        IsRepeatable(instruction) || InstructionKinds.Of(instruction) == InstructionKind.Flow && instruction.Mnemonic != Mnemonic.Rdtsc
        || instruction.Mnemonic is Mnemonic.Syscall or Mnemonic.Sysretq;

    /// <inheritdoc/>
    public void Dispose()
    {
        _disposed = true;
        _chainBegins.Set();
        _stopper?.Join();
        _chainBegins.Dispose();
        _memory.AnyWritten -= NoteWrite;
        Shadow.Dispose();
        Before.Dispose();
        AfterT1.Dispose();
        AfterT0.Dispose();
    }
}

/// <summary>An instruction that is being compared reached a device: it is executed afterwards, once.</summary>
internal sealed class DeviceReached : Exception;
