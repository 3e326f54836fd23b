using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Storage.Compression;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Machine.Saving;

/// <summary>When RAM of a restored machine is read.</summary>
public enum MemoryLoading
{
    /// <summary>While the guest runs where the host can do that, else before.</summary>
    Automatic,

    /// <summary>All before the guest runs.</summary>
    Eager,
}

/// <summary>A restored machine, ready to start.</summary>
/// <param name="IsLazy">Whether its RAM is being read while it runs.</param>
/// <param name="Reason">Why not, when that was wanted.</param>
/// <param name="Loaded">Completes when all of RAM is there; fails with <see cref="IOException"/> when it cannot be read, which ends the machine with <see cref="MachineOutcomeKind.EngineFailure"/>.</param>
public sealed record MachineRestore(bool IsLazy, string? Reason, Task Loaded);

/// <summary>A saved machine that is open for reading (docs/saved-machines.md). The file is not trusted.</summary>
public sealed class SavedMachine : IDisposable
{
    private readonly SafeFileHandle _file;
    private readonly SavedMachineHeader _header;
    private readonly string _path;
    private readonly PagedChunk[] _chunks;
    private readonly byte[] _state;

    private SavedMachine(string path, SafeFileHandle file, SavedMachineHeader header)
    {
        (_path, _file, _header) = (path, file, header);
        Metadata = new StateReader(Read(header.Metadata, "metadata")).Nested(1, new SavedMachineMetadata());
        _state = Read(header.State, "state");
        _chunks = ReadIndex();
    }

    /// <summary>What it tells of itself.</summary>
    public SavedMachineMetadata Metadata { get; }

    /// <summary>Bytes of RAM.</summary>
    public ulong MemorySize => _header.MemorySize;

    /// <summary>Bytes of the file.</summary>
    public long FileLength => (long)_header.FileLength;

    /// <summary>For <see cref="VirtualMachine.RestoreState"/>.</summary>
    public ReadOnlyMemory<byte> State => _state;

