using System.Buffers.Binary;
using System.Diagnostics;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Machine.Saving;

/// <summary>A snapshot that was taken and is being written while the guest runs.</summary>
/// <param name="Pause">How long the guest was held; zero when it did not run.</param>
/// <param name="Written">Completes when the file is whole and durable. Fails with <see cref="IOException"/> and no file, or is cancelled.</param>
public sealed record MachineSnapshot(TimeSpan Pause, Task<SaveResult> Written);

/// <summary>Saves machines to files (docs/saved-machines.md). A file has its name when it is whole and durable, and what had the name before stays until then.</summary>
public static class MachineImage
{
    /// <summary>Saves a machine that is paused or never ran; it stays so, and nobody can start it meanwhile.</summary>
    /// <param name="machine">The machine.</param>
    /// <param name="path">The file; one that is there is replaced.</param>
    /// <param name="options">How.</param>
    /// <param name="cancellation">Ends it with <see cref="OperationCanceledException"/> and no file.</param>
    /// <exception cref="IOException">The file cannot be written; there is none.</exception>
    /// <exception cref="InvalidOperationException">The machine runs or has ended.</exception>
    /// <exception cref="NotSupportedException">libzstd is missing.</exception>
    public static SaveResult Save(VirtualMachine machine, string path, SaveOptions? options = null, CancellationToken cancellation = default)
    {
        if (machine.State == MachineRunState.Running)
        {
            throw new InvalidOperationException("the machine runs");
        }
        SaveResult result = null!;
        machine.Hold(() =>
        {
            using MemoryImage image = machine.Memory.CurrentImage();
            result = Write(machine, machine.SaveState(), image, path, options ?? new SaveOptions(), cancellation);
        });
        return result;
    }

    /// <summary>
    /// Holds a machine for a moment, keeps its state and, copy-on-write, its RAM, and lets it go on if it ran; the file is written in the background. Returns when the
    /// machine goes on. One at a time for each machine.
    /// </summary>
    /// <param name="machine">The machine.</param>
    /// <param name="path">The file; one that is there is replaced.</param>
    /// <param name="whilePaused">Called while the machine is held, for what must be of the same moment (disks). When it throws, there is no snapshot and the machine goes on.</param>
    /// <param name="options">How.</param>
    /// <param name="cancellation">Ends the writing, with no file.</param>
    /// <exception cref="IOException">The host has no memory for it.</exception>
    /// <exception cref="InvalidOperationException">The machine has ended, or a snapshot of it is being written.</exception>
    public static MachineSnapshot BeginSnapshot(VirtualMachine machine, string path, Action? whilePaused = null, SaveOptions? options = null, CancellationToken cancellation = default)
    {
        options ??= new SaveOptions();
        var taken = new TaskCompletionSource<TimeSpan>();
        var written = new TaskCompletionSource<SaveResult>(TaskCreationOptions.RunContinuationsAsynchronously);
        // One thread for all of it: a process that keeps RAM ends with the thread that made it.
        var thread = new Thread(() => Run(machine, path, whilePaused, options, taken, written, cancellation)) { IsBackground = true, Name = "snapshot" };
        thread.Start();
        return new MachineSnapshot(taken.Task.GetAwaiter().GetResult(), written.Task);
    }

    private static void Run(VirtualMachine machine, string path, Action? whilePaused, SaveOptions options, TaskCompletionSource<TimeSpan> taken, TaskCompletionSource<SaveResult> written, CancellationToken cancellation)
    {
        MemoryImage? image = null;
        try
        {
            machine.Memory.FinishLoading();
            byte[] state = [];
            TimeSpan pause = machine.Hold(() =>
            {
                // The state first: who is asked for it may settle in RAM what is shared with the guest there (a paravirtual end of interrupt).
                state = machine.SaveState();
                image = machine.Memory.TakeSnapshot();
                whilePaused?.Invoke();
            });
            taken.SetResult(pause);
            SaveResult result = Write(machine, state, image!, path, options, cancellation);
            image!.Dispose();
            written.SetResult(result);
        }
        catch (Exception e)
        {
            image?.Dispose();
            if (!taken.TrySetException(e))
            {
                if (e is OperationCanceledException)
                {
                    written.SetCanceled(cancellation);
                }
                else
                {
                    written.SetException(e);
                }
            }
        }
    }

    private static SaveResult Write(VirtualMachine machine, byte[] state, MemoryImage image, string path, SaveOptions options, CancellationToken cancellation)
    {
        long begin = Stopwatch.GetTimestamp();
        try
        {
            using NewFile file = NewFile.Create(path);
            File.SetUnixFileMode(file.Handle, UnixFileMode.UserRead | UnixFileMode.UserWrite); // the guest's secrets are in it
            List<PagedChunk> chunks = MemoryWriter.Write(image, file.Handle, SavedMachineHeader.Length, options, cancellation, out long end);
            long frames = end - SavedMachineHeader.Length;
            var metadata = new StateWriter();
            metadata.Nested(1, new SavedMachineMetadata
            {
                Name = options.Name,
                Time = DateTimeOffset.UtcNow,
                Version = options.Version,
                Processors = machine.Partition.Processors.Count,
                MemorySize = image.Size,
                Notes = options.Notes,
            });
            var header = new SavedMachineHeader
            {
                ChunkShift = MemoryWriter.ChunkShift,
                MemorySize = image.Size,
                Metadata = Append(file, metadata.ToArray(), ref end),
                State = Append(file, state, ref end),
                Index = Append(file, Index(chunks), ref end),
                FileLength = (ulong)end,
            };
            RandomAccess.Write(file.Handle, header.ToArray(), 0);
            cancellation.ThrowIfCancellationRequested();
            file.Publish();
            long memory = 0;
            foreach (PagedChunk chunk in chunks)
            {
                memory += (long)Math.Min(1UL << MemoryWriter.ChunkShift, image.Size - ((ulong)chunk.Chunk << MemoryWriter.ChunkShift));
            }
            return new SaveResult(end, memory, frames, Stopwatch.GetElapsedTime(begin));
        }
        catch (DiskException e)
        {
            throw new IOException(e.Message, e);
        }
        catch (UnauthorizedAccessException e)
        {
            throw new IOException(e.Message, e);
        }
    }

    private static FileSection Append(NewFile file, byte[] bytes, ref long end)
    {
        var section = new FileSection((ulong)end, (ulong)bytes.Length, SavedMachineHeader.Sum(bytes));
        RandomAccess.Write(file.Handle, bytes, end);
        end += bytes.Length;
        return section;
    }

    private static byte[] Index(List<PagedChunk> chunks)
    {
        byte[] index = new byte[checked(chunks.Count * SavedMachineHeader.EntryLength)];
        for (int i = 0; i < chunks.Count; i++)
        {
            Span<byte> entry = index.AsSpan(i * SavedMachineHeader.EntryLength);
            BinaryPrimitives.WriteUInt64LittleEndian(entry, chunks[i].Offset);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[8..], chunks[i].Chunk);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[12..], chunks[i].Length);
        }
        return index;
    }
}
