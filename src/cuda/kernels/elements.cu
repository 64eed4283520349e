// Reads rows of the scratch memory as numbers.

// Elements of a row in the scratch memory: those in 4 bytes of it.
#define ELEMENTS_OF_WORD (4 / ELEMENT)
DEVICE void elements_of(float (&x)[ELEMENTS_OF_WORD], u32 word) {
#if OPERAND == BF16
    x[0] = float_of(word << 16);
    x[1] = float_of(word & 0xffff0000u);
#elif OPERAND == F16
    x[0] = f16_to_float((u16)word);
    x[1] = f16_to_float((u16)(word >> 16));
#else
    x[0] = float_of(word);
#endif
}

// Four elements, the first of them number `dim`, a multiple of 4. Zeros beyond the row.
DEVICE void four_elements(float (&x)[4], const u8* row, int dim) {
    u32 words[ELEMENT] = {};
    if (dim < DIMS) {
#if ELEMENT == 2
        const uint2 read = *(const uint2*)(row + dim * ELEMENT);
        words[0] = read.x, words[1] = read.y;
#else
        const uint4 read = *(const uint4*)(row + dim * ELEMENT);
        words[0] = read.x, words[1] = read.y, words[2] = read.z, words[3] = read.w;
#endif
    }
    UNROLL for (int i = 0; i < ELEMENT; i++) {
        float some[ELEMENTS_OF_WORD];
        elements_of(some, words[i]);
        UNROLL for (int j = 0; j < ELEMENTS_OF_WORD; j++) x[i * ELEMENTS_OF_WORD + j] = some[j];
    }
}

// Each lane has some of the dimensions of a row, four neighbours at a time.
#define FOURS ((DIMS + 4 * LANES - 1) / (4 * LANES))

// The first of four dimensions of this lane, by number `k`.
DEVICE int first_of_four(int k) { return (lane_of_thread() + k * LANES) * 4; }
