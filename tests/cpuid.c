/* Answers the instruction CPUID as another CPU would, to every library of the process.

   Most libraries ask it once which kernels to take, and ONNX Runtime's has no other switch. Linux
   lets a process have it trapped (arch_prctl ARCH_SET_CPUID: "CPUID faulting", of Intel's CPUs since
   Ivy Bridge and of AMD's since Zen 4); the handler asks the CPU and takes away what LLX_CPUID says.
   Only ever less than there is, so that nothing is run that this CPU lacks.

       cc -shared -fPIC -O1 -o cpuid.so cpuid.c
       LLX_CPUID=avx2 LD_PRELOAD=./cpuid.so python ...

   tests/kernels.py does that. Python's faulthandler would take the handler's place: without it. */

#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* From the newest to the oldest: each lacks what those before it lack, but for the name. */
enum { ZEN4, SKYLAKE, AVX2, SSE, NONE };
static const char *const NAMES[] = {"zen4", "skylake", "avx2", "sse"};
static int level = NONE;

static void trap(int on) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, !on); }

static void take_away(unsigned leaf, unsigned sub, uint32_t *a, uint32_t *b, uint32_t *c,
                      uint32_t *d) {
  if (level == ZEN4 && leaf == 0) { /* "AuthenticAMD": some go by the name */
    *b = 0x68747541, *d = 0x69746e65, *c = 0x444d4163;
  }
  if (level == ZEN4 && leaf == 1) *a = 0x00a10f11;
  if (leaf == 7 && sub == 0) {
    *d &= ~(1u << 22 | 1u << 23 | 1u << 24 | 1u << 25); /* AMX-BF16, AVX512-FP16, AMX */
    if (level >= SKYLAKE) {
      *b &= ~(1u << 21);                                                /* IFMA */
      *c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);      /* VBMI, VNNI and such */
      *d &= ~(1u << 8);                                                 /* VP2INTERSECT */
    }
    if (level >= AVX2) *b &= ~(1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31); /* AVX512 */
    if (level >= SSE) *b &= ~(1u << 5);                                               /* AVX2 */
  }
  if (leaf == 7 && sub == 1) {
    *a &= ~(1u << 21 | 1u << 23);                         /* AMX-FP16, AVX-IFMA */
    if (level >= SKYLAKE) *a &= ~(1u << 4 | 1u << 5);     /* AVX-VNNI, AVX512-BF16 */
    *d &= ~(1u << 4 | 1u << 5 | 1u << 10 | 1u << 19);     /* newer than all of them */
  }
  if (leaf == 1 && level >= SSE) *c &= ~(1u << 12 | 1u << 28 | 1u << 29); /* FMA, AVX, F16C */
}

static void trapped(int number, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  const uint8_t *at = (const uint8_t *)r[REG_RIP];
  uint32_t a, b, c, d;
  (void)number, (void)info;
  if (at[0] != 0x0f || at[1] != 0xa2) { /* not CPUID: a fault as any other */
    signal(SIGSEGV, SIG_DFL);
    return;
  }
  trap(0);
  __cpuid_count(r[REG_RAX], r[REG_RCX], a, b, c, d);
  trap(1);
  take_away(r[REG_RAX], r[REG_RCX], &a, &b, &c, &d);
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
  r[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
  const char *asked = getenv("LLX_CPUID");
  struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER};
  for (int i = 0; asked && i < NONE; i++)
    if (!strcmp(asked, NAMES[i])) level = i;
  if (level == NONE) return;
  sigaction(SIGSEGV, &action, NULL);
  if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
    fprintf(stderr, "this kernel or CPU does not trap CPUID\n");
    _exit(70);
  }
}
