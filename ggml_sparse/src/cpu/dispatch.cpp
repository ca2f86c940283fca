#include "dispatch.h"

#include "attention.h"
#include "ggml-cpu.h"
#include "kernels.h"

#include <initializer_list>

// Built without architecture flags: this code runs before we know the CPU.

namespace ggml_sparse {

static bool cpu_has(ggml_sparse_isa isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    switch (isa) {
        case GGML_SPARSE_ISA_AVX2: return avx2;
        case GGML_SPARSE_ISA_AVXVNNI: return avx2 && __builtin_cpu_supports("avxvnni");
        case GGML_SPARSE_ISA_AVX512:
            return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
        default: break;
    }
#elif defined(__aarch64__)
    if (isa == GGML_SPARSE_ISA_NEON) {
        return ggml_cpu_has_dotprod() != 0;
    }
#endif
    return isa == GGML_SPARSE_ISA_GENERIC;
}

bool cpu_follows_rows() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
#else
    return false;
#endif
}

static const sparse_kernels * kernels_of(ggml_sparse_isa isa) {
    switch (isa) {
        case GGML_SPARSE_ISA_GENERIC: return &sparse_kernels_generic;
#if defined(__x86_64__)
        case GGML_SPARSE_ISA_AVX2: return &sparse_kernels_avx2;
        case GGML_SPARSE_ISA_AVXVNNI: return &sparse_kernels_avxvnni;
        case GGML_SPARSE_ISA_AVX512: return &sparse_kernels_avx512;
#elif defined(__aarch64__)
        case GGML_SPARSE_ISA_NEON: return &sparse_kernels_neon;
#endif
        default: return nullptr;
    }
}

static ggml_sparse_isa best_isa() {
    for (ggml_sparse_isa isa : {GGML_SPARSE_ISA_AVX512, GGML_SPARSE_ISA_AVXVNNI, GGML_SPARSE_ISA_AVX2, GGML_SPARSE_ISA_NEON}) {
        if (cpu_has(isa)) {
            return isa;
        }
    }
    return GGML_SPARSE_ISA_GENERIC;
}

const sparse_kernels * sparse_kernels_get(ggml_sparse_isa isa) {
    static const bool initialised = (ggml_cpu_init(), true); // ggml's half-float tables
    (void) initialised;
    if (isa == GGML_SPARSE_ISA_AUTO) {
        isa = best_isa();
    }
    return cpu_has(isa) ? kernels_of(isa) : nullptr;
}

const attention_kernels & attention_kernels_get(ggml_sparse_isa isa) {
    switch (isa) {
#if defined(__x86_64__)
        case GGML_SPARSE_ISA_AVX2: return attention_kernels_avx2;
        case GGML_SPARSE_ISA_AVXVNNI: return attention_kernels_avxvnni;
        case GGML_SPARSE_ISA_AVX512: return attention_kernels_avx512;
#elif defined(__aarch64__)
        case GGML_SPARSE_ISA_NEON: return attention_kernels_neon;
#endif
        default: return attention_kernels_generic;
    }
}

} // namespace ggml_sparse
