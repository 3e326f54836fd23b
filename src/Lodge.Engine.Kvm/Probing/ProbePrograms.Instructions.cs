namespace Lodge.Engine.Kvm.Probing;

// Instructions that kernels execute in ring 0 and that an emulator may lack.
internal static partial class ProbePrograms
{
    private static readonly ProbeProgram[] s_instructions =
    [
        new("xsave and xsetbv", "switching tasks")
        {
            Code =
            [
                0x0F, 0x20, 0xE0,                               // mov rax,cr4
                0x0D, 0x00, 0x00, 0x04, 0x00,                   // or eax,0x40000
                0x0F, 0x22, 0xE0,                               // mov cr4,rax
                0x31, 0xC9,                                     // xor ecx,ecx
                0x31, 0xD2,                                     // xor edx,edx
                0xB8, 0x03, 0x00, 0x00, 0x00,                   // mov eax,0x3
                0x0F, 0x01, 0xD1,                               // xsetbv
                0x31, 0xC0,                                     // xor eax,eax
                0x0F, 0x01, 0xD0,                               // xgetbv
                0x83, 0xF8, 0x03,                               // cmp eax,0x3
                0x75, 0x17,                                     // jne 38
                0x31, 0xD2,                                     // xor edx,edx
                0x0F, 0xAE, 0x24, 0x25, 0x00, 0x00, 0x03, 0x00, // xsave 0x30000
                0x0F, 0xAE, 0x2C, 0x25, 0x00, 0x00, 0x03, 0x00, // xrstor 0x30000
                0xB0, 0x01,                                     // mov al,0x1
                0xE6, 0x10,                                     // out 0x10,al
                0xF4,                                           // hlt
                0xB0, 0x01,                                     // mov al,0x1
                0xE6, 0x11,                                     // out 0x11,al
                0xF4,                                           // hlt
            ],
            Feature = new(1, 'c', 26),
        },
        new("cmpxchg16b", "lock-free lists of the kernel's allocator")
        {
            Code =
            [
                0x31, 0xC0,                                                 // xor eax,eax
                0x31, 0xD2,                                                 // xor edx,edx
                0xBB, 0x01, 0x00, 0x00, 0x00,                               // mov ebx,0x1
                0xB9, 0x02, 0x00, 0x00, 0x00,                               // mov ecx,0x2
                0xF0, 0x48, 0x0F, 0xC7, 0x0C, 0x25, 0x00, 0x00, 0x03, 0x00, // lock cmpxchg16b OWORD 0x30000
                0x75, 0x10,                                                 // jne 2a
                0x48, 0x83, 0x3C, 0x25, 0x08, 0x00, 0x03, 0x00, 0x02,       // cmp QWORD 0x30008,0x2
                0x75, 0x05,                                                 // jne 2a
                0xB0, 0x01,                                                 // mov al,0x1
                0xE6, 0x10,                                                 // out 0x10,al
                0xF4,                                                       // hlt
                0xB0, 0x01,                                                 // mov al,0x1
                0xE6, 0x11,                                                 // out 0x11,al
                0xF4,                                                       // hlt
            ],
            Feature = new(1, 'c', 13),
        },
        new("SSE in ring 0", "checksums and copies in the kernel")
        {
            Code =
            [
                0xB8, 0x03, 0x00, 0x00, 0x00,                         // mov eax,0x3
                0xF2, 0x0F, 0x2A, 0xC0,                               // cvtsi2sd xmm0,eax
                0xF2, 0x0F, 0x59, 0xC0,                               // mulsd xmm0,xmm0
                0x0F, 0x29, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00,       // movaps XMMWORD 0x30000,xmm0
                0x66, 0x0F, 0x6F, 0x0C, 0x25, 0x00, 0x00, 0x03, 0x00, // movdqa xmm1,XMMWORD 0x30000
                0xF2, 0x0F, 0x2C, 0xC1,                               // cvttsd2si eax,xmm1
                0x83, 0xF8, 0x09,                                     // cmp eax,0x9
                0x75, 0x1B,                                           // jne 42
                0x66, 0x0F, 0xEF, 0xC9,                               // pxor xmm1,xmm1
                0x66, 0x0F, 0xFE, 0x0C, 0x25, 0x10, 0x00, 0x03, 0x00, // paddd xmm1,XMMWORD 0x30010
                0xF3, 0x0F, 0x7F, 0x0C, 0x25, 0x01, 0x00, 0x03, 0x00, // movdqu XMMWORD 0x30001,xmm1
                0xB0, 0x01,                                           // mov al,0x1
                0xE6, 0x10,                                           // out 0x10,al
                0xF4,                                                 // hlt
                0xB0, 0x01,                                           // mov al,0x1
                0xE6, 0x11,                                           // out 0x11,al
                0xF4,                                                 // hlt
            ],
        },
        new("AVX in ring 0", "RAID and cryptography in the kernel")
        {
            Code =
            [
                0xC7, 0x04, 0x25, 0x04, 0x00, 0x03, 0x00, 0x00, 0x00, 0x80, 0x3F, // mov DWORD 0x30004,0x3f800000
                0xC5, 0xFC, 0x10, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00,             // vmovups ymm0,YMMWORD 0x30000
                0xC5, 0xFC, 0x58, 0xC0,                                           // vaddps ymm0,ymm0,ymm0
                0xC5, 0xFC, 0x11, 0x04, 0x25, 0x40, 0x00, 0x03, 0x00,             // vmovups YMMWORD 0x30040,ymm0
                0xC5, 0xF8, 0x77,                                                 // vzeroupper
                0x81, 0x3C, 0x25, 0x44, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x40, // cmp DWORD 0x30044,0x40000000
                0x75, 0x05,                                                       // jne 36
                0xB0, 0x01,                                                       // mov al,0x1
                0xE6, 0x10,                                                       // out 0x10,al
                0xF4,                                                             // hlt
                0xB0, 0x01,                                                       // mov al,0x1
                0xE6, 0x11,                                                       // out 0x11,al
                0xF4,                                                             // hlt
            ],
            Feature = new(1, 'c', 28),
            Xcr0 = 7,
        },
        new("x87", "the state of old programs")
        {
            Code =
            [
                0xDB, 0xE3,                                     // fninit
                0xD9, 0xE8,                                     // fld1
                0xD9, 0xE8,                                     // fld1
                0xDE, 0xC1,                                     // faddp st(1),st
                0xDB, 0x1C, 0x25, 0x00, 0x00, 0x03, 0x00,       // fistp DWORD 0x30000
                0x83, 0x3C, 0x25, 0x00, 0x00, 0x03, 0x00, 0x02, // cmp DWORD 0x30000,0x2
                0x75, 0x15,                                     // jne 2e
                0x0F, 0xAE, 0x04, 0x25, 0x00, 0x02, 0x03, 0x00, // fxsave 0x30200
                0x0F, 0xAE, 0x0C, 0x25, 0x00, 0x02, 0x03, 0x00, // fxrstor 0x30200
                0xB0, 0x01,                                     // mov al,0x1
                0xE6, 0x10,                                     // out 0x10,al
                0xF4,                                           // hlt
                0xB0, 0x01,                                     // mov al,0x1
                0xE6, 0x11,                                     // out 0x11,al
                0xF4,                                           // hlt
            ],
        },
        new("popcnt", "bit counts")
        {
            Code =
            [
                0xB8, 0x0F, 0x0F, 0x00, 0x00, // mov eax,0xf0f
                0xF3, 0x0F, 0xB8, 0xC0,       // popcnt eax,eax
                0x83, 0xF8, 0x08,             // cmp eax,0x8
                0x75, 0x05,                   // jne 13
                0xB0, 0x01,                   // mov al,0x1
                0xE6, 0x10,                   // out 0x10,al
                0xF4,                         // hlt
                0xB0, 0x01,                   // mov al,0x1
                0xE6, 0x11,                   // out 0x11,al
                0xF4,                         // hlt
            ],
            Feature = new(1, 'c', 23),
        },
        new("movbe", "cryptography in the kernel")
        {
            Code =
            [
                0xC7, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00, 0x04, 0x03, 0x02, 0x01, // mov DWORD 0x30000,0x1020304
                0x0F, 0x38, 0xF0, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00,             // movbe eax,DWORD 0x30000
                0x3D, 0x01, 0x02, 0x03, 0x04,                                     // cmp eax,0x4030201
                0x75, 0x05,                                                       // jne 20
                0xB0, 0x01,                                                       // mov al,0x1
                0xE6, 0x10,                                                       // out 0x10,al
                0xF4,                                                             // hlt
                0xB0, 0x01,                                                       // mov al,0x1
                0xE6, 0x11,                                                       // out 0x11,al
                0xF4,                                                             // hlt
            ],
            Feature = new(1, 'c', 22),
        },
        new("rdtscp", "reading the time")
        {
            Code =
            [
                0xB9, 0x03, 0x01, 0x00, 0xC0, // mov ecx,0xc0000103
                0xB8, 0x05, 0x00, 0x00, 0x00, // mov eax,0x5
                0x31, 0xD2,                   // xor edx,edx
                0x0F, 0x30,                   // wrmsr
                0x0F, 0x01, 0xF9,             // rdtscp
                0x83, 0xF9, 0x05,             // cmp ecx,0x5
                0x75, 0x05,                   // jne 1b
                0xB0, 0x01,                   // mov al,0x1
                0xE6, 0x10,                   // out 0x10,al
                0xF4,                         // hlt
                0xB0, 0x01,                   // mov al,0x1
                0xE6, 0x11,                   // out 0x11,al
                0xF4,                         // hlt
            ],
            Feature = new(0x8000_0001, 'd', 27),
        },
        new("stac and clac", "access to user memory")
        {
            Code =
            [
                0x0F, 0x20, 0xE0,                         // mov rax,cr4
                0x0D, 0x00, 0x00, 0x20, 0x00,             // or eax,0x200000
                0x0F, 0x22, 0xE0,                         // mov cr4,rax
                0x0F, 0x01, 0xCB,                         // stac
                0x8B, 0x04, 0x25, 0x00, 0x00, 0x04, 0x00, // mov eax,DWORD 0x40000
                0x3D, 0x5A, 0x5A, 0x00, 0x00,             // cmp eax,0x5a5a
                0x75, 0x0C,                               // jne 28
                0x0F, 0x01, 0xCA,                         // clac
                0x31, 0xDB,                               // xor ebx,ebx
                0x8B, 0x04, 0x25, 0x00, 0x00, 0x04, 0x00, // mov eax,DWORD 0x40000
                0xB0, 0x01,                               // mov al,0x1
                0xE6, 0x11,                               // out 0x11,al
                0xF4,                                     // hlt
                0x0F, 0x20, 0xD0,                         // mov rax,cr2
                0x3D, 0x00, 0x00, 0x04, 0x00,             // cmp eax,0x40000
                0x75, 0x05,                               // jne 3c
                0xB0, 0x01,                               // mov al,0x1
                0xE6, 0x10,                               // out 0x10,al
                0xF4,                                     // hlt
                0xB0, 0x02,                               // mov al,0x2
                0xE6, 0x11,                               // out 0x11,al
                0xF4,                                     // hlt
            ],
            Handlers = [(0x0E, 0x2D)],
            Feature = new(7, 'b', 20),
        },
    ];
}
