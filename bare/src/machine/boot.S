# From a multiboot loader, or a start-up interrupt, to `start` in long mode, with four gigabytes mapped
# one to one. Interrupts stay off.

.set MULTIBOOT_FLAGS, 0x3
.set COMMAND_LINE, 1 << 2             # of the loader's flags: there is one
.set CR0_PROTECTED, 1 << 0
.set CR0_ON, 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1 << 0
.set CR0_OFF, 1 << 30 | 1 << 29 | 1 << 3 | 1 << 2
.set CR4_ON, 1 << 10 | 1 << 9 | 1 << 5
.set CR4_LA57, 1 << 12
.set EFER, 0xc0000080
.set EFER_ON, 1 << 11 | 1 << 8
.set PRESENT_WRITABLE, 0x3
.set LARGE, 0x80
.set CODE64, 8
.set DATA, 16
.set CODE32, 24
.set TRAMPOLINE, 0x8000
.set STACK_BITS, 16
.set PROCESSORS, 16                   # as in processors.rs
.set LEVELS_5, 0x353d736c

.section .multiboot, "a"
.align 4
.long 0x1badb002, MULTIBOOT_FLAGS, -(0x1badb002 + MULTIBOOT_FLAGS)

.section .text.boot, "ax"
.code32
.globl boot_start
boot_start:
    cli
    movl %ebx, boot_information
    # A command line that ends in `levels=5` asks for five levels: these are its last four characters.
    testl $COMMAND_LINE, (%ebx)
    jz 3f
    movl 16(%ebx), %esi
1:  cmpb $0, (%esi)
    je 2f
    incl %esi
    jmp 1b
2:  cmpl $LEVELS_5, -4(%esi)
    jne 3f
    movl $CR4_LA57, boot_la57
3:  movl $boot_l2, %edi
    movl $(PRESENT_WRITABLE | LARGE), %eax
    movl $(4 * 512), %ecx
4:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 4b
    movl $boot_l3, %edi
    movl $(boot_l2 + PRESENT_WRITABLE), %eax
    movl $4, %ecx
5:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    decl %ecx
    jnz 5b
    movl $(boot_l3 + PRESENT_WRITABLE), boot_l4
    movl $(boot_l4 + PRESENT_WRITABLE), boot_l5
    xorl %esi, %esi
# ESI is the processor's number.
to_long_mode:
    movl %cr4, %eax
    orl $CR4_ON, %eax
    orl boot_la57, %eax
    movl %eax, %cr4
    movl $boot_l4, %eax
    cmpl $0, boot_la57
    je 1f
    movl $boot_l5, %eax
1:  movl %eax, %cr3
    movl $EFER, %ecx
    rdmsr
    orl $EFER_ON, %eax
    wrmsr
    movl %cr0, %eax
    andl $~CR0_OFF, %eax
    orl $CR0_ON, %eax
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $CODE64, $in_long_mode

.code64
in_long_mode:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movl %esi, %edi
    movl %esi, %eax
    incl %eax
    shll $STACK_BITS, %eax
    leaq boot_stacks(%rax), %rsp
    xorl %ebp, %ebp
    call start
1:  cli
    hlt
    jmp 1b

# Copied to the page that a start-up interrupt names: other processors begin there, in real mode.
.code16
.globl boot_trampoline
boot_trampoline:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl (trampoline_gdt_pointer - boot_trampoline + TRAMPOLINE)
    movl %cr0, %eax
    orl $CR0_PROTECTED, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $another
.align 8
trampoline_gdt_pointer:
    .word 63
    .long boot_gdt
.globl boot_trampoline_end
boot_trampoline_end:

.code32
another:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $1, %esi
    lock xaddl %esi, boot_number
    # Those that there are no stacks for stay here.
    cmpl $PROCESSORS, %esi
    jb to_long_mode
1:  cli
    hlt
    jmp 1b

.data
.align 16
# 64-bit code, data, 32-bit code; the rest is for task segments.
.globl boot_gdt
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0, 0, 0, 0
boot_gdt_pointer:
    .word 63
    .quad boot_gdt
boot_number:
    .long 1
boot_la57:
    .long 0
# What the loader says: where its structure is (Multiboot specification, 3.3).
.globl boot_information
boot_information:
    .long 0

.section .bss
.align 4096
boot_l5: .skip 4096
boot_l4: .skip 4096
boot_l3: .skip 4096
boot_l2: .skip 4 * 4096
boot_stacks: .skip PROCESSORS << STACK_BITS
.text
.code64
