# Where exceptions and interrupts come in. All have stacks of their own (the interrupt-stack table), so what
# the compiler keeps below the stack pointer stays as it is.
.set END_OF_INTERRUPT, 0xfee000b0
.set STUB_BYTES, 16

# Exceptions, by number; some bring an error code (AMD APM vol. 2, 8.2).
.balign STUB_BYTES
.globl interrupts_exceptions
interrupts_exceptions:
.set vector, 0
.rept 32
    .balign STUB_BYTES
    .if (vector != 8) && (vector != 10) && (vector != 11) && (vector != 12) && (vector != 13) && (vector != 14) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
    pushq $0
    .endif
    pushq $vector
    jmp 1f
    .set vector, vector + 1
.endr
1:  movq %rsp, %rdi
    andq $-16, %rsp
    cld
    call interrupts_exception
    ud2

# Somebody wants this processor to come out of its guest: it has.
.globl interrupts_kick
interrupts_kick:
    pushq %rax
    movl $END_OF_INTERRUPT, %eax
    movl $0, (%rax)
    popq %rax
.globl interrupts_nothing
interrupts_nothing:
    iretq
