# Reads RAM in from a saved machine while the guest runs: chunks that are touched first, the others in their order. Assembled into PagerCode.cs by ./assemble.
# It is not managed code because threads that wait for a page may hold up a garbage collection, which would then hold up this one.
#   int64 page_in(PagerBlock* block)   System V convention; 0 when all is there, 1 when cancelled, or a negated error number.
# On every return the range is not registered any more, so that nobody waits. See PagerBlock for the fields.
        .intel_syntax noprefix
        .text
        .set    UFFD, 0
        .set    BASE, 8
        .set    SIZE, 16
        .set    ENTRIES, 24
        .set    COUNT, 32
        .set    TABLE, 40
        .set    FILE, 48
        .set    PACKED, 56
        .set    PLAIN, 64
        .set    SHIFT, 72
        .set    FUNCTION, 80
        .set    CONTEXT, 88
        .set    RUNNING, 96
        .set    GO, 100
        .set    CANCEL, 104
        .set    FAILED, 108
        .set    LOADED, 112
        .set    NOTIFY, 120
        .set    POLL, 128
        .set    MESSAGE, 136
        .set    COPY, 168
        .set    RANGE, 208
        .set    LENGTH, 240
        .set    START, 248
        .set    ONE, 256
page_in:
        push    rbx
        push    rbp
        push    r12
        push    r13
        push    r14
        push    r15
        sub     rsp, 8
        mov     rbx, rdi
        cld
        xor     r12d, r12d                      # next entry in the background
        mov     dword ptr [rbx + RUNNING], 1
ready:  cmp     dword ptr [rbx + CANCEL], 0     # nothing is registered before GO
        jne     cancelled
        cmp     dword ptr [rbx + GO], 0
        jne     loop
        mov     eax, 24                         # sched_yield
        syscall
        jmp     ready
loop:   cmp     dword ptr [rbx + CANCEL], 0
        jne     cancelled
        mov     edi, [rbx + UFFD]
        lea     rsi, [rbx + MESSAGE]
        mov     edx, 32
        xor     eax, eax                        # read, which does not wait
        syscall
        cmp     rax, 32
        jne     behind
        cmp     byte ptr [rbx + MESSAGE], 0x12  # UFFD_EVENT_PAGEFAULT
        jne     loop
        mov     r13, [rbx + MESSAGE + 16]       # address
        and     r13, -4096
        mov     rax, r13
        sub     rax, [rbx + BASE]
        mov     ecx, [rbx + SHIFT]
        shr     rax, cl
        mov     rcx, [rbx + TABLE]
        mov     eax, [rcx + rax * 4]            # entry + 1, or 0: all zero
        sub     eax, 1
        jb      zero
        mov     r14d, eax
        call    load
        test    rax, rax
        jnz     fail
zero:   # The page was zero in the chunk, or is there by now: then who waits is woken.
        mov     [rbx + RANGE], r13
        mov     qword ptr [rbx + RANGE + 8], 4096
        mov     qword ptr [rbx + RANGE + 16], 0
        mov     edi, [rbx + UFFD]
        mov     esi, 0xc020aa04                 # UFFDIO_ZEROPAGE
        lea     rdx, [rbx + RANGE]
        mov     eax, 16
        syscall
        test    rax, rax
        jns     loop
        cmp     rax, -11                        # EAGAIN
        je      zero
        cmp     rax, -17                        # EEXIST
        jne     fail
        mov     edi, [rbx + UFFD]
        mov     esi, 0x8010aa02                 # UFFDIO_WAKE
        lea     rdx, [rbx + RANGE]
        mov     eax, 16
        syscall
        jmp     loop
behind: cmp     r12, [rbx + COUNT]
        jae     complete
        mov     r14, r12
        inc     r12
        call    load
        test    rax, rax
        jz      loop
fail:   # Managed code is told and has a second to stop the machine before those who wait go on with zeros.
        mov     r15, rax
        mov     dword ptr [rbx + FAILED], r14d
        mov     [rbx + LENGTH], r15
        mov     edi, [rbx + NOTIFY]
        lea     rsi, [rbx + ONE]
        mov     edx, 8
        mov     eax, 1                          # write
        syscall
        lea     rdi, [rbx + POLL]
        mov     esi, 1
        mov     edx, 1000
        mov     eax, 7                          # poll
        syscall
        mov     rax, r15
        jmp     finish
cancelled:
        mov     eax, 1
        jmp     finish
