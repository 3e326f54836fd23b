namespace Lodge.Engine.Translation.Processor;
internal sealed unsafe partial class Vcpu
{
    private void CheckPortAccess(ushort port, int size) { }
}
