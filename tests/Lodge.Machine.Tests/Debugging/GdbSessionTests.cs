using System.Buffers.Binary;
using System.Text;
using System.Xml.Linq;
using Lodge.Engine;
using Lodge.Engine.Processor;
using Lodge.Machine.Debugging;
using Xunit;

namespace Lodge.Machine.Tests.Debugging;

public sealed class GdbSessionTests : IDisposable
{
    private readonly FakeDebugTarget _target = new();
    private readonly List<string> _sent = [];
    private readonly GdbSession _session;

    public GdbSessionTests()
    {
        _session = new GdbSession(_target, data => _sent.Add(Encoding.Latin1.GetString(data)));
    }

    public void Dispose() => _target.Dispose();

    private string? Ask(string packet)
    {
        _sent.Clear();
        Assert.True(_session.Receive(Encoding.Latin1.GetBytes(packet)));
        return _sent.Count == 0 ? null : Assert.Single(_sent);
    }

    private static string Text(string hex) => Encoding.UTF8.GetString(Convert.FromHexString(hex));

    private string Description()
    {
        StringBuilder text = new();
        while (true)
        {
            string part = Ask($"qXfer:features:read:target.xml:{text.Length:x},400")!;
            text.Append(part.AsSpan(1));
            if (part[0] == 'l')
            {
                return text.ToString();
            }
        }
    }

    [Fact]
    public void Holds_the_machine_and_says_so()
    {
        Assert.False(_target.Running);
        Assert.Equal("T05thread:1;", Ask("?"));
        Assert.Equal("1", Ask("qAttached"));
        Assert.Equal("QC1", Ask("qC"));
    }

    [Fact]
    public void Offers_what_it_can_do()
    {
        string features = Ask("qSupported:multiprocess+;swbreak+;hwbreak+")!;
        Assert.Contains("PacketSize=4000", features, StringComparison.Ordinal);
        Assert.Contains("qXfer:features:read+", features, StringComparison.Ordinal);
        Assert.Equal("", Ask("vMustReplyEmpty"));
        Assert.Equal("", Ask("qSymbol::"));
        Assert.Equal("vCont;c;C;s;S;t", Ask("vCont?"));
        Assert.Equal("OK", Ask("QStartNoAckMode"));
        Assert.True(_session.NoAcknowledgements);
    }

    [Fact]
    public void Target_description_numbers_the_registers_of_the_g_packet()
    {
        XElement root = XDocument.Parse(Description().Replace("<!DOCTYPE target SYSTEM \"gdb-target.dtd\">", "", StringComparison.Ordinal)).Root!;
        Assert.Equal("i386:x86-64", root.Element("architecture")!.Value);
        XElement[] registers = [.. root.Elements("feature").SelectMany(f => f.Elements("reg"))];
        Assert.Equal(Enumerable.Range(0, registers.Length), registers.Select(r => (int)r.Attribute("regnum")!));
        Assert.Equal(Ask("g")!.Length / 2, registers.Sum(r => (int)r.Attribute("bitsize")! / 8));
        Assert.Equal(["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"], registers.Take(8).Select(r => (string)r.Attribute("name")!));
        Assert.Contains(registers, r => (string)r.Attribute("name")! == "ymm15h");
        Assert.Equal("E00", Ask("qXfer:features:read:other.xml:0,10"));
        Assert.Equal("E01", Ask("qXfer:features:read:target.xml:100000,10"));
        using var old = new FakeDebugTarget(1, CpuModelName.V1);
        Assert.DoesNotContain(new RegisterSet(old.Model).Registers, r => r.Name.StartsWith("ymm", StringComparison.Ordinal));
    }

