; What Bochs has in the place of a BIOS, 64 KiB below 4 GiB: from the reset vector to protected mode, and into the image,
; as a Multiboot loader would (Multiboot specification, 3.2 and 3.3). Bochs itself puts the image at 1 MiB.
;
; nasm -DENTRY=address -DCOMMAND_LINE='"words"' -f bin
%define IN_ROM(label) (0xffff0000 + label)
%define CODE 8
%define DATA 16
%define LOADED_BY_MULTIBOOT 0x2badb002
%define HAS_COMMAND_LINE 4

bits 16
org 0
start:
    cli
    o32 lgdt [cs:table]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp dword CODE:IN_ROM(protected)

bits 32
protected:
    mov ax, DATA
    mov ds, ax
    mov es, ax
    mov ss, ax
    ; Bochs has memory in blocks of 128 KiB, and gives each its place when it is touched first; but the image it has put
    ; there at one go. So they are touched in order.
    mov eax, 0x100000
.touch:
    mov ecx, [eax]
    add eax, 0x20000
    cmp eax, 0x1000000
    jb .touch
    mov ebx, IN_ROM(information)
    mov eax, LOADED_BY_MULTIBOOT
    jmp dword CODE:ENTRY

align 8
segments:
    dq 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
table:
    dw 23
    dd IN_ROM(segments)
align 4
information:
    dd HAS_COMMAND_LINE, 0, 0, 0, IN_ROM(words)
words:
    db "bare ", COMMAND_LINE, 0

    times 0xfff0 - ($ - $$) db 0
bits 16
    jmp start
    times 0x10000 - ($ - $$) db 0
