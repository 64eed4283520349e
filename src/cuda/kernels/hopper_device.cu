// Wrappers of the PTX instructions that only sm_90a has: mbarriers, bulk copies, setmaxnreg and wgmma. `hopper.cu`
// describes how the kernels use them.

#ifdef WGMMA_COLUMNS

#if OPERAND == BF16
#define WGMMA_TYPE "bf16"
#else
#define WGMMA_TYPE "f16"
#endif

#define PAIRS (WGMMA_COLUMNS / 2)  // pairs of a strip of 64 rows and a tile that a thread has

// Mbarriers and copies.

DEVICE void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes the initialised mbarriers visible to the copies too, which use the async proxy.
DEVICE void publish_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Arrives, and makes the phase wait for this number of bytes.
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    u32 done;
    do {
        asm volatile(
            "{\n.reg .pred ok;\nmbarrier.try_wait.parity.shared::cta.b64 ok, [%1], %2;\nselp.u32 %0, 1, 0, ok;\n}"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!done);
}
DEVICE void copy_bulk(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
                 : "memory");
}
// Makes the stores of this thread to shared memory visible to products after the next barrier.
DEVICE void publish_stores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A copy that the compiler does not know to be equal. It cannot move expressions of it out of a loop, which would take
// registers.
template <class Int> DEVICE Int anew(Int x) {
    asm volatile("" : "+r"(x));
    return x;
}

// Loads by the 32-bit address, which takes one register instead of two.
DEVICE float4 load_shared(u32 address) {
    float4 x;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(address)
                 : "memory");
    return x;
}

DEVICE float load_one_shared(u32 address) {
    float x;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(address) : "memory");
    return x;
}

// The turns of two consumers. Each waits at its own barrier, at which the other one arrives without waiting.
DEVICE void wait_for_turn(int consumer) { asm volatile("bar.sync %0, 256;" ::"r"(consumer + 1) : "memory"); }
DEVICE void hand_turn_on(int consumer) { asm volatile("bar.arrive %0, 256;" ::"r"(2 - consumer) : "memory"); }

// Registers per thread. A launch has 168 for each thread with two consumers, and 96 with four. Consumers can only take
// what the producer gives.
DEVICE void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 24;"); }
template <int consumers> DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(consumers == 2 ? 240 : 112));
}

// Products.

#define REGISTERS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_64 \
    REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_96 \
    REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_128 \
    REGISTERS_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define EIGHT(d, i) FOUR(d, i), FOUR(d, i + 4)
#define OPERANDS_32(d, i) EIGHT(d, i), EIGHT(d, i + 8), EIGHT(d, i + 16), EIGHT(d, i + 24)
#define OPERANDS_64(d) OPERANDS_32(d, 0), OPERANDS_32(d, 32)
#define OPERANDS_96(d) OPERANDS_64(d), OPERANDS_32(d, 64)
#define OPERANDS_128(d) OPERANDS_96(d), OPERANDS_32(d, 96)
#define MULTIPLY(columns, registers) \
    "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." WGMMA_TYPE "." WGMMA_TYPE " {" registers "}, "

// c = a b, or c += a b, for descriptors of 64 rows and of WGMMA_COLUMNS rows, with 16 dimensions. Accumulator i of lane
// l in warp w belongs to row 16 w + l / 4 + 8 (i / 2 % 2) and column 8 (i / 4) + 2 (l % 4) + i % 2.
#define MULTIPLY_TILES(columns, registers, operands, flag, factors)                                                 \
    asm volatile("{\n.reg .pred adds;\nsetp.ne.s32 adds, " flag ", 0;\n" MULTIPLY(columns, registers) factors ", adds, 1, 1, 0, 0;\n}" \
                 : operands                                                                                         \
                 : "l"(a), "l"(b), "n"(accumulates)                                                                 \
                 : "memory")
template <int accumulates> DEVICE void multiply_tiles(float (&c)[PAIRS], u64 a, u64 b) {
#if WGMMA_COLUMNS == 128
    MULTIPLY_TILES("128", REGISTERS_64, OPERANDS_64(c), "%66", "%64, %65");
#else
    MULTIPLY_TILES("64", REGISTERS_32, OPERANDS_32(c, 0), "%34", "%32, %33");
#endif
}

// c += a b, where a is 64x16 in registers, and b is the descriptor of 16 rows. Their dimensions are the columns of c.
#define ADD_PRODUCT(columns, registers, operands, left, right)                                            \
    asm volatile("{\n.reg .pred adds;\nmov.pred adds, -1;\n" MULTIPLY(columns, registers) left ", " right \
                 ", adds, 1, 1, 1;\n}"                                                                    \
                 : operands                                                                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                                     \
                 : "memory")
DEVICE void add_product(float (&c)[DIMS / 2], const u32* a, u64 b) {
#if DIMS == 64
    ADD_PRODUCT("64", REGISTERS_32, OPERANDS_32(c, 0), "{%32, %33, %34, %35}", "%36");
#elif DIMS == 128
    ADD_PRODUCT("128", REGISTERS_64, OPERANDS_64(c), "{%64, %65, %66, %67}", "%68");
#elif DIMS == 192
    ADD_PRODUCT("192", REGISTERS_96, OPERANDS_96(c), "{%96, %97, %98, %99}", "%100");
#else
    ADD_PRODUCT("256", REGISTERS_128, OPERANDS_128(c), "{%128, %129, %130, %131}", "%132");
#endif
}

DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `pending` groups are in flight. The results are operands, so that nothing reads them earlier.
#define WAIT(count, operands) asm volatile("wgmma.wait_group.sync.aligned " count ";" : operands : "n"(pending) : "memory")
template <int pending> DEVICE void wait_for_products(float (&c)[32]) { WAIT("%32", OPERANDS_32(c, 0)); }
template <int pending> DEVICE void wait_for_products(float (&c)[64]) { WAIT("%64", OPERANDS_64(c)); }
template <int pending> DEVICE void wait_for_products(float (&c)[96]) { WAIT("%96", OPERANDS_96(c)); }
template <int pending> DEVICE void wait_for_products(float (&c)[128]) { WAIT("%128", OPERANDS_128(c)); }

// The descriptor of a matrix in shared memory, from offsets in bytes. Bits 0-13 are its start, 16-29 the leading offset
// and 32-45 the stride offset, all in units of 16 bytes. Bits 62-63 are 1 for the 128-byte swizzle.
DEVICE u64 descriptor(u32 address, u32 leading, u32 stride) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | 1ull << 62;
}

#endif
