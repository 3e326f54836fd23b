using System.Globalization;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Control;

/// <summary>A request as a route gets it.</summary>
/// <param name="Path">The part of the path that the route's <c>*</c> stands for, or empty.</param>
/// <param name="Query">What follows <c>?</c>.</param>
/// <param name="Body">The body.</param>
/// <param name="Cancellation">The server or the peer goes.</param>
public sealed record ControlRequest(string Path, IReadOnlyDictionary<string, string> Query, ReadOnlyMemory<byte> Body, CancellationToken Cancellation)
{
    /// <summary>The body as JSON.</summary>
    /// <exception cref="ControlException">It is none.</exception>
    public T Read<T>(JsonTypeInfo<T> type)
    {
        try
        {
            return JsonSerializer.Deserialize(Body.Span, type) ?? throw new JsonException("it is empty");
        }
        catch (JsonException e)
        {
            throw new ControlException(400, $"the body is not what is expected: {e.Message}");
        }
    }
}

/// <summary>An answer.</summary>
public sealed record ControlReply
{
    /// <summary>Status of HTTP.</summary>
    public int Status { get; init; } = 200;

    /// <summary>Media type of the body.</summary>
    public string Type { get; init; } = "application/json";

    /// <summary>The body.</summary>
    public ReadOnlyMemory<byte> Body { get; init; }

    /// <summary>Writes the body piece by piece, in place of <see cref="Body"/>.</summary>
    public Func<Stream, CancellationToken, Task>? Writer { get; init; }

    /// <summary>Takes the connection over in both directions after status 101, in place of <see cref="Body"/>.</summary>
    public Func<Stream, CancellationToken, Task>? Upgrade { get; init; }

    /// <summary>
    /// Takes open files from the peer after status 101, in place of <see cref="Body"/>: so many, each message of which carries one byte. What is then done with them answers with one line of JSON, and the
    /// connection ends. The files belong to what is called.
    /// </summary>
    public (int Count, Func<IReadOnlyList<SafeFileHandle>, Task<ControlReply>> Take)? Files { get; init; }

    /// <summary>Called when the answer is written, or could not be: what ends the server.</summary>
    public Action? After { get; init; }

    /// <summary>Done, and nothing to say.</summary>
    public static ControlReply Done { get; } = new() { Status = 204 };

    /// <summary>A value as JSON.</summary>
    public static ControlReply Of<T>(T value, JsonTypeInfo<T> type) => new() { Body = JsonSerializer.SerializeToUtf8Bytes(value, type) };
}

/// <summary>A request that is refused.</summary>
/// <param name="status">Status of HTTP: 400 wrong request, 404 no such thing, 409 not in this state, 503 the guest does not answer, 500 failed.</param>
/// <param name="message">One line.</param>
public sealed class ControlException(int status, string message) : Exception(message)
{
    /// <summary>Status of HTTP.</summary>
    public int Status => status;
}

/// <summary>What is done for one method and path.</summary>
/// <param name="Method">GET, PUT, POST or DELETE.</param>
/// <param name="Path">The path; its last part may be <c>*</c>.</param>
/// <param name="Answer">Does it. On threads of the pool, requests side by side.</param>
public sealed record ControlRoute(string Method, string Path, Func<ControlRequest, Task<ControlReply>> Answer)
{
    /// <summary>Most bytes of the body.</summary>
    public long LargestBody { get; init; } = 1 << 20;
}

/// <summary>Serves a control socket: HTTP/1.1 with JSON over a Unix socket that only its owner reaches.</summary>
public sealed class ControlServer : IDisposable
{
    private static readonly TimeSpan HeadTime = TimeSpan.FromSeconds(30), FilesTime = TimeSpan.FromSeconds(10);
    private readonly Socket _socket;
    private readonly string _path;
    private readonly IReadOnlyList<ControlRoute> _routes;
    private readonly CancellationTokenSource _stop = new();

    /// <summary>Begins to serve.</summary>
    /// <param name="path">The socket's path.</param>
    /// <param name="routes">What it answers.</param>
    /// <exception cref="IOException">The host refuses.</exception>
    public ControlServer(string path, IReadOnlyList<ControlRoute> routes)
    {
        (_path, _routes) = (path, routes);
        _socket = ControlSocket.Listen(path);
        _ = AcceptAsync();
    }

