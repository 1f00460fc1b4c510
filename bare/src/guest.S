# What guests do: 32-bit code, in one page. Its registers are a Job (guest.rs), and what is left of it:
#   EBX  page now       ECX  pages left in this pass       EDX  what is done with each: 0 read, 1 write, 2 add one
#   EDI  first page     EBP  pages of a pass               ESI  passes left
# It ends with a call to the host.
.section .rodata.guest, "a"
.align 4096
.globl guest_code
.globl guest_code_call
.globl guest_code_end
.code32
guest_code:
    cmpl $1, %edx
    je 2f
    ja 3f
    movl (%ebx), %eax
    jmp 4f
2:  movl %esi, (%ebx)
    jmp 4f
3:  lock incl (%ebx)
4:  addl $0x1000, %ebx
    decl %ecx
    jnz guest_code
    movl %edi, %ebx
    movl %ebp, %ecx
    decl %esi
    jnz guest_code
# VMMCALL, or VMCALL in its place.
guest_code_call:
    .byte 0x0f, 0x01, 0xd9
    ud2
guest_code_end:
.code64
.text
