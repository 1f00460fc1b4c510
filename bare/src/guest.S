# What guests do: 32-bit code without paging, in one page.
#   EBX  address      ECX  how often      EDX  what: 0 read, 1 write, 2 add one, 3 add one until 4(EBX)
# The address goes from page to page. It ends with a call to the host.
.section .rodata.guest, "a"
.align 4096
.globl guest_code
.globl guest_code_call
.globl guest_code_end
.code32
guest_code:
1:  cmpl $1, %edx
    je 3f
    cmpl $2, %edx
    je 4f
    cmpl $3, %edx
    je 6f
    movl (%ebx), %eax
    jmp 5f
3:  movl %ecx, (%ebx)
    jmp 5f
4:  lock incl (%ebx)
5:  addl $0x1000, %ebx
    decl %ecx
    jnz 1b
# VMMCALL; its last byte is another for VMCALL.
guest_code_call:
    .byte 0x0f, 0x01, 0xd9
    jmp 1b
6:  lock incl (%ebx)
    cmpl $0, 4(%ebx)
    je 6b
    jmp guest_code_call
guest_code_end:
.code64
.text
