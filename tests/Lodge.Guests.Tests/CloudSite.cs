using System.Net;
using System.Net.Sockets;

namespace Lodge.Guests.Tests;

/// <summary>A web site of the test's own with the files of a folder.</summary>
internal sealed class CloudSite : IDisposable
{
    private readonly HttpListener _listener = new();
    private readonly string _folder;

    public CloudSite(string folder)
    {
        _folder = folder;
        using (TcpListener free = new(IPAddress.Loopback, 0))
        {
            free.Start();
            Address = $"http://127.0.0.1:{((IPEndPoint)free.LocalEndpoint).Port}";
        }
        _listener.Prefixes.Add(Address + "/");
        _listener.Start();
        new Thread(Serve) { IsBackground = true }.Start();
    }

    /// <summary>Where it is, without a slash at the end.</summary>
    public string Address { get; }

    public void Dispose() => _listener.Close();

    private void Serve()
    {
        try
        {
            while (true)
            {
                HttpListenerContext request = _listener.GetContext();
                using HttpListenerResponse response = request.Response;
                string file = Path.Combine(_folder, request.Request.Url!.AbsolutePath.TrimStart('/'));
                if (File.Exists(file))
                {
                    using FileStream contents = File.OpenRead(file);
                    response.ContentLength64 = contents.Length;
                    contents.CopyTo(response.OutputStream);
                }
                else
                {
                    response.StatusCode = 404;
                }
            }
        }
        catch (Exception e) when (e is HttpListenerException or ObjectDisposedException or InvalidOperationException)
        {
            // The test has ended.
        }
    }
}
