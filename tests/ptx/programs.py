"""Small PTX kernels for the tests of the interpreter."""

REGISTERS = {"pred": "p", "b16": "h", "b32": "r", "b64": "q", "f32": "f", "f64": "d"}
"""The letter of the registers of a type, of which each kernel has 64."""


def kernel(body: str) -> str:
    """A kernel of two arrays and a number, whose addresses are in %q0 and %q1; %r0 is the thread, %q2 4 times that."""
    registers = "\n".join(f".reg .{type_} %{letter}<64>;" for type_, letter in REGISTERS.items())
    return f"""
        .version 9.0
        .target sm_90a
        .address_size 64
        .extern .shared .align 16 .b8 memory[];
        .visible .entry kernel(.param .u64 a, .param .u64 b, .param .u32 number)
        {{
            {registers}
            ld.param.u64 %q0, [a];
            ld.param.u64 %q1, [b];
            mov.u32 %r0, %tid.x;
            mul.wide.u32 %q2, %r0, 4;
            {body}
            ret;
        }}
    """
