namespace Lodge.Cli.Machines;

/// <summary>The OpenAPI document of the control socket.</summary>
internal static class ControlDocument
{
    private const string Resource = "control-api.json";

    /// <summary>Its bytes.</summary>
    public static byte[] Read()
    {
        using Stream stream = typeof(ControlDocument).Assembly.GetManifestResourceStream(Resource)!;
        byte[] bytes = new byte[stream.Length];
        stream.ReadExactly(bytes);
        return bytes;
    }
}
