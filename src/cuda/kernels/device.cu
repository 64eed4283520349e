// Wrappers of the intrinsics and PTX instructions that the kernels use. There are no headers, because NVRTC has none.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE __device__ __forceinline__
#define KERNEL(threads, resident) extern "C" __global__ void __launch_bounds__(threads, resident)
#define SHARED_MEMORY(name) extern __shared__ __align__(16) u8 name[]
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")

DEVICE void sync_threads() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE void fence() { __threadfence(); }

// Every kernel starts with this. If launches overlap, it lets the next kernel of the stream start too, and waits for all
// that the one before has written.
DEVICE void begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE double double_of(u64 bits) { return __longlong_as_double((i64)bits); }
DEVICE u64 bits_of(double x) { return (u64)__double_as_longlong(x); }

// A product that the compiler does not fuse into an FMA, so that a similarity has the same bits in every kernel.
DEVICE float product(float a, float b) { return __fmul_rn(a, b); }

DEVICE u32 multiply_high(u32 a, u32 b) { return __umulhi(a, b); }

DEVICE float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// To the nearest integer.
DEVICE u32 rounded(float x) { return __float2uint_rn(x); }

DEVICE float exchange(float x, int lanes) { return __shfl_xor_sync(~0u, x, lanes); }
DEVICE double exchange(double x, int lanes) { return __shfl_xor_sync(~0u, x, lanes); }
DEVICE u32 exchange(u32 x, int lanes) { return __shfl_xor_sync(~0u, x, lanes); }
DEVICE u64 exchange(u64 x, int lanes) { return __shfl_xor_sync(~0u, x, lanes); }
DEVICE u32 from_lane(u32 x, int lane) { return __shfl_sync(~0u, x, lane); }
DEVICE float from_lane(float x, int lane) { return __shfl_sync(~0u, x, lane); }
DEVICE double from_lane(double x, int lane) { return __shfl_sync(~0u, x, lane); }
// Adds the number of the lane that is `distance` lower, if it is one of the same `lanes`.
template <int lanes> DEVICE void add_lower(u32& x, int distance) {
    asm volatile("{\n.reg .b32 lower;\n.reg .pred is_there;\nshfl.sync.up.b32 lower|is_there, %0, %1, %2, -1;\n"
                 "@is_there add.u32 %0, %0, lower;\n}"
                 : "+r"(x)
                 : "r"(distance), "n"((32 - lanes) << 8));
}
DEVICE bool any(bool x) { return __any_sync(~0u, x); }
DEVICE u32 ballot(bool x) { return __ballot_sync(~0u, x); }

// -1 if no bit is set.
DEVICE int highest_set_bit(u32 x) { return 31 - __clz(x); }
DEVICE int lowest_set_bit(u32 x) { return highest_set_bit(x & (0 - x)); }
DEVICE u32 set_bits(u32 x) { return __popc(x); }

// The larger one of the lower halves, and of the upper ones. One instruction from sm_90 on.
DEVICE u32 larger_halves(u32 a, u32 b) { return __vmaxu2(a, b); }
// Four of eight bytes, by their numbers: 0 to 3 in `a`, 4 to 7 in `b`.
DEVICE u32 chosen_bytes(u32 a, u32 b, u32 numbers) { return __byte_perm(a, b, numbers); }

DEVICE u32 warp_sum(u32 x) { return __reduce_add_sync(~0u, x); }
DEVICE u32 warp_max(u32 x) { return __reduce_max_sync(~0u, x); }

DEVICE u32 atomic_add(u32* to, u32 x) { return atomicAdd(to, x); }
// Adds 1; after `last` comes 0. Where few lanes do this, it takes fewer instructions than `atomic_add`, for which the
// lanes are counted first.
DEVICE u32 atomic_count(u32* to, u32 last) { return atomicInc(to, last); }
DEVICE u32 atomic_max(u32* to, u32 x) { return atomicMax(to, x); }
DEVICE u32 atomic_min(u32* to, u32 x) { return atomicMin(to, x); }

DEVICE u32 shared_address(const void* shared) { return (u32)__cvta_generic_to_shared(shared); }

// Loads four 8x8 matrices of 16-bit numbers (or 8x4 of 32-bit numbers). Lane l passes the address of row l % 8 of
// matrix l / 8.
DEVICE void load_matrices(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

DEVICE void load_matrices_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Copies 16 bytes from global to shared memory. They can be read after a wait for their group and a barrier.
DEVICE void copy_async(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` groups are in flight.
template <int pending> DEVICE void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

// c += a b, where a is 16x16 and b is 16x8, of 16-bit numbers.
DEVICE void multiply_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void multiply_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// c += a b, where a is 16x8 and b is 8x8, of tf32 numbers.
DEVICE void multiply_tf32(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE float bf16_to_float(u16 x) { return float_of((u32)x << 16); }
DEVICE float f16_to_float(u16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
// Rounds two numbers to 16 bits. The first is in the low half of the result.
DEVICE u32 pack_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
DEVICE u32 pack_f16(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
// Keeps NaN and infinity. This takes five instructions on every chip.
DEVICE u32 round_to_tf32(float x) {
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}
// The same in two instructions, for numbers of moderate size. NaN may become a number. `zero` is 0 in a register that
// is written in the loop. Otherwise the compiler would move the conversion of a row out of the loop, which takes twice
// the registers.
DEVICE u32 high_half(u32 x, u32 zero) {
    u32 y;
    asm("add.u32 %0, %1, %2;\n\tand.b32 %0, %0, -8192;" : "=r"(y) : "r"(x), "r"(4096 + zero));
    return y;
}
