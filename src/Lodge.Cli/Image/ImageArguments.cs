using System.CommandLine;
using System.CommandLine.Parsing;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Image;

/// <summary>An image that the command line names, and how it is opened.</summary>
internal sealed record ImageLocation(string Path, ImageOpenOptions Options);

/// <summary>The options that the verbs share, with qemu-img's letters.</summary>
internal sealed class ImageArguments
{
    private readonly Option<string[]> _objects = new("--object") { Description = "A passphrase: secret,id=NAME,file=FILE[,format=base64]", HelpName = "OBJECT", Arity = ArgumentArity.OneOrMore };
    private readonly Option<string?> _secret = new("--secret") { Description = "Passphrase of an encrypted image: a file, or env:NAME", HelpName = "FILE" };
    private readonly Option<string[]> _allow = new("--allow") { Description = "Folder, besides the image's own, in which its other files may lie; / allows all", HelpName = "FOLDER", Arity = ArgumentArity.OneOrMore };
    private readonly Option<bool> _force = new("--force-share", "-U") { Description = "Open although another process writes the image" };
    private readonly Option<bool> _imageOpts = new("--image-opts") { Description = "Images are written as driver=FORMAT,file.filename=PATH[,encrypt.key-secret=ID]" };
    private readonly Option<bool> _quiet = new("--quiet", "-q") { Description = "Print nothing but errors" };
    private readonly Option<bool> _progress = new("-p") { Description = "Show progress also where the output is no terminal" };
    private readonly Option<string?> _output = new("--output") { Description = "human or json [default: human]", HelpName = "FORM" };
    private readonly Option<bool> _json = new("--json") { Description = "The same as --output json" };
    private ImageSecrets? _secrets;

    /// <summary>The image's format (<c>-f</c>).</summary>
    public Option<string?> Format { get; } = new("-f") { Description = "Format of the image [default: recognized from its content]", HelpName = "FORMAT" };

    /// <summary>Host caching of the image (<c>-t</c> or <c>-T</c>).</summary>
    public static Option<string?> Cache(string letter, string what, string missing) =>
        new(letter) { Description = $"Host caching of the {what}: writeback, none, writethrough, directsync, unsafe [default: {missing}]", HelpName = "CACHE" };

    /// <summary>Adds what every verb on an existing image takes.</summary>
    public void AddTo(Command command, bool share = true, bool output = false, bool progress = false)
    {
        command.Add(Format);
        if (share)
        {
            command.Add(_force);
        }
        if (output)
        {
            command.Add(_output);
            command.Add(_json);
        }
        if (progress)
        {
            command.Add(_progress);
        }
        command.Add(_quiet);
        command.Add(_secret);
        command.Add(_objects);
        command.Add(_allow);
        command.Add(_imageOpts);
        command.Validators.Add(RefuseUnknownOptions);
    }

    /// <summary>A word with a dash in the place of an argument is a mistyped option; only a size may begin so.</summary>
    private static void RefuseUnknownOptions(CommandResult result)
    {
        foreach (ArgumentResult argument in result.Children.OfType<ArgumentResult>())
        {
            foreach (Token token in argument.Tokens)
            {
                if (token.Value is ['-', not (>= '0' and <= '9'), ..])
                {
                    result.AddError($"option '{token.Value}' is not known");
                }
            }
        }
    }

    /// <summary>Whether nothing but errors is printed.</summary>
    public bool Quiet(ParseResult parsed) => parsed.GetValue(_quiet);

    /// <summary>Whether progress was asked for.</summary>
    public bool ShowsProgress(ParseResult parsed) => parsed.GetValue(_progress);

    /// <summary>Whether the output is JSON.</summary>
    public bool Json(ParseResult parsed) => parsed.GetValue(_json) || parsed.GetValue(_output) switch
    {
        null or "human" => false,
        "json" => true,
        { } other => throw new LodgeException($"'--output {other}' is not known; give human or json", ExitStatus.Usage),
    };

    /// <summary>Folders that parents may lie in.</summary>
    public string[] Allowed(ParseResult parsed) => parsed.GetValue(_allow) ?? [];

    /// <summary>Whether another process may write the image.</summary>
    public bool ForceShare(ParseResult parsed) => parsed.GetValue(_force);

    /// <summary>The passphrase of <c>--secret</c>, or of the <c>--object</c> with <paramref name="id"/>.</summary>
    public string? Secret(ParseResult parsed, string? id = null)
    {
        _secrets ??= new ImageSecrets(parsed.GetValue(_objects) ?? []);
        return id is null ? ImageSecrets.Read(parsed.GetValue(_secret)) : _secrets.Named(id);
    }

    /// <summary>How the image that <paramref name="text"/> names is opened.</summary>
    /// <param name="parsed">The command line.</param>
    /// <param name="text">Path, address, or with <c>--image-opts</c> a list of options.</param>
    /// <param name="writable">Whether it is written.</param>
    /// <param name="format">The format's name; else that of <c>-f</c>.</param>
    /// <param name="cache">Text of a caching option.</param>
    public ImageLocation Locate(ParseResult parsed, string text, bool writable = false, string? format = null, string? cache = null)
    {
        format ??= parsed.GetValue(Format);
        string path = text;
        string? key = null;
        if (parsed.GetValue(_imageOpts))
        {
            path = "";
            foreach ((string name, string value) in OptionList.Parse(text))
            {
                switch (name)
                {
                    case "driver":
                        format = value;
                        break;
                    case "file.filename" or "filename":
                        path = value;
                        break;
                    case "file.driver" when value is "file" or "host_device":
                    case "encrypt.format" when value == "luks":
                        break;
                    case "encrypt.key-secret" or "key-secret":
                        key = value;
                        break;
                    default:
                        throw new LodgeException($"'{name}={value}' is not known in --image-opts; give driver, file.filename, encrypt.key-secret", ExitStatus.Usage);
                }
            }
        }
        if (path.Length == 0)
        {
            throw new LodgeException("the image's path is empty", ExitStatus.Usage);
        }
        if (format is not null)
        {
            format = DiskFormats.Named(format).Name;
        }
        return new ImageLocation(path, new ImageOpenOptions
        {
            ReadOnly = !writable,
            Format = format,
            Cache = ParseCache(cache, CacheMode.WriteBack),
            ForceShare = !writable && ForceShare(parsed),
            Secret = Secret(parsed, key),
            AllowedFolders = Allowed(parsed),
        });
    }

    /// <summary>The caching of a name.</summary>
    public static CacheMode ParseCache(string? text, CacheMode missing) => text switch
    {
        null => missing,
        "writeback" => CacheMode.WriteBack,
        "none" or "off" => CacheMode.None,
        "writethrough" => CacheMode.WriteThrough,
        "directsync" => CacheMode.DirectSync,
        "unsafe" => CacheMode.Unsafe,
        _ => throw new LodgeException($"the caching '{text}' is not known; give writeback, none, writethrough, directsync or unsafe", ExitStatus.Usage),
    };

    /// <summary>A size in bytes.</summary>
    public static long ParseSize(string text, string what) => FormatOptions.TryParseSize(text, out long size)
        ? size
        : throw new LodgeException($"'{text}' is not a {what}; write bytes, or a number with k, M, G, T, P or E", ExitStatus.Usage);

    /// <summary>An optional size in bytes.</summary>
    public static long? ParseSizeOrNull(string? text, string what) => text is null ? null : ParseSize(text, what);
}