    /// <summary>Ends all connections and removes the socket.</summary>
    public void Dispose()
    {
        _stop.Cancel();
        File.Delete(_path);
        _socket.Dispose();
    }

    private async Task AcceptAsync()
    {
        while (!_stop.IsCancellationRequested)
        {
            try
            {
                Socket peer = await _socket.AcceptAsync(_stop.Token).ConfigureAwait(false);
                _ = ServeAsync(peer);
            }
            catch (Exception e) when (e is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
            catch (SocketException)
            {
                await Task.Delay(100).ConfigureAwait(false); // no descriptors left, for example
            }
        }
    }

    private async Task ServeAsync(Socket peer)
    {
        using HttpConnection connection = new(new NetworkStream(peer, ownsSocket: true));
        try
        {
            while (!_stop.IsCancellationRequested)
            {
                using CancellationTokenSource time = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token);
                time.CancelAfter(HeadTime);
                HttpHead? head = await connection.ReadHeadAsync(time.Token).ConfigureAwait(false);
                if (head is null || !await AnswerAsync(peer, connection, head).ConfigureAwait(false))
                {
                    return;
                }
            }
        }
        catch (HttpFormatException e)
        {
            await TryRefuseAsync(connection, e.Status, e.Message).ConfigureAwait(false);
        }
        catch (Exception e) when (e is IOException or OperationCanceledException or ObjectDisposedException or SocketException)
        {
            // The peer or the machine has gone.
        }
    }

    /// <returns>Whether the connection goes on.</returns>
    private async Task<bool> AnswerAsync(Socket peer, HttpConnection connection, HttpHead head)
    {
        if (head.StartLine.Split(' ') is not [{ } method, { } target, "HTTP/1.1"] || target[0] != '/')
        {
            throw new HttpFormatException("not a request of HTTP/1.1");
        }
        int question = target.IndexOf('?', StringComparison.Ordinal);
        string path = question < 0 ? target : target[..question];
        (ControlRoute? route, string rest, bool known) = Find(method, path);
        if (route is null)
        {
            throw known ? new HttpFormatException($"{method} is not for {path}", 405) : new HttpFormatException($"there is no {path}", 404);
        }
        byte[] body = await connection.ReadBodyAsync(head, route.LargestBody, _stop.Token).ConfigureAwait(false);
        ControlReply reply;
        try
        {
            reply = await route.Answer(new ControlRequest(rest, Query(question < 0 ? "" : target[(question + 1)..]), body, _stop.Token)).ConfigureAwait(false);
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            (int status, string message) = Explain(e);
            await RefuseAsync(connection, status, message, close: false).ConfigureAwait(false);
            return true;
        }
        if (reply.Upgrade is { } upgrade)
        {
            await connection.WriteHeadAsync("HTTP/1.1 101 Switching Protocols", [("Connection", "Upgrade"), ("Upgrade", "lodge-stream")], _stop.Token).ConfigureAwait(false);
            await upgrade(connection.Raw(), _stop.Token).ConfigureAwait(false);
            return false;
        }
        if (reply.Files is { } files)
        {
            await TakeFilesAsync(peer, connection, files.Count, files.Take).ConfigureAwait(false);
            return false;
        }
        if (reply.Writer is { } writer)
        {
            await connection.WriteHeadAsync($"HTTP/1.1 {reply.Status} {Phrase(reply.Status)}", [("Content-Type", reply.Type), ("Transfer-Encoding", "chunked")], _stop.Token).ConfigureAwait(false);
            await writer(connection.ChunkStream(), _stop.Token).ConfigureAwait(false);
            await connection.WriteLastChunkAsync(_stop.Token).ConfigureAwait(false);
            return true;
        }
        try
        {
            await connection.WriteHeadAsync(
                $"HTTP/1.1 {reply.Status} {Phrase(reply.Status)}",
                reply.Status == 204 ? [] : [("Content-Type", reply.Type), ("Content-Length", reply.Body.Length.ToString(CultureInfo.InvariantCulture))],
                _stop.Token).ConfigureAwait(false);
            if (!reply.Body.IsEmpty)
            {
                await connection.WriteAsync(reply.Body, _stop.Token).ConfigureAwait(false);
            }
        }
        finally
        {
            reply.After?.Invoke(); // whether or not the peer waited for the answer
        }
        return head["connection"]?.Equals("close", StringComparison.OrdinalIgnoreCase) != true;
    }

