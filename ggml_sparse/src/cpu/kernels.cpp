// Dot and axpy per weight type, over the primitives of simd.h. Compiled once per instruction
// set with KERNEL_ISA = GENERIC, AVX2, ..., KERNEL_TABLE = its table's name and BATCH_TABLE =
// gemm.cpp's, without contraction of a * b + c. No C++ library inlines here: the linker could keep their copy
// that was built for a CPU we do not run on.

#include "kernels.h"

#include "axpy.h"
#include "dot-floats.h"
#include "dot-packed.h"
#include "dot-quants.h"
#include "gemm.h"
#include "group-sum.h"

namespace ggml_sparse {
namespace {

// --- the table ---------------------------------------------------------------

#define DOT_F32(name) dot_float<name##_row>
#define DOT_PAIRS(name) dot_quant<block_dot<name##_row>>
#define DOT_SUPER4(name) dot_quant<super4_dot<name##_row>>
#define DOT_SUPER6(name) dot_quant<super6_dot>

#define AXPY_F32(name) axpy_float<name##_row>
#define AXPY_PAIRS(name) axpy_quant<block_dot<name##_row>>
#define AXPY_SUPER4(name) axpy_quant<super4_dot<name##_row>>
#define AXPY_SUPER6(name) axpy_quant<super6_dot>

} // namespace

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

const sparse_kernels KERNEL_TABLE = {
    JOIN(GGML_SPARSE_ISA_, KERNEL_ISA),
    {
#define SPARSE_TYPE(NAME, name, FORM) {DOT_##FORM(name), AXPY_##FORM(name)},
#include "../quants.def"
#undef SPARSE_TYPE
#define SPARSE_TYPE(NAME, name, FORM) SPARSE_PACKED_##FORM({dot_quant<packed_dot<name##_packed>>, nullptr}, )
#include "../quants.def"
#undef SPARSE_TYPE
        {nullptr, nullptr},
    },
    GROUP_TABLE,
    &BATCH_TABLE,
};

} // namespace ggml_sparse
