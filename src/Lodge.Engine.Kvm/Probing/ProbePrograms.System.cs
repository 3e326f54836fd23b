namespace Lodge.Engine.Kvm.Probing;

// What a kernel does to the machine. Intel syntax as objdump -M intel has it; addresses of data and stacks are those of ProbeImage. A program reports by OUT: port
// 0x10 that all is well, port 0x11 which of its comparisons failed.
internal static partial class ProbePrograms
{
    /// <summary>Control of the processor, memory and interrupts.</summary>
    private static readonly ProbeProgram[] s_system =
    [
        new("ring 0 in long mode", "control registers, descriptor tables, far return, string and locked instructions")
        {
            Code =
            [
                0x0F, 0x20, 0xC0,                                     // mov rax,cr0
                0x0F, 0x22, 0xC0,                                     // mov cr0,rax
                0x0F, 0x20, 0xE0,                                     // mov rax,cr4
                0x0F, 0x22, 0xE0,                                     // mov cr4,rax
                0x0F, 0x20, 0xD8,                                     // mov rax,cr3
                0x0F, 0x22, 0xD8,                                     // mov cr3,rax
                0xB9, 0x80, 0x00, 0x00, 0xC0,                         // mov ecx,0xc0000080
                0x0F, 0x32,                                           // rdmsr
                0x0F, 0x30,                                           // wrmsr
                0xA9, 0x00, 0x04, 0x00, 0x00,                         // test eax,0x400
                0x0F, 0x84, 0x82, 0x00, 0x00, 0x00,                   // je a8
                0x0F, 0x01, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00,       // sgdt 0x30000
                0x0F, 0x01, 0x14, 0x25, 0x00, 0x00, 0x03, 0x00,       // lgdt 0x30000
                0x0F, 0x01, 0x0C, 0x25, 0x10, 0x00, 0x03, 0x00,       // sidt 0x30010
                0x0F, 0x01, 0x1C, 0x25, 0x10, 0x00, 0x03, 0x00,       // lidt 0x30010
                0xB8, 0x10, 0x00, 0x00, 0x00,                         // mov eax,0x10
                0x8E, 0xD0,                                           // mov ss,eax
                0x8E, 0xD8,                                           // mov ds,eax
                0x6A, 0x08,                                           // push 0x8
                0x48, 0x8D, 0x05, 0x03, 0x00, 0x00, 0x00,             // lea rax,[rip+0x3]
                0x50,                                                 // push rax
                0x48, 0xCB,                                           // retfq
                0x0F, 0x01, 0xF8,                                     // swapgs
                0x0F, 0x01, 0xF8,                                     // swapgs
                0xBF, 0x00, 0x01, 0x03, 0x00,                         // mov edi,0x30100
                0xB9, 0x40, 0x00, 0x00, 0x00,                         // mov ecx,0x40
                0xB8, 0x11, 0x00, 0x00, 0x00,                         // mov eax,0x11
                0xF3, 0xAA,                                           // rep stos BYTE es:[rdi],al
                0xB9, 0x20, 0x00, 0x00, 0x00,                         // mov ecx,0x20
                0xF0, 0x0F, 0xC1, 0x0C, 0x25, 0x00, 0x01, 0x03, 0x00, // lock xadd DWORD 0x30100,ecx
                0x81, 0xF9, 0x11, 0x11, 0x11, 0x11,                   // cmp ecx,0x11111111
                0x75, 0x20,                                           // jne a8
                0x31, 0xC0,                                           // xor eax,eax
                0x0F, 0xA2,                                           // cpuid
                0x85, 0xC0,                                           // test eax,eax
                0x74, 0x18,                                           // je a8
                0x9C,                                                 // pushf
                0xFA,                                                 // cli
                0x9D,                                                 // popf
                0xE8, 0x0A, 0x00, 0x00, 0x00,                         // call a2
                0x83, 0xF8, 0x07,                                     // cmp eax,0x7
                0x75, 0x0B,                                           // jne a8
                0xB0, 0x01,                                           // mov al,0x1
                0xE6, 0x10,                                           // out 0x10,al
                0xF4,                                                 // hlt
                0xB8, 0x07, 0x00, 0x00, 0x00,                         // mov eax,0x7
                0xC3,                                                 // ret
                0xB0, 0x01,                                           // mov al,0x1
                0xE6, 0x11,                                           // out 0x11,al
                0xF4,                                                 // hlt
            ],
        },
        new("real mode", "how all processors but the first begin")
        {
            Code =
            [
                0x8C, 0xC8,                                     // mov ax,cs
                0x8E, 0xD8,                                     // mov ds,ax
                0x66, 0x0F, 0x01, 0x16, 0x00, 0x01,             // lgdtd 0x100
                0x0F, 0x20, 0xC0,                               // mov eax,cr0
                0x0C, 0x01,                                     // or al,0x1
                0x0F, 0x22, 0xC0,                               // mov cr0,eax
                0x66, 0xEA, 0x1A, 0x00, 0x01, 0x00, 0x40, 0x00, // jmp 0x40:0x1001a
                0xB8, 0x10, 0x00, 0x00, 0x00,                   // mov eax,0x10
                0x8E, 0xD8,                                     // mov ds,eax
                0x8E, 0xD0,                                     // mov ss,eax
                0xBC, 0x00, 0x00, 0x06, 0x00,                   // mov esp,0x60000
                0x6A, 0x05,                                     // push 0x5
                0x58,                                           // pop eax
                0x83, 0xF8, 0x05,                               // cmp eax,0x5
                0x75, 0x05,                                     // jne 35
                0xB0, 0x01,                                     // mov al,0x1
                0xE6, 0x10,                                     // out 0x10,al
                0xF4,                                           // hlt
                0xB0, 0x01,                                     // mov al,0x1
                0xE6, 0x11,                                     // out 0x11,al
                0xF4,                                           // hlt
            ],
            Mode = ProbeMode.Real,
        },
        new("int3", "exceptions and iret within ring 0")
        {
            Code =
            [
                0xCC,                                     // int3
                0x83, 0xF8, 0x03,                         // cmp eax,0x3
                0x75, 0x05,                               // jne b
                0xB0, 0x01,                               // mov al,0x1
                0xE6, 0x10,                               // out 0x10,al
                0xF4,                                     // hlt
                0xB0, 0x02,                               // mov al,0x2
                0xE6, 0x11,                               // out 0x11,al
                0xF4,                                     // hlt
                0x48, 0x8D, 0x05, 0xEA, 0xFF, 0xFF, 0xFF, // lea rax,[rip+0xffffffffffffffea]
                0x48, 0x39, 0x04, 0x24,                   // cmp QWORD [rsp],rax
                0x75, 0x07,                               // jne 24
                0xB8, 0x03, 0x00, 0x00, 0x00,             // mov eax,0x3
                0x48, 0xCF,                               // iretq
                0xB0, 0x01,                               // mov al,0x1
                0xE6, 0x11,                               // out 0x11,al
                0xF4,                                     // hlt
            ],
            Handlers = [(0x03, 0x10)],
        },
        new("ring 3 and back by int n", "iret to user code, int n from there")
        {
            Code =
            [
                0x6A, 0x23,                         // push 0x23
                0x68, 0x00, 0x00, 0x07, 0x00,       // push 0x70000
                0x6A, 0x02,                         // push 0x2
                0x6A, 0x2B,                         // push 0x2b
                0x68, 0x00, 0x00, 0x02, 0x00,       // push 0x20000
                0x48, 0xCF,                         // iretq
                0x48, 0x83, 0x7C, 0x24, 0x08, 0x2B, // cmp QWORD [rsp+0x8],0x2b
                0x75, 0x0E,                         // jne 28
                0x48, 0xCF,                         // iretq
                0x3D, 0x34, 0x12, 0x00, 0x00,       // cmp eax,0x1234
                0x75, 0x05,                         // jne 28
                0xB0, 0x01,                         // mov al,0x1
                0xE6, 0x10,                         // out 0x10,al
                0xF4,                               // hlt
                0xB0, 0x01,                         // mov al,0x1
                0xE6, 0x11,                         // out 0x11,al
                0xF4,                               // hlt
            ],
            UserCode =
            [
                0xB8, 0x34, 0x12, 0x00, 0x00, // mov eax,0x1234
                0xCD, 0x80,                   // int 0x80
                0xCD, 0x81,                   // int 0x81
            ],
            Handlers = [(0x80, 0x12), (0x81, 0x1C)],
        },
        new("syscall and sysret", "how programs call the kernel")
        {
            Code =
            [
                0xB9, 0x81, 0x00, 0x00, 0xC0,             // mov ecx,0xc0000081
                0x31, 0xC0,                               // xor eax,eax
                0xBA, 0x08, 0x00, 0x18, 0x00,             // mov edx,0x180008
                0x0F, 0x30,                               // wrmsr
                0xB9, 0x82, 0x00, 0x00, 0xC0,             // mov ecx,0xc0000082
                0x48, 0x8D, 0x05, 0x25, 0x00, 0x00, 0x00, // lea rax,[rip+0x25]
                0x48, 0x89, 0xC2,                         // mov rdx,rax
                0x48, 0xC1, 0xEA, 0x20,                   // shr rdx,0x20
                0x0F, 0x30,                               // wrmsr
                0xB9, 0x84, 0x00, 0x00, 0xC0,             // mov ecx,0xc0000084
                0xB8, 0x00, 0x02, 0x00, 0x00,             // mov eax,0x200
                0x31, 0xD2,                               // xor edx,edx
                0x0F, 0x30,                               // wrmsr
                0xB9, 0x00, 0x00, 0x02, 0x00,             // mov ecx,0x20000
                0x41, 0xBB, 0x02, 0x00, 0x00, 0x00,       // mov r11d,0x2
                0x48, 0x0F, 0x07,                         // sysretq
                0x8C, 0xCA,                               // mov edx,cs
                0x83, 0xFA, 0x08,                         // cmp edx,0x8
                0x75, 0x14,                               // jne 5a
                0x3D, 0x34, 0x12, 0x00, 0x00,             // cmp eax,0x1234
                0x75, 0x0D,                               // jne 5a
                0x81, 0xF9, 0x07, 0x00, 0x02, 0x00,       // cmp ecx,0x20007
                0x75, 0x05,                               // jne 5a
                0xB0, 0x01,                               // mov al,0x1
                0xE6, 0x10,                               // out 0x10,al
                0xF4,                                     // hlt
                0xB0, 0x01,                               // mov al,0x1
                0xE6, 0x11,                               // out 0x11,al
                0xF4,                                     // hlt
            ],
            UserCode =
            [
                0xB8, 0x34, 0x12, 0x00, 0x00, // mov eax,0x1234
                0x0F, 0x05,                   // syscall
            ],
        },
        new("paging", "changed page tables, accessed and dirty bits, write protection")
        {
            Code =
            [
                0xBB, 0x00, 0x00, 0x09, 0x00,       // mov ebx,0x90000
                0xBE, 0x80, 0x44, 0x00, 0x00,       // mov esi,0x4480
                0x83, 0x3B, 0x01,                   // cmp DWORD [rbx],0x1
                0x75, 0x5E,                         // jne 6d
                0xC7, 0x06, 0x03, 0x10, 0x08, 0x00, // mov DWORD [rsi],0x81003
                0x0F, 0x01, 0x3B,                   // invlpg BYTE [rbx]
                0x83, 0x3B, 0x02,                   // cmp DWORD [rbx],0x2
                0x75, 0x55,                         // jne 72
                0xC7, 0x06, 0x03, 0x00, 0x08, 0x00, // mov DWORD [rsi],0x80003
                0x0F, 0x20, 0xD8,                   // mov rax,cr3
                0x0F, 0x22, 0xD8,                   // mov cr3,rax
                0x83, 0x3B, 0x01,                   // cmp DWORD [rbx],0x1
                0x75, 0x49,                         // jne 77
                0xC7, 0x03, 0x03, 0x00, 0x00, 0x00, // mov DWORD [rbx],0x3
                0x8B, 0x06,                         // mov eax,DWORD [rsi]
                0x83, 0xE0, 0x60,                   // and eax,0x60
                0x83, 0xF8, 0x60,                   // cmp eax,0x60
                0x75, 0x3E,                         // jne 7c
                0x83, 0x26, 0xFD,                   // and DWORD [rsi],0xfffffffd
                0x0F, 0x01, 0x3B,                   // invlpg BYTE [rbx]
                0xC7, 0x03, 0x04, 0x00, 0x00, 0x00, // mov DWORD [rbx],0x4
                0x81, 0xF9, 0x00, 0x00, 0x09, 0x00, // cmp ecx,0x90000
                0x75, 0x2F,                         // jne 81
                0x83, 0x3B, 0x04,                   // cmp DWORD [rbx],0x4
                0x75, 0x2A,                         // jne 81
                0xB0, 0x01,                         // mov al,0x1
                0xE6, 0x10,                         // out 0x10,al
                0xF4,                               // hlt
                0x5A,                               // pop rdx
                0x83, 0xFA, 0x03,                   // cmp edx,0x3
                0x75, 0x24,                         // jne 86
                0x0F, 0x20, 0xD1,                   // mov rcx,cr2
                0x83, 0x0E, 0x02,                   // or DWORD [rsi],0x2
                0x0F, 0x01, 0x3B,                   // invlpg BYTE [rbx]
                0x48, 0xCF,                         // iretq
                0xB0, 0x01,                         // mov al,0x1
                0xE6, 0x11,                         // out 0x11,al
                0xF4,                               // hlt
                0xB0, 0x02,                         // mov al,0x2
                0xE6, 0x11,                         // out 0x11,al
                0xF4,                               // hlt
                0xB0, 0x03,                         // mov al,0x3
                0xE6, 0x11,                         // out 0x11,al
                0xF4,                               // hlt
                0xB0, 0x04,                         // mov al,0x4
                0xE6, 0x11,                         // out 0x11,al
                0xF4,                               // hlt
                0xB0, 0x05,                         // mov al,0x5
                0xE6, 0x11,                         // out 0x11,al
                0xF4,                               // hlt
                0xB0, 0x06,                         // mov al,0x6
                0xE6, 0x11,                         // out 0x11,al
                0xF4,                               // hlt
            ],
            Handlers = [(0x0E, 0x5C)],
        },
        new("local APIC timer", "the timer of each processor")
        {
            Code =
            [
                0xBB, 0x00, 0x00, 0xE0, 0xFE,                               // mov ebx,0xfee00000
                0xC7, 0x83, 0xF0, 0x00, 0x00, 0x00, 0xFF, 0x01, 0x00, 0x00, // mov DWORD [rbx+0xf0],0x1ff
                0xC7, 0x83, 0xE0, 0x03, 0x00, 0x00, 0x0B, 0x00, 0x00, 0x00, // mov DWORD [rbx+0x3e0],0xb
                0xC7, 0x83, 0x20, 0x03, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, // mov DWORD [rbx+0x320],0x40
                0xC7, 0x83, 0x80, 0x03, 0x00, 0x00, 0x10, 0x27, 0x00, 0x00, // mov DWORD [rbx+0x380],0x2710
                0xFB,                                                       // sti
                0xF4,                                                       // hlt
                0xEB, 0xFC,                                                 // jmp 2d
                0xC7, 0x83, 0xB0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // mov DWORD [rbx+0xb0],0x0
                0xB0, 0x01,                                                 // mov al,0x1
                0xE6, 0x10,                                                 // out 0x10,al
                0xF4,                                                       // hlt
            ],
            Handlers = [(0x40, 0x31)],
        },
        new("vmcall", "calls to the hypervisor")
        {
            Code =
            [
                0xB8, 0xFF, 0xFF, 0x00, 0x00,       // mov eax,0xffff
                0x0F, 0x01, 0xC1,                   // vmcall
                0x48, 0x3D, 0x18, 0xFC, 0xFF, 0xFF, // cmp rax,0xfffffffffffffc18
                0x75, 0x05,                         // jne 15
                0xB0, 0x01,                         // mov al,0x1
                0xE6, 0x10,                         // out 0x10,al
                0xF4,                               // hlt
                0xB0, 0x01,                         // mov al,0x1
                0xE6, 0x11,                         // out 0x11,al
                0xF4,                               // hlt
            ],
            Vendor = 'I',
        },
        new("vmmcall", "calls to the hypervisor")
        {
            Code =
            [
                0xB8, 0xFF, 0xFF, 0x00, 0x00,       // mov eax,0xffff
                0x0F, 0x01, 0xD9,                   // vmmcall
                0x48, 0x3D, 0x18, 0xFC, 0xFF, 0xFF, // cmp rax,0xfffffffffffffc18
                0x75, 0x05,                         // jne 15
                0xB0, 0x01,                         // mov al,0x1
                0xE6, 0x10,                         // out 0x10,al
                0xF4,                               // hlt
                0xB0, 0x01,                         // mov al,0x1
                0xE6, 0x11,                         // out 0x11,al
                0xF4,                               // hlt
            ],
            Vendor = 'A',
        },
    ];
}
