# Where the guest's other processors wait until one of them wakes them: 64-bit code, with low memory mapped one to one.
#   EBX  the number of this one's interrupt controller        RDI  the mailbox (ACPI specification 6.5, 5.2.12.19)
.section .rodata.parking, "a"
.globl parking_code
.globl parking_code_end
parking_code:
    pause
    cmpw $1, (%rdi)
    jne parking_code
    cmpl %ebx, 4(%rdi)
    jne parking_code
    movq 8(%rdi), %rax
    movw $0, (%rdi)
    jmp *%rax
parking_code_end:
.text