    [Fact]
    public void Every_register_holds_what_is_written()
    {
        RegisterSet set = new(_target.Model);
        for (int i = 0; i < set.Registers.Count; i++)
        {
            RegisterDefinition register = set.Registers[i];
            string value = register.Name switch
            {
                "eflags" => "d70a3f00",
                "mxcsr" => "801f0000",
                "cr0" => "1100008000000000",
                "ftag" => "fffc0000",
                "fctrl" or "fstat" or "fiseg" or "foseg" or "fop" => "34120000",
                "cs" or "ss" or "ds" or "es" or "fs" or "gs" => "00120000", // protection is off
                _ => string.Concat(Enumerable.Range(0, register.Bytes).Select(b => ((i * 7) + b & 0xFF).ToString("x2"))),
            };
            if (register.Name is "eflags")
            {
                value = "d70a0000";
            }
            else if (register.Name is "cr0")
            {
                continue; // last: the selectors depend on it
            }
            Assert.Equal("OK", Ask($"P{i:x}={value}"));
            if (register.Name != "ftag")
            {
                Assert.Equal(value, Ask($"p{i:x}"));
            }
        }
        Assert.Equal(0x12000UL, _target.Cpus[0].State.Segments[1].Base);
        Assert.Equal("E16", Ask($"p{set.Registers.Count:x}"));
        Assert.Equal("E16", Ask("P0=00"));
        Assert.Equal("E16", Ask("P0"));
        Assert.Equal("E16", Ask("p"));
    }

    [Fact]
    public void Registers_are_where_gdb_looks_for_them()
    {
        ProcessorState state = _target.Cpus[0].State;
        for (int i = 0; i < 16; i++)
        {
            state.GeneralRegisters[i] = 0x1000UL + (ulong)i;
        }
        state.InstructionPointer = 0xFFFF_FFFF_8100_0000;
        state.Flags = 0x246;
        byte[] all = Convert.FromHexString(Ask("g")!);
        ulong At(int index) => BinaryPrimitives.ReadUInt64LittleEndian(all.AsSpan(index * 8));
        Assert.Equal(0x1003UL, At(1)); // rbx
        Assert.Equal(0x1001UL, At(2)); // rcx
        Assert.Equal(0x1004UL, At(7)); // rsp
        Assert.Equal(0x100FUL, At(15));
        Assert.Equal(0xFFFF_FFFF_8100_0000, At(16));
        Assert.Equal(0x246U, BinaryPrimitives.ReadUInt32LittleEndian(all.AsSpan(17 * 8)));
    }

    [Fact]
    public void All_registers_are_written_at_once_or_refused()
    {
        byte[] all = Convert.FromHexString(Ask("g")!);
        all[0] = 0x99;
        Assert.Equal("OK", Ask("G" + Convert.ToHexString(all)));
        Assert.Equal(0x99UL, _target.Cpus[0].State.GeneralRegisters[0]);
        Assert.Equal("E05", Ask("G" + Convert.ToHexString(all) + "00"));
        Assert.Equal("E16", Ask("G123"));
        Assert.Equal("E16", Ask("Gxy"));
    }

    [Fact]
    public void A_value_that_no_processor_can_hold_is_refused()
    {
        int cr0 = new RegisterSet(_target.Model).Registers.ToList().FindIndex(r => r.Name == "cr0");
        Assert.Equal("E05", Ask($"P{cr0:x}=0000000001000000"));
        _target.Cpus[0].State.Cr0 = 1;
        Assert.Equal("E05", Ask("P12=08000000")); // a selector without its descriptor
    }

    [Fact]
    public void Tags_say_what_each_x87_register_holds()
    {
        byte[] area = _target.Cpus[0].State.ExtendedState;
        area[512] = 1;
        area[3] = 0x30; // TOP = 6
        area[4] = 0b1100_0001; // registers 6, 7 and 0: ST0, ST1, ST2
        BinaryPrimitives.WriteUInt64LittleEndian(area.AsSpan(32), 1UL << 63);
        area[40] = 0xFF;
        area[41] = 0x3F; // ST0 = 1.0; ST1 = 0; ST2 = denormal
        area[64] = 1;
        int tag = new RegisterSet(_target.Model).Registers.ToList().FindIndex(r => r.Name == "ftag");
        Assert.Equal("fe4f0000", Ask($"p{tag:x}")); // 01 00 11 11 11 11 11 10 from register 7 down
    }

    [Fact]
    public void Memory_is_read_and_written_at_linear_addresses()
    {
        _target.Memory.TryWrite(0xFFE, [0x11, 0x22, 0x33, 0x44]);
        Assert.Equal("11223344", Ask("m40000ffe,4")); // two pages
        Assert.Equal("OK", Ask("M40000fff,2:aabb"));
        Assert.Equal("11aabb44", Ask("m40000ffe,4"));
        Assert.Equal("OK", Ask("X40000ffe,4:\u0001#}\u0080"));
        Assert.Equal("01237d80", Ask("m40000ffe,4"));
        Assert.Equal("", Ask("m40000000,0"));
        Assert.Equal("OK", Ask("X40000000,0:"));
    }