    private async Task TakeFilesAsync(Socket peer, HttpConnection connection, int count, Func<IReadOnlyList<SafeFileHandle>, Task<ControlReply>> take)
    {
        if (connection.HasMore)
        {
            throw new HttpFormatException("the open files come after status 101");
        }
        await connection.WriteHeadAsync("HTTP/1.1 101 Switching Protocols", [("Connection", "Upgrade"), ("Upgrade", "lodge-files")], _stop.Token).ConfigureAwait(false);
        byte[] line;
        try
        {
            IReadOnlyList<SafeFileHandle> files = count == 0 ? [] : await Task.Run(() => new DescriptorSocket(peer).Receive(count, FilesTime)).ConfigureAwait(false);
            line = (await take(files).ConfigureAwait(false)).Body.ToArray();
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            line = JsonSerializer.SerializeToUtf8Bytes(new ControlError(Explain(e).Message), ControlJson.Default.ControlError);
        }
        await connection.WriteAsync((byte[])[.. line, (byte)'\n'], _stop.Token).ConfigureAwait(false);
    }

    private (ControlRoute? Route, string Tail, bool Known) Find(string method, string path)
    {
        bool known = false;
        foreach (ControlRoute route in _routes)
        {
            bool open = route.Path.EndsWith("/*", StringComparison.Ordinal);
            string rest = "";
            if (open ? path.StartsWith(route.Path[..^1], StringComparison.Ordinal) && path.Length >= route.Path.Length : path == route.Path)
            {
                rest = open ? Uri.UnescapeDataString(path[(route.Path.Length - 1)..]) : "";
                known = true;
                if (route.Method == method)
                {
                    return (route, rest, true);
                }
            }
        }
        return (null, "", known);
    }

    private static Dictionary<string, string> Query(string text)
    {
        Dictionary<string, string> values = new(StringComparer.Ordinal);
        foreach (string pair in text.Split('&', StringSplitOptions.RemoveEmptyEntries))
        {
            int equals = pair.IndexOf('=', StringComparison.Ordinal);
            values[Uri.UnescapeDataString(equals < 0 ? pair : pair[..equals])] = equals < 0 ? "" : Uri.UnescapeDataString(pair[(equals + 1)..]);
        }
        return values;
    }

    private static (int Status, string Message) Explain(Exception e) => e switch
    {
        ControlException refused => (refused.Status, refused.Message),
        GuestAgent.GuestAgentException agent => (503, agent.Message),
        ManagementException failed => (409, failed.Message),
        _ => (500, e.Message),
    };

    private static async Task TryRefuseAsync(HttpConnection connection, int status, string message)
    {
        try
        {
            await RefuseAsync(connection, status, message, close: true).ConfigureAwait(false);
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException or SocketException or OperationCanceledException)
        {
            // It has gone.
        }
    }

    private static async Task RefuseAsync(HttpConnection connection, int status, string message, bool close)
    {
        byte[] body = JsonSerializer.SerializeToUtf8Bytes(new ControlError(message), ControlJson.Default.ControlError);
        List<(string, string)> fields = [("Content-Type", "application/json"), ("Content-Length", body.Length.ToString(CultureInfo.InvariantCulture))];
        if (close)
        {
            fields.Add(("Connection", "close"));
        }
        await connection.WriteHeadAsync($"HTTP/1.1 {status} {Phrase(status)}", fields, CancellationToken.None).ConfigureAwait(false);
        await connection.WriteAsync(body, CancellationToken.None).ConfigureAwait(false);
    }

    private static string Phrase(int status) => status switch
    {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        503 => "Service Unavailable",
        _ => "Error",
    };
}
