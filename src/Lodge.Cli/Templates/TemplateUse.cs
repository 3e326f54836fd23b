namespace Lodge.Cli.Templates;

/// <summary>What a machine that is planned has to do with a template.</summary>
internal enum TemplateUse
{
    /// <summary>Nothing: it boots, and is told what to run at once.</summary>
    None,

    /// <summary>It boots, and may become a template when its guest waits.</summary>
    Maker,

    /// <summary>It goes on where a template stands.</summary>
    Clone,
}
