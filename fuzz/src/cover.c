/* Where code has been that is compiled with -fsanitize-coverage=trace-pc, which GCC knows: it calls the second function on every edge.
 * The counters are in the section that libFuzzer looks for more counters in. */
#include <stdint.h>

#if defined(__clang__)
#define PLAIN __attribute__((no_sanitize("coverage", "address")))
#else
#define PLAIN __attribute__((no_sanitize_coverage, no_sanitize("address")))
#endif

#define COUNTERS (1 << 16)

__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t counters[COUNTERS];

extern char __executable_start;

PLAIN void fencegate_fuzz_cover(void) {}

PLAIN void __sanitizer_cov_trace_pc(void)
{
    /* Where the program is loaded differs from run to run; places in it don't. */
    uintptr_t place = (uintptr_t)__builtin_return_address(0) - (uintptr_t)&__executable_start;
    uint8_t *counter = &counters[(place ^ place >> 16) % COUNTERS];
    *counter += *counter < UINT8_MAX;
}
