/* Makes one system call, by any of the machine's entries, and prints its result.
 *
 *     calls native NUMBER [ARGUMENT...]    syscall instruction; result or -errno
 *     calls i386 NUMBER [ARGUMENT...]      int $0x80, the 32-bit table
 *
 * Arguments are unsigned 64-bit numbers, decimal or 0x...; missing ones are 0. The children that a
 * fork-like call makes end silently.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long native(long n, unsigned long a[6])
{
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#else
    long result = syscall(n, a[0], a[1], a[2], a[3], a[4], a[5]);
    return result;
#endif
}

static long i386(long n, unsigned long a[6])
{
#if defined(__x86_64__)
    int result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"((int)n), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
                     : "r8", "r9", "r10", "r11", "memory");
    return result;
#else
    return -38;
#endif
}

int main(int argc, char **argv)
{
    unsigned long a[6] = {0};
    pid_t self = getpid();
    long result;

    if (argc < 3)
        return 2;
    for (int i = 3; i < argc && i < 9; i++)
        a[i - 3] = strtoul(argv[i], NULL, 0);
    result = strcmp(argv[1], "i386") ? native(strtol(argv[2], NULL, 0), a)
                                     : i386(strtol(argv[2], NULL, 0), a);
    if (getpid() != self)
        _exit(0);
    printf("%ld\n", result);
    return 0;
}
