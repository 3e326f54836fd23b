using System.Buffers.Binary;

namespace Lodge.Storage.Tests.Kill;

/// <summary>What a writer tells.</summary>
public enum KillEvent : byte
{
    Ready = 1,
    Begin,
    End,
    CloseBegin,
    CloseEnd,
    Failed,
}

/// <summary>A message of a writer through its pipe, eight bytes written by one system call.</summary>
public readonly record struct KillRecord(KillEvent Event, int Worker, int Number)
{
    public const int Size = 8;

    public void Write(Span<byte> bytes)
    {
        bytes[0] = (byte)Event;
        bytes[1] = (byte)Worker;
        bytes[2] = bytes[3] = 0;
        BinaryPrimitives.WriteInt32LittleEndian(bytes[4..], Number);
    }

    public static KillRecord Read(ReadOnlySpan<byte> bytes) => new((KillEvent)bytes[0], bytes[1], BinaryPrimitives.ReadInt32LittleEndian(bytes[4..]));
}
