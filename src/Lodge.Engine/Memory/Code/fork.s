# The process that keeps RAM as it was: forks, and in the child serves memory over a socket until the other end is closed. Assembled into ForkCode.cs; as(1) and
# objdump(1) by ./assemble. System calls only: nothing of libc or .NET may run in the child, which has one thread of many.
#   int64 fork(int socket)   System V convention; the child's process number, or a negated error number.
# Requests are {uint64 address, uint64 length}; the answer is that many bytes.
        .intel_syntax noprefix
        .text
fork:   push    rbx
        push    r12
        push    r13
        sub     rsp, 32
        mov     ebx, edi
        # No signal may enter the child: the runtime's handlers are of the parent. SIG_SETMASK = 2, rt_sigprocmask = 14.
        mov     qword ptr [rsp], -1
        mov     edi, 2
        mov     rsi, rsp
        lea     rdx, [rsp + 8]
        mov     r10d, 8
        mov     eax, 14
        syscall
        # clone = 56 without flags and without a signal at its end, of which the runtime would hear.
        xor     edi, edi
        xor     esi, esi
        xor     edx, edx
        xor     r10d, r10d
        xor     r8d, r8d
        mov     eax, 56
        syscall
        test    rax, rax
        jz      child
        mov     r12, rax
        mov     edi, 2
        lea     rsi, [rsp + 8]
        xor     edx, edx
        mov     r10d, 8
        mov     eax, 14
        syscall
        mov     rax, r12
        add     rsp, 32
        pop     r13
        pop     r12
        pop     rbx
        ret
child:  # PR_SET_PDEATHSIG = 1, SIGKILL = 9, prctl = 157
        mov     edi, 1
        mov     esi, 9
        mov     eax, 157
        syscall
        # The socket becomes descriptor 0 (dup2 = 33) and all others are closed (close_range = 436), so that locks of the parent end with the parent.
        mov     edi, ebx
        xor     esi, esi
        mov     eax, 33
        syscall
        mov     edi, 1
        mov     esi, -1
        xor     edx, edx
        mov     eax, 436
        syscall
serve:  # recvfrom = 45 with MSG_WAITALL = 0x100
        xor     edi, edi
        mov     rsi, rsp
        mov     edx, 16
        mov     r10d, 0x100
        xor     r8d, r8d
        xor     r9d, r9d
        mov     eax, 45
        syscall
        cmp     rax, 16
        jne     end
        mov     r12, [rsp]
        mov     r13, [rsp + 8]
answer: # sendto = 44 with MSG_NOSIGNAL = 0x4000
        xor     edi, edi
        mov     rsi, r12
        mov     rdx, r13
        mov     r10d, 0x4000
        xor     r8d, r8d
        xor     r9d, r9d
        mov     eax, 44
        syscall
        test    rax, rax
        jle     end
        add     r12, rax
        sub     r13, rax
        jnz     answer
        jmp     serve
end:    # exit_group = 231
        xor     edi, edi
        mov     eax, 231
        syscall
        ud2
