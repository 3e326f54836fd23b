using System.Globalization;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

namespace Lodge.Management.Control;

/// <summary>A connection to a machine's control socket. One request at a time.</summary>
public sealed class ControlClient : IDisposable
{
    private const long LargestReply = 256L << 20;
    private readonly HttpConnection _connection;
    private readonly string _machine;

    private ControlClient(HttpConnection connection, string machine) => (_connection, _machine) = (connection, machine);

    /// <summary>Connects to a machine.</summary>
    /// <exception cref="ManagementException">It does not run, or does not answer.</exception>
    public static ControlClient Connect(Machines.MachineFolder machine)
    {
        try
        {
            return new ControlClient(new HttpConnection(new NetworkStream(ControlSocket.Connect(machine.ControlSocket), ownsSocket: true)), machine.Name);
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

    private ManagementException Refused(byte[] body)
    {
        try
        {
            return new ManagementException($"machine '{_machine}': {JsonSerializer.Deserialize(body, ControlJson.Default.ControlError)?.Error}");
        }
        catch (JsonException e)
        {
            return new ManagementException($"machine '{_machine}' refused without a reason", e);
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
