using Iced.Intel;
namespace Lodge.Engine.Translation.Processor { internal sealed unsafe partial class Vcpu { private bool TryExecuteVectorMemory(in Instruction i) => false; } }