    [Fact]
    public void Devices_and_holes_are_refused_without_touching_them()
    {
        Assert.Equal("E0e", Ask($"m{FakeDebugTarget.Device:x},4"));
        Assert.Equal("E0e", Ask("m0,1"));
        Assert.Equal("E0e", Ask($"M{FakeDebugTarget.Device:x},1:00"));
        Assert.Equal("0000", Ask($"m{FakeDebugTarget.Device - 2:x},8")); // what there is
        Assert.Equal("E0e", Ask($"M{FakeDebugTarget.Device - 1:x},2:ffff"));
        Assert.Equal("00", Ask($"m{FakeDebugTarget.Device - 1:x},1")); // nothing of it
        Assert.Equal("E0e", Ask("mffffffffffffffff,10"));
    }

    [Fact]
    public void Continuing_gives_every_processor_the_breakpoints_sorted_by_kind()
    {
        Assert.Equal("OK", Ask("Z0,1000,1"));
        Assert.Equal("OK", Ask("Z1,1000,1"));
        Assert.Equal("OK", Ask("Z0,1000,1"));
        Assert.Equal("OK", Ask("Z2,2000,8"));
        Assert.Equal("OK", Ask("Z3,3000,4"));
        Assert.Equal("OK", Ask("Z4,4000,2"));
        Assert.Equal("OK", Ask("z0,1000,1")); // Z1 stays
        Assert.Null(Ask("vCont;c"));
        Assert.True(_target.Running);
        Assert.Null(_target.Resumed);
        foreach (DebuggedProcessor processor in _target.Cpus)
        {
            Assert.False(processor.Request.SingleStep);
            Assert.Equal([0x1000UL], processor.Request.Breakpoints);
            Assert.Equal(
                [new Watchpoint(0x2000, 8, false, true), new Watchpoint(0x3000, 4, true, false), new Watchpoint(0x4000, 2, true, true)],
                processor.Request.Watchpoints.OrderBy(w => w.Address));
        }
        _session.Interrupt();
        Ask("z1,1000,1");
        Ask("c");
        Assert.Empty(_target.Cpus[0].Request.Breakpoints);
    }

    [Theory]
    [InlineData("Z5,1000,1")]
    [InlineData("Z0")]
    [InlineData("Z0,")]
    [InlineData("Z0,1000")]
    [InlineData("Z0,zz,1")]
    [InlineData("Z0,1000,1;X1,0")]
    public void A_breakpoint_that_is_not_understood_is_refused(string packet) => Assert.Equal("E16", Ask(packet));

    [Fact]
    public void Breakpoints_are_bounded()
    {
        Assert.Equal("E05", Ask("Z2,1000,0"));
        Assert.Equal("E05", Ask("Z2,1000,1001"));
        Assert.Equal("OK", Ask("z2,1000,ffffffffffffffff"));
        for (int i = 0; i < BreakpointTable.Maximum; i++)
        {
            Assert.Equal("OK", Ask($"Z0,{i:x},1"));
        }
        Assert.Equal("E05", Ask("Z0,ffff0000,1"));
    }

    [Fact]
    public void Stops_tell_the_thread_and_the_reason()
    {
        Ask("qSupported:swbreak+;hwbreak+");
        Ask("Z0,1000,1");
        Ask("Z1,1100,1");
        Ask("Z2,2000,8");
        Ask("Z4,2000,8");
        Ask("Z3,3000,4");
        Assert.Equal("T05thread:2;swbreak:;", StopAfter("c", 1, new DebugEvent(DebugEventKind.Breakpoint, 0x1000, false)));
        Assert.Equal("QC2", Ask("qC"));
        Assert.Equal("T05thread:1;hwbreak:;", StopAfter("c", 0, new DebugEvent(DebugEventKind.Breakpoint, 0x1100, false)));
        Assert.Equal("T05thread:1;watch:2000;", StopAfter("c", 0, new DebugEvent(DebugEventKind.Watchpoint, 0x2000, true)));
        Assert.Equal("T05thread:1;awatch:2000;", StopAfter("c", 0, new DebugEvent(DebugEventKind.Watchpoint, 0x2000, false)));
        Assert.Equal("T05thread:1;rwatch:3000;", StopAfter("c", 0, new DebugEvent(DebugEventKind.Watchpoint, 0x3000, false)));
        Assert.Equal("T05thread:1;", StopAfter("vCont;s:1;c", 0, new DebugEvent(DebugEventKind.Step, 0x1001, false)));
        Assert.Equal("T05thread:1;", Ask("?"));
    }

