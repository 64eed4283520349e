"""An interpreter of PTX, and the PTX of hex_ssl's kernels, which the tests run in it."""
