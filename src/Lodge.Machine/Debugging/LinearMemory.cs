using Lodge.Engine;
using Lodge.Engine.Memory;

namespace Lodge.Machine.Debugging;

/// <summary>
/// Guest memory at the linear addresses of one processor, as its page tables map them now. Only RAM: what a load from device memory would do to the
/// device nobody can know.
/// </summary>
internal static class LinearMemory
{
    private const ulong PageSize = GuestMemory.PageSize;

    /// <summary>Reads as far as there is RAM.</summary>
    /// <returns>Bytes read.</returns>
    public static int Read(IDebugTarget target, VirtualProcessor processor, ulong linear, Span<byte> destination)
    {
        int done = 0;
        while (done < destination.Length)
        {
            int chunk = Chunk(linear, destination.Length - done);
            if (!processor.TryTranslate(linear, out ulong physical) || !target.Memory.TryRead(physical, destination.Slice(done, chunk)))
            {
                break;
            }
            done += chunk;
            linear += (ulong)chunk;
        }
        return done;
    }

    /// <summary>Writes all, regardless of the guest's page protection, or nothing when some of it is not RAM.</summary>
    public static bool TryWrite(IDebugTarget target, VirtualProcessor processor, ulong linear, ReadOnlySpan<byte> source)
    {
        ulong at = linear;
        for (int done = 0; done < source.Length;)
        {
            int chunk = Chunk(at, source.Length - done);
            if (!processor.TryTranslate(at, out ulong physical) || !target.Memory.TryGetOffset(physical, (ulong)chunk, out _))
            {
                return false;
            }
            done += chunk;
            at += (ulong)chunk;
        }
        while (!source.IsEmpty)
        {
            int chunk = Chunk(linear, source.Length);
            if (!processor.TryTranslate(linear, out ulong physical) || !target.Memory.TryWrite(physical, source[..chunk]))
            {
                return false; // only when the write changed the page tables that map it
            }
            source = source[chunk..];
            linear += (ulong)chunk;
        }
        return true;
    }

    private static int Chunk(ulong linear, int length) => (int)Math.Min((ulong)length, PageSize - (linear & (PageSize - 1)));
}
