# vmx_run(launched, registers: *mut Registers) -> 0, or 1 if the guest could not be entered. The current
# control structure gets to know where to come back. Interrupts are off: one that comes, or came, is an exit.
.set HOST_RSP, 0x6c14
.set HOST_RIP, 0x6c16
.globl vmx_run
vmx_run:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rsi
    movl $HOST_RSP, %eax
    vmwrite %rsp, %rax
    leaq vmx_exit(%rip), %rcx
    movl $HOST_RIP, %eax
    vmwrite %rcx, %rax
    testq %rdi, %rdi
    movq (%rsi), %rbx
    movq 8(%rsi), %rcx
    movq 16(%rsi), %rdx
    movq 32(%rsi), %rdi
    movq 40(%rsi), %rbp
    movq 24(%rsi), %rsi
    jnz 1f
    vmlaunch
    jmp 2f
1:  vmresume
2:  popq %rsi
    movl $1, %eax
    jmp 3f
vmx_exit:
    xchgq %rsi, (%rsp)
    movq %rbx, (%rsi)
    movq %rcx, 8(%rsi)
    movq %rdx, 16(%rsi)
    popq 24(%rsi)
    movq %rdi, 32(%rsi)
    movq %rbp, 40(%rsi)
    xorl %eax, %eax
3:  popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
