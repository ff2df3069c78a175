/* Preloaded, changes what a program hears that asks the processor who it is and what it can, so that it takes the way
   that it takes on another machine. OTHER_CPU in the environment says which, in any order: "avx2" hides AVX-512, AMX and
   VNNI; "amd" names AMD as the maker, for which Intel's MKL has other kernels. Linux on x86-64, where CPUID can be made to
   fault (arch_prctl(2)). The instructions still exist: only the answers change. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

static int without_avx512, as_amd;

static long allow_cpuid(long allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static void answer(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
    (void)info;
    if (instruction[0] != 0x0f || instruction[1] != 0xa2) { /* a real fault: let it end the program */
        signal(signal_number, SIG_DFL);
        return;
    }
    unsigned leaf = registers[REG_RAX], part = registers[REG_RCX], a, b, c, d;
    allow_cpuid(1);
    /* AMD's processors describe their caches there, in the form of leaf 4; oneDNN is wrong without. */
    __cpuid_count(as_amd && leaf == 0x8000001d ? 4 : leaf, part, a, b, c, d);
    allow_cpuid(0);
    if (as_amd && leaf == 0x80000000) a = 0x80000020;   /* the last leaf */
    if (as_amd && leaf == 0x80000001) c |= 1u << 22;    /* the caches are described */
    if (as_amd && leaf == 7 && part == 0) d &= ~(1u << 22 | 1u << 23 | 1u << 24 | 1u << 25); /* no AMX, no FP16 */
    if (as_amd && leaf == 7 && part == 1) a &= ~(1u << 21);
    if (as_amd && (leaf == 0 || leaf == 0x80000000)) { /* the maker's name, in this order of registers */
        memcpy(&b, "Auth", 4);
        memcpy(&d, "enti", 4);
        memcpy(&c, "cAMD", 4);
    }
    if (without_avx512 && leaf == 7 && part == 0) {
        b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31); /* AVX-512 */
        c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);              /* its VBMI, VNNI, BITALG, POPCNT */
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25); /* its rest, and AMX */
    }
    if (without_avx512 && leaf == 7 && part == 1) {
        a &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 23); /* AVX-VNNI, bfloat16, AMX-FP16, AVX-IFMA */
        d &= ~(1u << 4 | 1u << 5 | 1u << 10);            /* AVX-VNNI for 8 and 16 bits */
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    const char *other = getenv("OTHER_CPU");
    if (other == NULL) _exit(95);
    without_avx512 = strstr(other, "avx2") != NULL;
    as_amd = strstr(other, "amd") != NULL;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, NULL);
    if (allow_cpuid(0) != 0) _exit(96); /* the system cannot: better no figure than a wrong one */
}
