"""An interpreter of PTX, and the PTX of hex_ssl's kernels, for the tests of these."""
