using System.Globalization;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Control;

/// <summary>A connection to a machine's control socket. One request at a time.</summary>
public sealed class ControlClient : IDisposable
{
    private const long LargestReply = 256L << 20;
    private static readonly TimeSpan FilesTime = TimeSpan.FromSeconds(10);
    private readonly Socket _socket;
    private readonly HttpConnection _connection;
    private readonly string _machine;

    private ControlClient(Socket socket, string machine) => (_socket, _connection, _machine) = (socket, new HttpConnection(new NetworkStream(socket, ownsSocket: true)), machine);

    /// <summary>Connects to a machine.</summary>
    /// <exception cref="ManagementException">It does not run, or does not answer.</exception>
    public static ControlClient Connect(Machines.MachineFolder machine)
    {
        try
        {
            return new ControlClient(ControlSocket.Connect(machine.ControlSocket), machine.Name);
        }
        catch (IOException e)
        {
            throw new ManagementException(machine.Report().State switch
            {
                Machines.MachineStates.Stopped or Machines.MachineStates.Saved => $"machine '{machine.Name}' does not run; start it: lodge start {machine.Name}",
                Machines.MachineStates.Starting => $"machine '{machine.Name}' is just starting; try again",
                Machines.MachineStates.Stopping => $"machine '{machine.Name}' is just stopping",
                _ => $"machine '{machine.Name}' does not answer: {e.Message}",
            }, e);
        }
    }

    /// <summary>Asks for something without a body and with nothing to be told.</summary>
    /// <exception cref="ManagementException">It is refused or the machine does not answer.</exception>
    public Task DoAsync(string method, string path, CancellationToken cancellation = default) => SendAsync(method, path, null, cancellation);

    /// <summary>Asks for a value.</summary>
    /// <exception cref="ManagementException">It is refused or the machine does not answer.</exception>
    public async Task<T> GetAsync<T>(string path, JsonTypeInfo<T> type, CancellationToken cancellation = default) => Parse(await SendAsync("GET", path, null, cancellation).ConfigureAwait(false), type);

    /// <summary>Sends a value and gets nothing.</summary>
    /// <exception cref="ManagementException">It is refused or the machine does not answer.</exception>
    public Task SendAsync<T>(string method, string path, T value, JsonTypeInfo<T> type, CancellationToken cancellation = default) =>
        SendAsync(method, path, JsonSerializer.SerializeToUtf8Bytes(value, type), cancellation);

    /// <summary>Sends a value and gets one.</summary>
    /// <exception cref="ManagementException">It is refused or the machine does not answer.</exception>
    public async Task<TReply> AskAsync<T, TReply>(string method, string path, T value, JsonTypeInfo<T> type, JsonTypeInfo<TReply> replyType, CancellationToken cancellation = default) =>
        Parse(await SendAsync(method, path, JsonSerializer.SerializeToUtf8Bytes(value, type), cancellation).ConfigureAwait(false), replyType);

    /// <summary>Sends bytes and gets nothing.</summary>
    /// <exception cref="ManagementException">It is refused or the machine does not answer.</exception>
    public Task SendBytesAsync(string method, string path, ReadOnlyMemory<byte> body, CancellationToken cancellation = default) => SendAsync(method, path, body.ToArray(), cancellation);

    /// <summary>Asks for bytes of any length.</summary>
    /// <exception cref="ManagementException">It is refused, or ends before its end.</exception>
    public async Task FetchAsync(string path, Stream target, CancellationToken cancellation = default)
    {
        HttpHead head;
        try
        {
            await _connection.WriteHeadAsync($"GET {path} HTTP/1.1", [("Host", "lodge")], cancellation).ConfigureAwait(false);
            head = await _connection.ReadHeadAsync(cancellation).ConfigureAwait(false) ?? throw new IOException("the connection was closed");
        }
        catch (Exception e) when (e is IOException or HttpFormatException or SocketException)
        {
            throw Silent(e);
        }
        if (Status(head) != 200)
        {
            throw Refused(await _connection.ReadBodyAsync(head, LargestReply, cancellation).ConfigureAwait(false));
        }
        try
        {
            await _connection.CopyBodyAsync(head, target, long.MaxValue, cancellation).ConfigureAwait(false);
        }
        catch (HttpFormatException e)
        {
            throw Silent(e);
        }
    }

    /// <summary>Makes the connection a stream of bytes in both directions; this client then does nothing more.</summary>
    /// <exception cref="ManagementException">It is refused or the machine does not answer.</exception>
    public async Task<Stream> StreamAsync(string path, CancellationToken cancellation = default)
    {
        try
        {
            await _connection.WriteHeadAsync($"POST {path} HTTP/1.1", [("Host", "lodge"), ("Connection", "Upgrade"), ("Upgrade", "lodge-stream"), ("Content-Length", "0")], cancellation).ConfigureAwait(false);
            HttpHead head = await _connection.ReadHeadAsync(cancellation).ConfigureAwait(false) ?? throw new IOException("the connection was closed");
            return Status(head) == 101
                ? _connection.Raw()
                : throw Refused(await _connection.ReadBodyAsync(head, LargestReply, cancellation).ConfigureAwait(false));
        }
        catch (Exception e) when (e is IOException or HttpFormatException or SocketException)
        {
            throw Silent(e);
        }
    }

