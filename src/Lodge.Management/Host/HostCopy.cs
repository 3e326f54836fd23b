using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Host;

/// <summary>Copies of files by the host's kernel: where the file system can, both share their blocks until one is written to (Linux ioctl_ficlone(2)), else blocks that hold data are copied (copy_file_range(2)).</summary>
public static partial class HostCopy
{
    private const nuint CloneRequest = 0x40049409; // FICLONE, _IOW(0x94, 9, int)
    private const int SeekData = 3, SeekHole = 4;  // lseek(2)
    private const int ErrorNoSuchAddress = 6, ErrorInterrupted = 4, ErrorNoSpace = 28, ErrorQuota = 122, ErrorInputOutput = 5;
    private const long Part = 64 << 20;

    /// <summary>Copies a file, with its holes; durable when it returns, but for the new name.</summary>
    /// <param name="source">The file; nobody may write to it meanwhile.</param>
    /// <param name="path">The copy, which is not there yet.</param>
    /// <param name="progress">Told what part is done, 0 to 1.</param>
    /// <param name="cancellation">Ends the work between two parts.</param>
    /// <exception cref="IOException">The host refuses; what there is of the copy is removed.</exception>
    public static void Copy(string source, string path, IProgress<double>? progress = null, CancellationToken cancellation = default)
    {
        using SafeFileHandle from = File.OpenHandle(source, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        using SafeFileHandle to = File.OpenHandle(path, FileMode.CreateNew, FileAccess.ReadWrite);
        try
        {
            if (Control(to, CloneRequest, from) != 0)
            {
                CopyData(from, to, progress, cancellation);
            }
            RandomAccess.FlushToDisk(to);
            progress?.Report(1);
        }
        catch
        {
            File.Delete(path);
            throw;
        }
    }

    /// <summary>Copies an open file, with its holes; not durable.</summary>
    /// <param name="source">The file; nobody may write to it meanwhile.</param>
    /// <param name="copy">An empty file.</param>
    /// <exception cref="IOException">The host refuses.</exception>
    public static void Copy(SafeFileHandle source, SafeFileHandle copy)
    {
        if (Control(copy, CloneRequest, source) != 0)
        {
            CopyData(source, copy, null, default);
        }
    }

    private static void CopyData(SafeFileHandle from, SafeFileHandle to, IProgress<double>? progress, CancellationToken cancellation)
    {
        long length = RandomAccess.GetLength(from);
        RandomAccess.SetLength(to, length);
        for (long at = 0; at < length;)
        {
            long data = Seek(from, at, SeekData);
            if (data < 0 && Marshal.GetLastPInvokeError() == ErrorNoSuchAddress)
            {
                return; // a hole to the end
            }
            data = data < 0 ? at : data;
            long hole = Seek(from, data, SeekHole);
            hole = hole <= data || hole > length ? length : hole;
            for (at = data; at < hole;)
            {
                cancellation.ThrowIfCancellationRequested();
                at += CopyPart(from, to, at, Math.Min(Part, hole - at));
                progress?.Report((double)at / length);
            }
        }
    }

    private static long CopyPart(SafeFileHandle from, SafeFileHandle to, long at, long length)
    {
        while (true)
        {
            long input = at, output = at;
            nint count = CopyRange(from, ref input, to, ref output, (nuint)length, 0);
            if (count > 0)
            {
                return count;
            }
            int error = count == 0 ? 0 : Marshal.GetLastPInvokeError();
            if (error is ErrorNoSpace or ErrorQuota or ErrorInputOutput)
            {
                throw new IOException(Marshal.GetPInvokeErrorMessage(error));
            }
            if (error != ErrorInterrupted)
            {
                return CopyByHand(from, to, at, length); // not between these two file systems
            }
        }
    }

    private static long CopyByHand(SafeFileHandle from, SafeFileHandle to, long at, long length)
    {
        byte[] buffer = new byte[1 << 20];
        for (long done = 0; done < length;)
        {
            int count = RandomAccess.Read(from, buffer.AsSpan(0, (int)Math.Min(buffer.Length, length - done)), at + done);
            if (count == 0)
            {
                throw new IOException("the file was cut while it was copied");
            }
            RandomAccess.Write(to, buffer.AsSpan(0, count), at + done);
            done += count;
        }
        return length;
    }

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Control(SafeHandle file, nuint request, SafeHandle argument);

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    private static partial long Seek(SafeHandle file, long offset, int whence);

    [LibraryImport("libc", EntryPoint = "copy_file_range", SetLastError = true)]
    private static partial nint CopyRange(SafeHandle from, ref long input, SafeHandle to, ref long output, nuint length, uint flags);
}
