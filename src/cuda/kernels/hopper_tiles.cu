// The layout of the rows that the kernels for sm_90a multiply. `rows` writes it beside the usual one.

#ifdef WGMMA_COLUMNS

// A tile is WGMMA_COLUMNS rows, stored as panels of 64 dimensions. A row of a panel has 128 bytes, and the 128-byte
// swizzle puts its 16-byte chunk c at place c ^ (row % 8). The same bytes are the left and the right factor of
// similarities, and the right factor of the gradient. Panels start at multiples of 1,024 bytes.
#define PANEL_BYTES (WGMMA_COLUMNS * 128)
#define TILE_BYTES (DIMS / 64 * PANEL_BYTES)
#define ROW_CHUNKS (ROW_BYTES / 16)
// The numbers of the columns of a tile: the inverse lengths and then, for the gradient, the inverse length of each column
// and its coefficients times it.
#define COEFFICIENTS 4
#define NOTES (1 + COEFFICIENTS)

// The offset of a 16-byte chunk of a row in a tile or a strip.
template <int panel_bytes> DEVICE int place_of_chunk(int row, int chunk) {
    return chunk / 8 * panel_bytes + row * 128 + ((chunk ^ row) & 7) * 16;
}

// The place of the inverse length of a column. Of each 16 columns a thread has four, which are side by side.
DEVICE int place_of_length(int column) {
    return column / 16 * 16 + column % 8 / 2 * 4 + column / 8 % 2 * 2 + column % 2;
}

#endif
