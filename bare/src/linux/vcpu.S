# svm_run_whole(vmcb: physical, registers: *mut Registers, host: physical): runs the guest until it exits,
# with all of its registers but those of the control block. All interrupts are held back when it is called (CLGI),
# and not when it returns.
#
# VMRUN leaves FS, GS, TR, LDTR, and what SYSCALL and SYSENTER go by, alone: VMLOAD and VMSAVE exchange
# them. The image's own code uses the first 128 bits of XMM registers, to copy and to count with, and
# nothing else of their kind: so 512 bytes of that state have to be kept; the rest of it, and XCR0, stay the guest's.
.set FPU, 112

.globl svm_run_whole
svm_run_whole:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rdx
    pushq %rsi
    movq %rdi, %rax
    vmload
    fxrstorq FPU(%rsi)
    movq (%rsi), %rbx
    movq 8(%rsi), %rcx
    movq 16(%rsi), %rdx
    movq 32(%rsi), %rdi
    movq 40(%rsi), %rbp
    movq 48(%rsi), %r8
    movq 56(%rsi), %r9
    movq 64(%rsi), %r10
    movq 72(%rsi), %r11
    movq 80(%rsi), %r12
    movq 88(%rsi), %r13
    movq 96(%rsi), %r14
    movq 104(%rsi), %r15
    movq 24(%rsi), %rsi
    vmrun
    vmsave
    pushq %rsi
    movq 8(%rsp), %rsi
    movq %rbx, (%rsi)
    movq %rcx, 8(%rsi)
    movq %rdx, 16(%rsi)
    popq 24(%rsi)
    movq %rdi, 32(%rsi)
    movq %rbp, 40(%rsi)
    movq %r8, 48(%rsi)
    movq %r9, 56(%rsi)
    movq %r10, 64(%rsi)
    movq %r11, 72(%rsi)
    movq %r12, 80(%rsi)
    movq %r13, 88(%rsi)
    movq %r14, 96(%rsi)
    movq %r15, 104(%rsi)
    fxsaveq FPU(%rsi)
    popq %rsi
    popq %rax
    vmload
    stgi
    cld
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

# svm_save(vmcb: physical): what VMLOAD loads, as it is now.
.globl svm_save
svm_save:
    movq %rdi, %rax
    vmsave
    ret