complete:
        xor     eax, eax
finish: mov     r15, rax
        mov     rax, [rbx + BASE]
        mov     [rbx + RANGE], rax
        mov     rax, [rbx + SIZE]
        mov     [rbx + RANGE + 8], rax
        mov     edi, [rbx + UFFD]
        mov     esi, 0x8010aa01                 # UFFDIO_UNREGISTER
        lea     rdx, [rbx + RANGE]
        mov     eax, 16
        syscall
        mov     rax, r15
        add     rsp, 8
        pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     rbp
        pop     rbx
        ret

# Entry r14 into memory, unless it is there. Result in rax: 0 or a negated error number.
load:   mov     r15, r14
        shl     r15, 4
        add     r15, [rbx + ENTRIES]            # {uint64 offset, uint32 chunk, uint32 length and, in bit 31, loaded}
        cmp     dword ptr [r15 + 12], 0
        js      there
        xor     ebp, ebp
more:   mov     edi, [rbx + FILE]
        mov     rsi, [rbx + PACKED]
        add     rsi, rbp
        mov     edx, [r15 + 12]
        sub     rdx, rbp
        mov     r10, [r15]
        add     r10, rbp
        mov     eax, 17                         # pread64
        syscall
        cmp     rax, -4                         # EINTR
        je      more
        test    rax, rax
        js      failed
        jz      short
        add     rbp, rax
        mov     eax, [r15 + 12]
        cmp     rbp, rax
        jb      more
        # Plain length: the last chunk may be shorter.
        mov     ecx, [rbx + SHIFT]
        mov     eax, [r15 + 8]
        shl     rax, cl
        mov     [rbx + START], rax
        mov     rdx, [rbx + SIZE]
        sub     rdx, rax
        mov     eax, 1
        shl     rax, cl
        cmp     rax, rdx
        cmova   rax, rdx
        mov     [rbx + LENGTH], rax
        mov     rdi, [rbx + CONTEXT]
        mov     rsi, [rbx + PLAIN]
        mov     rdx, rax
        mov     rcx, [rbx + PACKED]
        mov     r8d, [r15 + 12]
        sub     rsp, 8                          # aligned by the convention
        call    qword ptr [rbx + FUNCTION]
        add     rsp, 8
        cld
        cmp     rax, [rbx + LENGTH]
        jne     damaged
        # Runs of pages that are not zero.
        xor     ebp, ebp
skip:   cmp     rbp, [rbx + LENGTH]
        jae     done
        mov     rdi, [rbx + PLAIN]
        add     rdi, rbp
        mov     ecx, 512
        xor     eax, eax
        repe scasq
        jne     run
        add     rbp, 4096
        jmp     skip
run:    mov     rax, [rbx + PLAIN]
        add     rax, rbp
        mov     [rbx + COPY + 8], rax           # source
        mov     rax, [rbx + BASE]
        add     rax, [rbx + START]
        add     rax, rbp
        mov     [rbx + COPY], rax               # destination
        mov     qword ptr [rbx + COPY + 24], 0  # mode
        mov     rdx, rbp
extend: add     rbp, 4096
        cmp     rbp, [rbx + LENGTH]
        jae     copy
        mov     rdi, [rbx + PLAIN]
        add     rdi, rbp
        mov     ecx, 512
        xor     eax, eax
        repe scasq
        jne     extend
copy:   mov     rax, rbp
        sub     rax, rdx
        mov     [rbx + COPY + 16], rax          # length
again:  mov     qword ptr [rbx + COPY + 32], 0
        mov     edi, [rbx + UFFD]
        mov     esi, 0xc028aa03                 # UFFDIO_COPY
        lea     rdx, [rbx + COPY]
        mov     eax, 16
        syscall
        test    rax, rax
        jz      skip
        cmp     rax, -11                        # EAGAIN: a part of it
        jne     failed
        mov     rax, [rbx + COPY + 32]
        test    rax, rax
        jle     again
        add     [rbx + COPY], rax
        add     [rbx + COPY + 8], rax
        sub     [rbx + COPY + 16], rax
        jnz     again
        jmp     skip
done:   or      dword ptr [r15 + 12], 0x80000000
        inc     qword ptr [rbx + LOADED]
there:  xor     eax, eax
failed: ret
short:  mov     rax, -5                         # EIO: the file ends
        ret
damaged:
        mov     rax, -74                        # EBADMSG
        ret
