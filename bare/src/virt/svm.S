# svm_run(vmcb: physical, registers: *mut Registers): runs the guest until it exits. RAX is in the control block.
#
# From CLGI to STGI all interrupts are held back, whatever the interrupt flag says. It has to be set at VMRUN:
# with V_INTR_MASKING it is what lets interrupts through while the guest runs (AMD APM vol. 2, 15.21.1). One that
# came before is an exit at once, and still pending afterwards.
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
    movq 32(%rsi), %rdi
    movq 40(%rsi), %rbp
    movq 24(%rsi), %rsi
    clgi
    sti
    vmrun
    cli
    stgi
    xchgq %rsi, (%rsp)
    movq %rbx, (%rsi)
    movq %rcx, 8(%rsi)
    movq %rdx, 16(%rsi)
    popq 24(%rsi)
    movq %rdi, 32(%rsi)
    movq %rbp, 40(%rsi)
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