    private string StopAfter(string command, int processor, DebugEvent debugEvent)
    {
        Assert.Null(Ask(command));
        Assert.True(_session.Running);
        _sent.Clear();
        _target.Cpus[processor].Tell(debugEvent);
        _session.Stopped([_target.Cpus[processor]]);
        Assert.False(_session.Running);
        return Assert.Single(_sent);
    }

    [Fact]
    public void A_watchpoint_hit_at_the_same_moment_is_told_of_next()
    {
        Ask("Z2,2000,8");
        Ask("Z0,1000,1");
        Ask("c");
        _sent.Clear();
        _target.Cpus[0].Tell(new DebugEvent(DebugEventKind.Breakpoint, 0x1000, false));
        _target.Cpus[1].Tell(new DebugEvent(DebugEventKind.Watchpoint, 0x2000, true));
        _session.Stopped([_target.Cpus[0], _target.Cpus[1]]);
        Assert.Equal("T05thread:1;", Assert.Single(_sent));
        _target.Pause();
        Assert.Equal("T05thread:2;watch:2000;", Ask("vCont;c"));
        Assert.False(_target.Running);
        Assert.Null(Ask("vCont;c"));
        Assert.True(_target.Running);
    }

    [Fact]
    public void Threads_step_and_stand_by_the_first_action_that_names_them()
    {
        Assert.Null(Ask("vCont;s:2;c"));
        Assert.Null(_target.Resumed);
        Assert.Equal((false, true), (_target.Cpus[0].Request.SingleStep, _target.Cpus[1].Request.SingleStep));
        _session.Interrupt();
        Assert.Null(Ask("vCont;s:2"));
        Assert.Equal([1], _target.Resumed!);
        _session.Interrupt();
        Assert.Null(Ask("vCont;t:1;C05:-1"));
        Assert.Equal([1], _target.Resumed!);
        Assert.False(_target.Cpus[1].Request.SingleStep);
        _session.Interrupt();
        Assert.Null(Ask("vCont;S05:1"));
        Assert.Equal([0], _target.Resumed!);
        Assert.True(_target.Cpus[0].Request.SingleStep);
    }

    [Theory]
    [InlineData("vCont;")]
    [InlineData("vCont;t")]
    [InlineData("vCont;c:3")]
    [InlineData("vCont;c:zz")]
    [InlineData("vCont;x")]
    [InlineData("vCont;Cxx")]
    [InlineData("czz")]
    [InlineData("Cxx")]
    [InlineData("S05;zz")]
    public void Resuming_that_is_not_understood_is_refused(string packet)
    {
        Assert.Equal("E16", Ask(packet));
        Assert.False(_target.Running);
    }

    [Fact]
    public void The_simple_forms_step_the_selected_thread_from_an_address()
    {
        Assert.Equal("OK", Ask("Hc2"));
        Assert.Null(Ask("s1234"));
        Assert.True(_target.Cpus[1].Request.SingleStep);
        Assert.False(_target.Cpus[0].Request.SingleStep);
        Assert.Equal(0x1234UL, _target.Cpus[1].State.InstructionPointer);
        _session.Interrupt();
        Assert.Equal("OK", Ask("Hc-1"));
        Assert.Equal("OK", Ask("Hg1"));
        Assert.Null(Ask("S05;4321"));
        Assert.Equal(0x4321UL, _target.Cpus[0].State.InstructionPointer);
    }

