// The compiled instruction sets, those that the processor supports, and the one in use.
#include <atomic>
#include <cstring>

#include "kernels.h"

#define DECLARE(level) namespace level { extern const vaec::Kernels kernels; }
#if defined(__wasm__)
DECLARE(wasm)
#else
DECLARE(baseline)
#endif
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
DECLARE(avx512_bf16)
#elif defined(__aarch64__)
DECLARE(neon)
#endif

namespace vaec {

static const Kernels* const LEVELS[] = {
#if defined(__wasm__)
    &wasm::kernels,
#else
    &baseline::kernels,
#endif
#if defined(__x86_64__)
    &avx2::kernels, &avx512::kernels, &avx512_bf16::kernels,
#elif defined(__aarch64__)
    &neon::kernels,
#endif
};
static std::atomic<const Kernels*> in_use{nullptr};

size_t level_count() { return sizeof LEVELS / sizeof *LEVELS; }
const Kernels& level(size_t number) { return *LEVELS[number]; }

bool supported(size_t number) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (number == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (number == 3 && !__builtin_cpu_supports("avx512bf16")) return false;
    if (number >= 2)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#endif
    return number < level_count();
}

const Kernels& active() {
    const Kernels* found = in_use.load(std::memory_order_acquire);
    if (!found) {
        size_t number = level_count() - 1;
        while (!supported(number)) --number;
        in_use.store(found = LEVELS[number], std::memory_order_release);
    }
    return *found;
}

bool activate(const char* name) {
    for (size_t number = 0; number < level_count(); ++number)
        if (!strcmp(LEVELS[number]->name, name) && supported(number)) {
            in_use.store(LEVELS[number], std::memory_order_release);
            return true;
        }
    return false;
}

}  // namespace vaec
