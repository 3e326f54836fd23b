using System.Runtime.InteropServices;

namespace Lodge.Management.Sandbox;

/// <summary>An instruction of classic BPF, <c>struct sock_filter</c> (Linux, networking/filter.rst).</summary>
/// <param name="Code">Class, size, mode and operation.</param>
/// <param name="JumpTrue">Instructions to skip when a condition holds.</param>
/// <param name="JumpFalse">Instructions to skip when it does not.</param>
/// <param name="Operand">Constant, offset or distance.</param>
[StructLayout(LayoutKind.Sequential)]
internal readonly record struct BpfInstruction(ushort Code, byte JumpTrue, byte JumpFalse, uint Operand)
{
    /// <summary>A = word at offset: <c>BPF_LD | BPF_W | BPF_ABS</c>.</summary>
    public const ushort Load = 0x20;

    /// <summary>A &amp;= constant: <c>BPF_ALU | BPF_AND | BPF_K</c>.</summary>
    public const ushort And = 0x54;

    /// <summary>Skip: <c>BPF_JMP | BPF_JA</c>.</summary>
    public const ushort Jump = 0x05;

    /// <summary>A == constant: <c>BPF_JMP | BPF_JEQ | BPF_K</c>.</summary>
    public const ushort JumpEqual = 0x15;

    /// <summary>A &gt;= constant, unsigned: <c>BPF_JMP | BPF_JGE | BPF_K</c>.</summary>
    public const ushort JumpNotBelow = 0x35;

    /// <summary>A &amp; constant is not 0: <c>BPF_JMP | BPF_JSET | BPF_K</c>.</summary>
    public const ushort JumpAnySet = 0x45;

    /// <summary>The verdict: <c>BPF_RET | BPF_K</c>.</summary>
    public const ushort Return = 0x06;
}

/// <summary>Writes a program of classic BPF with labels: jumps go forward only, and conditional ones at most 255 instructions.</summary>
internal sealed class BpfAssembler
{
    private readonly List<BpfInstruction> _code = [];
    private readonly List<(int At, int Label)> _jumps = [];
    private readonly List<int> _labels = [];

    /// <summary>A new label, to be placed later.</summary>
    public int NewLabel()
    {
        _labels.Add(-1);
        return _labels.Count - 1;
    }

    /// <summary>Places a label here.</summary>
    public void Place(int label) => _labels[label] = _code.Count;

    /// <summary>A = word at an offset.</summary>
    public void Load(int offset) => _code.Add(new BpfInstruction(BpfInstruction.Load, 0, 0, (uint)offset));

    /// <summary>A &amp;= mask.</summary>
    public void And(uint mask) => _code.Add(new BpfInstruction(BpfInstruction.And, 0, 0, mask));

    /// <summary>Ends with a verdict.</summary>
    public void Return(uint verdict) => _code.Add(new BpfInstruction(BpfInstruction.Return, 0, 0, verdict));

    /// <summary>Goes on at a label, however far.</summary>
    public void Jump(int label)
    {
        _jumps.Add((_code.Count, label));
        _code.Add(new BpfInstruction(BpfInstruction.Jump, 0, 0, 0));
    }

    /// <summary>Goes to a label when a condition holds, however far.</summary>
    /// <param name="condition">One of the conditional jumps.</param>
    /// <param name="operand">Its constant.</param>
    /// <param name="label">The label.</param>
    public void JumpIf(ushort condition, uint operand, int label)
    {
        _code.Add(new BpfInstruction(condition, 0, 1, operand));
        Jump(label);
    }

    /// <summary>Goes to a label when a condition does not hold, however far.</summary>
    public void JumpUnless(ushort condition, uint operand, int label)
    {
        _code.Add(new BpfInstruction(condition, 1, 0, operand));
        Jump(label);
    }

    /// <summary>The program.</summary>
    /// <exception cref="InvalidOperationException">A label was not placed, or lies behind a jump to it.</exception>
    public BpfInstruction[] Assemble()
    {
        BpfInstruction[] program = [.. _code];
        foreach ((int at, int label) in _jumps)
        {
            int distance = _labels[label] - at - 1;
            program[at] = distance >= 0 ? program[at] with { Operand = (uint)distance } : throw new InvalidOperationException("a jump goes backward");
        }
        return program;
    }
}
