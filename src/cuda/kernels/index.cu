// Where anchors name keys: sorted lists of the excluded pairs, by anchor and by key. The passes find a tile's pairs by
// bisection.

// Sorts numbers in ascending order, with one warp. A bitonic sort.
DEVICE void sort(u32* list, int count) {
    for (int length = 2; length < 2 * count; length *= 2) {
        for (int distance = length; distance > 1; distance /= 2) {
            // In blocks of `distance` numbers, compare each number with its mirror image first, later with the number
            // half a block away.
            const int bits = distance == length ? length - 1 : distance / 2;
            for (int i = lane_of_thread(); i < count; i += LANES) {
                const int other = i ^ bits;
                if (other < i || other >= count) continue;
                const u32 low = list[i], high = list[other];
                if (low <= high) continue;
                list[i] = high;
                list[other] = low;
            }
            sync_warp();
        }
    }
}

// The keys that an anchor names, by number `k`: its positives among the keys, then those that it ignores. -1 for none.
DEVICE int named_key(const Parameters& p, int anchor, int k) {
    const int positives = p.pairing == INDEXED ? p.positives : 0, ignored = p.excluded - positives;
    const i64* place = k < positives ? p.positive_index + (i64)anchor * positives + k
                                     : p.ignored_index + (i64)anchor * ignored + k - positives;
    return *place >= 0 && *place < p.keys.count ? (int)*place : -1;
}

// Sorts the keys of each anchor that are not negatives, and counts for each key how often it is one of them. One warp
// per anchor.
KERNEL(THREADS, 2) index_anchors(const Parameters p, const Launch l) {
    begin();
    const int anchor = blockIdx.x * WARPS + warp_of_thread();
    if (anchor >= p.anchors.count) return;
    u32* list = p.excluded_keys + (i64)anchor * p.excluded;
    for (int k = lane_of_thread(); k < p.excluded; k += LANES) {
        const int key = named_key(p, anchor, k);
        list[k] = key < 0 ? ~0u : (u32)key;
        if (key >= 0 && p.key_ends) atomic_add(&p.key_ends[key], 1);
    }
    sync_warp();
    sort(list, p.excluded);
}

// Turns the numbers of pairs of the keys into the starts of their lists. One block.
KERNEL(THREADS, 1) index_starts(const Parameters p, const Launch l) {
    begin();
    SHARED_MEMORY(memory);
    u32* sums = (u32*)memory;
    const int each = (p.keys.count + THREADS - 1) / THREADS, first = threadIdx.x * each;
    const int end = first + each < p.keys.count ? first + each : p.keys.count;
    u32 sum = 0;
    for (int key = first; key < end; key++) sum += p.key_ends[key];
    sums[threadIdx.x] = sum;
    sync_threads();
    u32 start = 0;
    for (int other = 0; other < threadIdx.x; other++) start += sums[other];
    for (int key = first; key < end; key++) {
        const u32 count = p.key_ends[key];
        p.key_ends[key] = start;
        start += count;
    }
}

// Appends each pair to the list of its key. The starts become ends. One thread per pair.
KERNEL(THREADS, 2) index_pairs(const Parameters p, const Launch l) {
    begin();
    const u32 pair = blockIdx.x * THREADS + threadIdx.x;
    if (pair >= (u32)p.anchors.count * p.excluded) return;
    const int key = named_key(p, pair / p.excluded, pair % p.excluded);
    if (key >= 0) p.key_pairs[atomic_add(&p.key_ends[key], 1)] = pair;
}

// Sorts the pairs of each key, so that their order does not depend on timing. One warp per key.
KERNEL(THREADS, 2) index_keys(const Parameters p, const Launch l) {
    begin();
    const int key = blockIdx.x * WARPS + warp_of_thread();
    if (key >= p.keys.count) return;
    const PairList pairs = pairs_of_key(p, key);
    sort((u32*)pairs.list, pairs.count);
}
