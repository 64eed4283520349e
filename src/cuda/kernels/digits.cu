// Finds the k-th largest of many numbers by radix selection with digits of 8 bits, and the mean of the quantiles.

#define HISTOGRAM (DIGITS + 1)  // so that the counts of different rows are in different banks

// Finds the digit of the `rank`-th largest number, and its rank among the numbers with that digit. By one warp.
DEVICE void find_digit(const u32* counts, u32 rank, u32& digit, u32& rest) {
    const int lane = lane_of_thread();
    // Lane l has the digits 255 - 8 l down to 248 - 8 l.
    u32 own = 0;
    for (int i = 0; i < 8; i++) own += counts[DIGITS - 1 - (lane * 8 + i)];
    const u32 up_to = prefix_sum<LANES>(own);
    const u32 found = ballot(up_to >= rank);
    int owner = 0;
    while (owner < LANES - 1 && !(found >> owner & 1)) owner++;
    u32 before = up_to - own, at = 0;
    if (lane == owner) {
        while (at < 7 && before + counts[DIGITS - 1 - (lane * 8 + at)] < rank) before += counts[DIGITS - 1 - (lane * 8 + at++)];
    }
    digit = from_lane(DIGITS - 1 - (lane * 8 + at), owner);
    rest = rank - from_lane(before, owner);
}

// The `rank`-th largest of the `count` keys `key_at(i)`, which have `digits` digits. By one warp, with its own counts.
template <class KeyAt> DEVICE u32 find_key(u32* counts, u32 count, u32 rank, int digits, KeyAt key_at) {
    const int lane = lane_of_thread();
    u32 prefix = 0;
    for (int shift = 8 * (digits - 1); shift >= 0; shift -= 8) {
        for (int i = lane; i < DIGITS; i += LANES) counts[i] = 0;
        sync_warp();
        for (u32 i = lane; i < count; i += LANES) {
            const u32 leading = key_at(i) >> shift;
            if (leading >> 8 == prefix) atomic_add(&counts[leading & (DIGITS - 1)], 1);
        }
        sync_warp();
        u32 digit;
        find_digit(counts, rank, digit, rank);
        prefix = prefix << 8 | digit;
        sync_warp();
    }
    return prefix;
}

// The mean of a number of each row. By one block. Every thread gets the result.
DEVICE double mean_of_rows(const Parameters& p, const float* numbers, double* shared) {
    double sum = 0.0;
    for (int row = threadIdx.x; row < p.anchors.count; row += THREADS) sum += numbers[row];
    sum = warp_sum(sum);
    sync_threads();
    if (lane_of_thread() == 0) shared[warp_of_thread()] = sum;
    sync_threads();
    sum = 0.0;
    for (int warp = 0; warp < WARPS; warp++) sum += shared[warp];
    return sum / p.anchors.count;
}

// Sets the threshold to the mean of all quantiles. By the last block.
DEVICE void average_quantiles(const Parameters& p, double* shared) {
    const double mean = mean_of_rows(p, p.quantiles, shared);
    if (threadIdx.x != 0) return;
    p.header->epsilon = mean;
    p.header->limit = limit_of(mean);
    // NaN is in no bracket.
    if (!(p.header->limit >= p.header->floor && p.header->limit <= p.header->ceiling)) p.header->rerun = 1;
}

// The ends that a bracket has.
enum Bracket { LOW = 1, HIGH = 2 };
