# svm_run(vmcb: physical, registers: *mut [u64; 3]): runs the guest until it exits. Interrupts are held
# back from CLGI to STGI; RAX is in the control block.
.globl svm_run
svm_run:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rsi
    movq %rdi, %rax
    movq (%rsi), %rbx
    movq 8(%rsi), %rcx
    movq 16(%rsi), %rdx
    clgi
    vmrun
    stgi
    popq %rsi
    movq %rbx, (%rsi)
    movq %rcx, 8(%rsi)
    movq %rdx, 16(%rsi)
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
