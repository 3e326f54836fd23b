using System.Globalization;
using System.Text;
using Lodge.Engine;
using Lodge.Engine.Processor;

namespace Lodge.Machine.Debugging;

// General query packets (gdb manual, E.4) and the monitor commands.
internal sealed partial class GdbSession
{
    private const int ThreadsPerReply = 64;

    private const string MonitorHelp = """
        info registers   registers of the current CPU, system registers among them
        reset            reset the machine; it stays stopped
        help             this text

        """;

    private string ServeQuery(string packet)
    {
        int colon = packet.IndexOf(':');
        string argument = colon < 0 ? "" : packet[(colon + 1)..];
        switch (colon < 0 ? packet : packet[..colon])
        {
            case "qSupported":
                string[] features = argument.Split(';');
                _softwareStops = features.Contains("swbreak+");
                _hardwareStops = features.Contains("hwbreak+");
                return $"PacketSize={PacketReader.MaximumLength:x};qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+";
            case "qXfer":
                return ReadFeatures(argument);
            case "QStartNoAckMode":
                NoAcknowledgements = true;
                return Ok;
            case "qAttached":
                return "1"; // a client that leaves does not end the machine
            case "qC":
                return $"QC{ThreadOf(_current):x}";
            case "qfThreadInfo":
                _listed = 0;
                return ListThreads();
            case "qsThreadInfo":
                return ListThreads();
        }
        if (packet.StartsWith("qThreadExtraInfo,", StringComparison.Ordinal))
        {
            return TryThread(packet.AsSpan("qThreadExtraInfo,".Length), out VirtualProcessor? processor) ? HexText.Text(Describe(processor)) : Invalid;
        }
        if (packet.StartsWith("qRcmd,", StringComparison.Ordinal))
        {
            return HexText.Bytes(packet.AsSpan("qRcmd,".Length)) is { } command ? Monitor(Encoding.UTF8.GetString(command).Trim()) : Invalid;
        }
        return Unsupported;
    }

    /// <summary><c>features:read:target.xml:offset,length</c></summary>
    private string ReadFeatures(string argument)
    {
        const string Document = "features:read:target.xml:";
        if (!argument.StartsWith(Document, StringComparison.Ordinal))
        {
            return argument.StartsWith("features:read:", StringComparison.Ordinal) ? "E00" : Unsupported;
        }
        if (!HexText.TryPair(argument.AsSpan(Document.Length), ',', out ulong offset, out ulong length) || offset > (ulong)_description.Length)
        {
            return "E01";
        }
        int start = (int)offset;
        int count = (int)Math.Min(Math.Min(length, PacketReader.MaximumLength / 2), (ulong)(_description.Length - start));
        return (start + count == _description.Length ? "l" : "m") + Encoding.ASCII.GetString(_description, start, count);
    }

    private string ListThreads()
    {
        int count = Math.Min(ThreadsPerReply, _target.Processors.Count - _listed);
        if (count <= 0)
        {
            return "l";
        }
        string reply = "m" + string.Join(',', Enumerable.Range(_listed + 1, count).Select(i => i.ToString("x", CultureInfo.InvariantCulture)));
        _listed += count;
        return reply;
    }

    private static string Describe(VirtualProcessor processor)
    {
        ProcessorState state = processor.GetState();
        string activity = state.Activity switch
        {
            ActivityState.Active => "active",
            ActivityState.Halted => "halted",
            ActivityState.Shutdown => "shut down",
            _ => "waiting for start-up",
        };
        bool longMode = state.ModelSpecificRegisters.TryGetValue(Efer, out ulong efer) && (efer & (1 << 10)) != 0;
        uint code = state.Segments[1].Attributes;
        string mode = (state.Cr0 & 1) == 0 ? "real mode" : (state.Flags & (1 << 17)) != 0 ? "virtual-8086 mode" : longMode && (code & (1 << 13)) != 0 ? "64-bit"
            : (code & (1 << 14)) != 0 ? "32-bit" : "16-bit";
        return $"CPU {processor.Index}, {mode}, {activity}";
    }

    private const uint Efer = 0xC000_0080;

    private string Monitor(string command)
    {
        switch (command)
        {
            case "info registers":
                SendText(RegisterText());
                return Ok;
            case "reset" or "system_reset":
                _pending.Clear();
                _target.Reset();
                return Ok;
            case "help" or "":
                SendText(MonitorHelp);
                return Ok;
            default:
                SendText("unknown monitor command; try 'monitor help'\n");
                return Ok;
        }
    }

    private void SendText(string text)
    {
        for (int at = 0; at < text.Length; at += 1024)
        {
            Send("O" + HexText.Text(text.Substring(at, Math.Min(1024, text.Length - at))));
        }
    }

    private string RegisterText()
    {
        ProcessorState s = _current.GetState();
        StringBuilder text = new();
        text.Append(CultureInfo.InvariantCulture, $"{Describe(_current)}\n");
        string[] general = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];
        for (int i = 0; i < 16; i++)
        {
            text.Append(CultureInfo.InvariantCulture, $"{general[i],-3} {s.GeneralRegisters[i]:x16}{(i % 4 == 3 ? "\n" : " ")}");
        }
        text.Append(CultureInfo.InvariantCulture, $"RIP {s.InstructionPointer:x16} RFLAGS {s.Flags:x8}\n");
        string[] segments = ["ES", "CS", "SS", "DS", "FS", "GS"];
        for (int i = 0; i < 6; i++)
        {
            AppendSegment(text, segments[i], s.Segments[i]);
        }
        AppendSegment(text, "LDT", s.LocalDescriptorTable);
        AppendSegment(text, "TR", s.TaskRegister);
        text.Append(CultureInfo.InvariantCulture, $"GDT {s.GlobalDescriptorTable.Base:x16} {s.GlobalDescriptorTable.Limit:x4}\n");
        text.Append(CultureInfo.InvariantCulture, $"IDT {s.InterruptDescriptorTable.Base:x16} {s.InterruptDescriptorTable.Limit:x4}\n");
        text.Append(CultureInfo.InvariantCulture, $"CR0 {s.Cr0:x8} CR2 {s.Cr2:x16} CR3 {s.Cr3:x16} CR4 {s.Cr4:x8} CR8 {s.Cr8:x}\n");
        text.Append(CultureInfo.InvariantCulture, $"EFER {s.ModelSpecificRegisters.GetValueOrDefault(Efer):x} DR6 {s.Dr6:x8} DR7 {s.Dr7:x8}\n");
        return text.ToString();
    }

    private static void AppendSegment(StringBuilder text, string name, SegmentState segment) =>
        text.Append(CultureInfo.InvariantCulture, $"{name,-3} {segment.Selector:x4} {segment.Base:x16} {segment.Limit:x8} {segment.Attributes:x5}\n");
}
