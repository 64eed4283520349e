// One variant of the kernels, as `hex_emulate_OPERAND_DIMS`. Compiled with the options of `Variant` in `../variant.rs`.
#include "device.hpp"

#define CUDA_NAME(operand, dims) hex_emulate_##operand##_##dims
#define EXPANDED_NAME(operand, dims) CUDA_NAME(operand, dims)
// Before the operands' names become numbers.
extern "C" int EXPANDED_NAME(OPERAND, DIMS)(const char*, const unsigned*, unsigned, unsigned, void**);

namespace {
#include "../kernels/parameters.cu"
#include "../kernels/rows.cu"
#include "../kernels/tile.cu"
#include "../kernels/select.cu"
#include "../kernels/sums.cu"
#include "../kernels/anchors.cu"
#include "../kernels/gradient.cu"

typedef void (*Kernel)(const Parameters, const Launch);
const struct {
    const char* name;
    Kernel kernel;
} kernels[] = {
#define NAMED(kernel) {#kernel, kernel}
    NAMED(rows),     NAMED(positives),         NAMED(select), NAMED(survivors), NAMED(pick),   NAMED(copy_quantiles),
    NAMED(ranges),   NAMED(settle_thresholds), NAMED(maxima), NAMED(settle_shifts), NAMED(sums), NAMED(sums_general),
    NAMED(anchors),  NAMED(gradient),          NAMED(gradient_general), NAMED(finish),
};

struct Call {
    Kernel kernel;
    const Parameters* parameters;
    const Launch* launch;
};
}  // namespace

#undef BF16
#undef F16
#undef TF32
#undef SPLIT_TF32
// 0 where the kernel ran, 1 where there is none of that name, 2 where it failed.
extern "C" int EXPANDED_NAME(OPERAND, DIMS)(const char* name, const unsigned* grid, unsigned threads, unsigned shared_bytes,
                                           void** arguments) {
    for (const auto& known : kernels) {
        if (strcmp(known.name, name) != 0) continue;
        Call call = {known.kernel, (const Parameters*)arguments[0], (const Launch*)arguments[1]};
        return emulation::launch(grid, threads, shared_bytes, [](void* argument) {
            const Call& call = *(const Call*)argument;
            call.kernel(*call.parameters, *call.launch);
        }, &call);
    }
    return 1;
}