    /// <summary>Sends a value and open files, and gets a value; this client then does nothing more.</summary>
    /// <param name="path">Where to.</param>
    /// <param name="value">The value, which says how many files there are.</param>
    /// <param name="type">Its form.</param>
    /// <param name="files">The files, which stay open here.</param>
    /// <param name="replyType">Form of the answer.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="ControlRefusedException">The machine's process refuses.</exception>
    /// <exception cref="ManagementException">The machine does not answer: nobody knows what came of it.</exception>
    public async Task<TReply> HandAsync<T, TReply>(string path, T value, JsonTypeInfo<T> type, IReadOnlyList<SafeFileHandle> files, JsonTypeInfo<TReply> replyType, CancellationToken cancellation = default)
    {
        const int longestLine = 64 << 10;
        try
        {
            byte[] body = JsonSerializer.SerializeToUtf8Bytes(value, type);
            await _connection.WriteHeadAsync(
                $"POST {path} HTTP/1.1",
                [("Host", "lodge"), ("Connection", "Upgrade"), ("Upgrade", "lodge-files"), ("Content-Type", "application/json"), ("Content-Length", body.Length.ToString(CultureInfo.InvariantCulture))],
                cancellation).ConfigureAwait(false);
            await _connection.WriteAsync(body, cancellation).ConfigureAwait(false);
            HttpHead head = await _connection.ReadHeadAsync(cancellation).ConfigureAwait(false) ?? throw new IOException("the connection was closed");
            if (Status(head) != 101)
            {
                throw Refused(await _connection.ReadBodyAsync(head, LargestReply, cancellation).ConfigureAwait(false));
            }
            await Task.Run(() => new DescriptorSocket(_socket).Send(files, FilesTime), cancellation).ConfigureAwait(false);
            using MemoryStream line = new();
            Stream stream = _connection.Raw();
            byte[] buffer = new byte[4096];
            for (int count; line.Length < longestLine && (count = await stream.ReadAsync(buffer, cancellation).ConfigureAwait(false)) != 0;)
            {
                line.Write(buffer, 0, count);
            }
            byte[] answer = line.ToArray();
            return answer.Length == 0
                ? throw new IOException("the connection was closed")
                : answer.AsSpan().StartsWith("{\"error\":"u8) ? throw Refused(answer) : Parse(answer, replyType);
        }
        catch (Exception e) when (e is IOException or HttpFormatException or SocketException)
        {
            throw Silent(e);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _connection.Dispose();

    private async Task<byte[]> SendAsync(string method, string path, byte[]? body, CancellationToken cancellation)
    {
        try
        {
            List<(string, string)> fields = [("Host", "lodge"), ("Content-Length", (body?.Length ?? 0).ToString(CultureInfo.InvariantCulture))];
            if (body is not null)
            {
                fields.Add(("Content-Type", "application/json"));
            }
            await _connection.WriteHeadAsync($"{method} {path} HTTP/1.1", fields, cancellation).ConfigureAwait(false);
            if (body is not null)
            {
                await _connection.WriteAsync(body, cancellation).ConfigureAwait(false);
            }
            HttpHead head = await _connection.ReadHeadAsync(cancellation).ConfigureAwait(false) ?? throw new IOException("the connection was closed");
            byte[] reply = Status(head) == 204 ? [] : await _connection.ReadBodyAsync(head, LargestReply, cancellation).ConfigureAwait(false);
            return Status(head) is 200 or 204 ? reply : throw Refused(reply);
        }
        catch (Exception e) when (e is IOException or HttpFormatException or SocketException)
        {
            throw Silent(e);
        }
    }

    private static int Status(HttpHead head) =>
        head.StartLine.Split(' ') is [_, { } text, ..] && int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int status) ? status : throw new HttpFormatException("no status");

    private ManagementException Silent(Exception e) => new($"machine '{_machine}' ended before it answered: {e.Message}", e);

    private ControlRefusedException Refused(byte[] body)
    {
        try
        {
            return new ControlRefusedException($"machine '{_machine}': {JsonSerializer.Deserialize(body, ControlJson.Default.ControlError)?.Error}");
        }
        catch (JsonException e)
        {
            return new ControlRefusedException($"machine '{_machine}' refused without a reason", e);
        }
    }

    private T Parse<T>(byte[] body, JsonTypeInfo<T> type)
    {
        try
        {
            return JsonSerializer.Deserialize(body, type) ?? throw new JsonException();
        }
        catch (JsonException e)
        {
            throw new ManagementException($"machine '{_machine}' gave an answer that is not understood: {e.Message}", e);
        }
    }
}

/// <summary>A machine's process answered that it will not do something: then nothing has changed.</summary>
/// <param name="message">One line.</param>
/// <param name="inner">What it is about.</param>
public sealed class ControlRefusedException(string message, Exception? inner = null) : ManagementException(message, inner);
