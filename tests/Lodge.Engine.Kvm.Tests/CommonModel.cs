using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>A level as both engines of this host can show it, for guests that go from one to the other.</summary>
internal static class CommonModel
{
    /// <summary>Makes it for one of the engines.</summary>
    public static CpuModel Create(CpuModelName level, IEngine engine)
    {
        CpuModelState hardware = CpuModel.Create(level, 1, new KvmEngine().CpuOffer).Save();
        CpuFeatureSet software = CpuOffer.Software.Features;
        CpuModel model = CpuModel.Create(level, 1, engine.CpuOffer);
        model.Adopt(hardware with { Features = [.. hardware.Features.Select((word, i) => word & software[(CpuFeatureWord)i])], TimestampFrequency = 0 });
        return model;
    }
}
