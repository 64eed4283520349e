//! Runs the kernels on the CPU: the same sources, compiled by a C++ compiler against `emulation/`. For the tests.

use std::ffi::{c_char, c_int, c_void, CString};
use std::path::Path;

use super::{Executor, Variant};
use crate::error::{Error, Result};

type Emulate = unsafe extern "C" fn(*const c_char, *const u32, u32, u32, *mut *mut c_void) -> c_int;

/// One variant of the kernels in a shared object.
#[derive(Debug)]
pub struct Emulator {
    emulate: Emulate,
}

impl Emulator {
    /// Loads the shared object, which stays loaded, and finds `hex_emulate_OPERAND_DIMS` in it.
    ///
    /// # Errors
    /// [`Error::Runtime`] where there is no such file or variant.
    pub fn new(path: &Path, variant: Variant) -> Result<Self> {
        let name = format!("hex_emulate_{}_{}", variant.operand.name(), variant.dims);
        let c_string = |text: &str| CString::new(text).map_err(|error| Error::runtime(error.to_string()));
        let (file, symbol) = (c_string(&path.to_string_lossy())?, c_string(&name)?);
        // SAFETY: two strings that end in a zero; the object's initialisers are those of the C++ library.
        let symbol = unsafe {
            let handle = libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            if handle.is_null() {
                handle
            } else {
                libc::dlsym(handle, symbol.as_ptr())
            }
        };
        if symbol.is_null() {
            return Err(Error::runtime(format!(
                "expected `{name}` in the emulator {}, but found none",
                path.display()
            )));
        }
        // SAFETY: `emulation/variant.cpp` gives every function of that name this type.
        Ok(Self { emulate: unsafe { std::mem::transmute::<*mut c_void, Emulate>(symbol) } })
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
        let name = CString::new(kernel).map_err(|error| Error::runtime(error.to_string()))?;
        // SAFETY: the arguments are those of the kernel, and their memory the CPU's, by the caller of `evaluate`.
        let status =
            unsafe { (self.emulate)(name.as_ptr(), grid.as_ptr(), block, shared_bytes, arguments.as_mut_ptr()) };
        match status {
            0 => Ok(()),
            1 => Err(Error::runtime(format!("the emulator has no kernel `{kernel}`"))),
            _ => Err(Error::runtime(format!("the kernel `{kernel}` failed in emulation: see the standard error"))),
        }
    }
}
