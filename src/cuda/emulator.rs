//! Runs the kernels on the CPU: passes their launches to an interpreter of PTX, a library that the tests build.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::path::Path;

use super::library::{function, open};
use super::{Executor, Variant};
use crate::error::{Error, Result};

/// The arguments are the operand and the dimensions of the variant, the kernel, the grid, the threads of a block, the
/// bytes of shared memory, the arguments, and a buffer for an error message with its size. Returns 0 if there is no
/// error.
type Emulate = unsafe extern "C" fn(
    *const c_char,
    u32,
    *const c_char,
    *const u32,
    u32,
    u32,
    *mut *mut c_void,
    *mut c_char,
    usize,
) -> c_int;

/// One variant of the kernels in the interpreter.
#[derive(Debug)]
pub struct Emulator {
    emulate: Emulate,
    variant: Variant,
}

impl Emulator {
    /// Loads the library and finds `hex_emulate` in it. The library stays loaded.
    ///
    /// # Errors
    /// [`Error::Runtime`] if there is no such file or function.
    pub fn new(path: &Path, variant: Variant) -> Result<Self> {
        let none = |_| Error::runtime(format!("no emulator in {}", path.display()));
        let library = open(path).map_err(none)?;
        // SAFETY: the one library with a function of that name gives it this type, and it stays loaded.
        let emulate = unsafe { function::<Emulate>(&library, "hex_emulate") }.map_err(none)?;
        std::mem::forget(library);
        Ok(Self { emulate, variant })
    }
}

impl Executor for Emulator {
    fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let (operand, name) = (c_string(&self.variant.name())?, c_string(kernel)?);
        let mut message = vec![0_u8; 2048];
        // SAFETY: the arguments are those of the kernel, and their memory the CPU's, by the caller of `evaluate`; the
        // message ends in a zero, within the bytes that there are.
        let status = unsafe {
            (self.emulate)(
                operand.as_ptr(),
                self.variant.dims as u32,
                name.as_ptr(),
                grid.as_ptr(),
                block,
                shared_bytes,
                arguments.as_mut_ptr(),
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        if status == 0 {
            return Ok(());
        }
        let message = CStr::from_bytes_until_nul(&message).unwrap_or_default().to_string_lossy();
        Err(Error::runtime(format!("the kernel `{kernel}` failed in emulation: {message}")))
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| Error::runtime(error.to_string()))
}