    /// <summary>Opens one and checks everything but the contents of RAM.</summary>
    /// <exception cref="IOException">It cannot be read.</exception>
    /// <exception cref="SavedStateException">It is no saved machine, is damaged, or of a later version.</exception>
    public static SavedMachine Open(string path)
    {
        SafeFileHandle file;
        try
        {
            file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, FileOptions.None);
        }
        catch (UnauthorizedAccessException e)
        {
            throw new IOException(e.Message, e);
        }
        try
        {
            Span<byte> page = new byte[SavedMachineHeader.Length];
            int length = RandomAccess.Read(file, page, 0);
            return new SavedMachine(path, file, SavedMachineHeader.Parse(page[..length], (ulong)RandomAccess.GetLength(file)));
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Puts RAM and state into a machine that was made with the same devices, as <see cref="MachineConfiguration.IsRestored"/> says, and never ran. After it returns the
    /// machine may be started and this object disposed of, also when RAM is still being read; the file must then not be changed (it may be removed or replaced).
    /// On an exception the machine is to be thrown away.
    /// </summary>
    /// <param name="machine">The machine.</param>
    /// <param name="loading">When RAM is read.</param>
    /// <param name="threads">Threads that decompress when that is before the start; 0: as many as the host has CPUs.</param>
    /// <exception cref="SavedStateException">It does not fit the machine, or is damaged.</exception>
    /// <exception cref="IOException">It cannot be read.</exception>
    /// <exception cref="NotSupportedException">libzstd is missing.</exception>
    public MachineRestore RestoreInto(VirtualMachine machine, MemoryLoading loading = MemoryLoading.Automatic, int threads = 0)
    {
        if (machine.Memory.Size != MemorySize)
        {
            throw new SavedStateException($"saved state is of a machine with {MemorySize} bytes of memory");
        }
        string? reason = null;
        Task? loaded = loading == MemoryLoading.Automatic ? TryLoadLazily(machine, out reason) : null;
        if (loaded is null)
        {
            Load(machine.Memory, threads > 0 ? threads : Environment.ProcessorCount);
        }
        machine.RestoreState(_state);
        return new MachineRestore(loaded is not null, reason, loaded ?? Task.CompletedTask);
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    private Task? TryLoadLazily(VirtualMachine machine, out string? reason)
    {
        var decompressor = new ZstandardDecompressor();
        bool held = false;
        _file.DangerousAddRef(ref held);
        string path = _path;
        MemoryPager? pager = machine.Memory.TryBeginLoading(
            new PagedSource((int)_file.DangerousGetHandle(), _chunks, _header.ChunkShift, Zstandard.DecompressFunction, decompressor.Context),
            failure => machine.Fail($"{path}: {failure}"),
            out reason);
        void Release()
        {
            decompressor.Dispose();
            _file.DangerousRelease();
        }
        if (pager is null)
        {
            Release();
            return null;
        }
        pager.Completion.ContinueWith(_ => Release(), TaskScheduler.Default);
        return pager.Completion;
    }

    private unsafe void Load(GuestMemory memory, int threads)
    {
        foreach (MemorySlot slot in memory.Slots)
        {
            memory.TryDiscard(slot.Address, slot.Length);
        }
        int next = 0;
        uint longest = _chunks.Length == 0 ? 0 : _chunks.Max(static c => c.Length);
        Exception? failure = null;
        void Work()
        {
            try
            {
                using var decompressor = new ZstandardDecompressor();
                byte[] frame = new byte[longest];
                byte[] plain = new byte[1 << _header.ChunkShift];
                while (failure is null && Interlocked.Increment(ref next) - 1 is var i && i < _chunks.Length)
                {
                    PagedChunk chunk = _chunks[i];
                    Span<byte> packed = frame.AsSpan(0, (int)chunk.Length);
                    ReadExactly(packed, chunk.Offset);
                    ulong start = (ulong)chunk.Chunk << _header.ChunkShift;
                    Span<byte> contents = plain.AsSpan(0, (int)Math.Min((ulong)plain.Length, memory.Size - start));
                    if (!decompressor.TryDecompress(packed, contents))
                    {
                        throw new SavedStateException($"{_path}: guest memory at {start:X} of the saved machine is damaged");
                    }
                    for (int page = 0; page < contents.Length; page += GuestMemory.PageSize)
                    {
                        ReadOnlySpan<byte> own = contents.Slice(page, GuestMemory.PageSize);
                        if (own.ContainsAnyExcept((byte)0)) // others stay untouched
                        {
                            own.CopyTo(new Span<byte>(memory.HostBase + start + (ulong)page, GuestMemory.PageSize));
                        }
                    }
                }
            }
            catch (Exception e)
            {
                Interlocked.CompareExchange(ref failure, e, null);
            }
        }
        var workers = new Thread[Math.Clamp(threads, 1, 64)];
        for (int i = 0; i < workers.Length; i++)
        {
            workers[i] = new Thread(Work) { IsBackground = true, Name = $"restore{i}" };
            workers[i].Start();
        }
        foreach (Thread worker in workers)
        {
            worker.Join();
        }
        if (failure is not null)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(failure);
        }
    }

    private PagedChunk[] ReadIndex()
    {
        byte[] bytes = Read(_header.Index, "index");
        var chunks = new PagedChunk[bytes.Length / SavedMachineHeader.EntryLength];
        ulong size = 1UL << _header.ChunkShift, longest = (ulong)Zstandard.Bound((int)size), previous = 0;
        for (int i = 0; i < chunks.Length; i++)
        {
            ReadOnlySpan<byte> entry = bytes.AsSpan(i * SavedMachineHeader.EntryLength);
            ref PagedChunk chunk = ref chunks[i];
            chunk.Offset = BinaryPrimitives.ReadUInt64LittleEndian(entry);
            chunk.Chunk = BinaryPrimitives.ReadUInt32LittleEndian(entry[8..]);
            chunk.Length = BinaryPrimitives.ReadUInt32LittleEndian(entry[12..]);
            ulong start = (ulong)chunk.Chunk << _header.ChunkShift;
            if ((i != 0 && chunk.Chunk <= previous) || start >= MemorySize || chunk.Length == 0 || chunk.Length > longest
                || chunk.Offset < SavedMachineHeader.Length || chunk.Offset > _header.FileLength || chunk.Length > _header.FileLength - chunk.Offset)
            {
                throw new SavedStateException("the saved machine is malformed: its index");
            }
            previous = chunk.Chunk;
        }
        return chunks;
    }

    private byte[] Read(in FileSection section, string name)
    {
        byte[] bytes = new byte[section.Length];
        ReadExactly(bytes, section.Offset);
        return SavedMachineHeader.Sum(bytes) == section.Checksum ? bytes : throw new SavedStateException($"the saved machine is damaged: its {name}");
    }

    private void ReadExactly(Span<byte> destination, ulong offset)
    {
        while (!destination.IsEmpty)
        {
            int read = RandomAccess.Read(_file, destination, (long)offset);
            if (read <= 0)
            {
                throw new IOException($"{_path}: the file ends early");
            }
            destination = destination[read..];
            offset += (ulong)read;
        }
    }
}