    [Fact]
    public void Processors_are_threads()
    {
        Assert.Equal("m1,2", Ask("qfThreadInfo"));
        Assert.Equal("l", Ask("qsThreadInfo"));
        Assert.Equal("CPU 1, real mode, active", Text(Ask("qThreadExtraInfo,2")!));
        Assert.Equal("OK", Ask("T2"));
        Assert.Equal("E16", Ask("T3"));
        Assert.Equal("E16", Ask("T0"));
        Assert.Equal("OK", Ask("Hg2"));
        _target.Cpus[1].State.GeneralRegisters[0] = 0x77;
        Assert.Equal("7700000000000000", Ask("p0"));
        Assert.Equal("OK", Ask("Hg0"));
        Assert.Equal("E16", Ask("Hg9"));
        Assert.Equal("E16", Ask("Hx1"));
        Assert.Equal("E16", Ask("H"));
        using var many = new FakeDebugTarget(200);
        List<string> sent = [];
        var session = new GdbSession(many, d => sent.Add(Encoding.Latin1.GetString(d)));
        session.Receive("qfThreadInfo"u8);
        for (int i = 0; i < 10 && sent[^1] != "l"; i++)
        {
            session.Receive("qsThreadInfo"u8);
        }
        Assert.Equal(200, sent.Where(s => s[0] == 'm').Sum(s => s.Split(',').Length));
    }

    [Fact]
    public void Interrupting_holds_a_running_machine_only()
    {
        _sent.Clear();
        _session.Interrupt();
        Assert.Empty(_sent);
        Ask("c");
        _session.Interrupt();
        Assert.Equal("T02thread:1;", Assert.Single(_sent));
        Assert.False(_target.Running);
    }

    [Fact]
    public void Monitor_shows_registers_and_resets()
    {
        _sent.Clear();
        _session.Receive(Encoding.ASCII.GetBytes("qRcmd," + Convert.ToHexString("info registers"u8)));
        Assert.Equal("OK", _sent[^1]);
        string text = string.Concat(_sent.SkipLast(1).Select(s => Text(s[1..])));
        Assert.Contains("RIP 000000000000fff0", text, StringComparison.Ordinal);
        Assert.Equal("OK", Ask("qRcmd," + Convert.ToHexString("reset"u8)));
        Assert.Equal(1, _target.Resets);
        _session.Receive(Encoding.ASCII.GetBytes("qRcmd," + Convert.ToHexString("dance"u8)));
        Assert.Contains("monitor help", Text(_sent[^2][1..]), StringComparison.Ordinal);
        Assert.Equal("E16", Ask("qRcmd,xyz"));
    }

    [Fact]
    public void Detaching_takes_breakpoints_away_and_lets_the_machine_go_on()
    {
        Ask("Z0,1000,1");
        Ask("vCont;s:1");
        _session.Interrupt();
        _sent.Clear();
        Assert.False(_session.Receive("D"u8));
        Assert.Equal("OK", Assert.Single(_sent));
        Assert.True(_target.Running);
        Assert.Null(_target.Resumed);
        Assert.Equal(DebugRequest.None, _target.Cpus[0].Request);
    }

    [Fact]
    public void Killing_ends_the_machine()
    {
        Assert.Equal("OK", Ask("vKill;1"));
        Assert.True(_target.StopRequested);
        using var other = new FakeDebugTarget();
        Assert.False(new GdbSession(other, _ => { }).Receive("k"u8));
        Assert.True(other.StopRequested);
    }

    [Fact]
    public void The_end_of_the_machine_is_told()
    {
        Ask("c");
        _sent.Clear();
        _session.Finish();
        Assert.Equal("W00", Assert.Single(_sent));
        Assert.Equal("W00", Ask("?"));
        Assert.Equal("W00", Ask("c"));
    }

    [Fact]
    public void Random_packets_do_no_harm()
    {
        var random = new Random(2);
        string[] starts = ["", "g", "G", "p", "P", "m", "M", "X", "c", "s", "C", "S", "vCont;", "vCont", "Z", "z", "H", "T", "q", "Q", "qXfer:features:read:target.xml:", "qRcmd,", "qThreadExtraInfo,", "?", "v", "\u0080"];
        const string Alphabet = "0123456789abcdefcsCStz,;:=-#}\0\u00ffg";
        for (int i = 0; i < 50_000; i++)
        {
            StringBuilder text = new(starts[random.Next(starts.Length)]);
            for (int k = random.Next(12); k > 0; k--)
            {
                text.Append(Alphabet[random.Next(Alphabet.Length)]);
            }
            _session.Receive(Encoding.Latin1.GetBytes(text.ToString()));
            if (_session.Running)
            {
                _session.Interrupt();
            }
            _sent.Clear();
        }
        Assert.Equal("1", Ask("qAttached"));
    }
}
