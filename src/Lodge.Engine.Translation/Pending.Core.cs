using Iced.Intel;
namespace Lodge.Engine.Translation.Processor { internal sealed unsafe partial class Vcpu { private bool TryExecuteVectorMemory(in Instruction i) => false; } }
namespace Lodge.Engine.Translation { internal sealed unsafe partial class TranslationPartition { internal Lodge.Engine.Time.TimerService Timers = null!; void RouteMessage(ulong a, uint d) {} void RouteExternalInterrupt(bool b) {} void RouteNmi() {} } }
