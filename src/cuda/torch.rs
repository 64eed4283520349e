//! libtorch_cuda: the current stream, by its stable C interface, and the folder of its installation.

use std::ffi::c_int;
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::OnceLock;

use libloading::Library;

use super::driver::Handle;
use super::library::{c_functions, loaded};
use crate::error::{Error, Result};

const LIBRARY: &str = "libtorch_cuda.so";

c_functions! {
    /// As declared in torch/csrc/inductor/aoti_torch/c/shim.h.
    TorchFunctions {
        current_stream = "aoti_torch_get_current_cuda_stream"(i32, *mut Handle);
    }
}

/// The CUDA library of the torch that the process has loaded.
pub struct TorchCuda {
    functions: TorchFunctions,
    // Kept open for the functions.
    _library: Library,
}

impl TorchCuda {
    /// The library, which torch has loaded.
    ///
    /// # Errors
    /// [`Error::Runtime`] if torch was built without CUDA (for the CPU only, or for ROCm).
    pub fn get() -> Result<&'static Self> {
        static TORCH: OnceLock<Result<TorchCuda>> = OnceLock::new();
        TORCH.get_or_init(Self::find).as_ref().map_err(Clone::clone)
    }

    fn find() -> Result<Self> {
        let library = loaded(LIBRARY).ok_or_else(|| Error::runtime("this torch was built without CUDA"))?;
        Ok(Self { functions: TorchFunctions::of(&library)?, _library: library })
    }

    /// The current stream of torch in this thread on a device. Handle 0 is the default stream.
    pub fn current_stream(&self, ordinal: usize) -> Result<Handle> {
        let mut stream = null_mut();
        // SAFETY: writes one handle; catches libtorch's exceptions.
        let status: c_int = unsafe { (self.functions.current_stream)(ordinal as i32, &raw mut stream) };
        match status {
            0 => Ok(stream),
            _ => Err(Error::runtime(format!("torch has no current stream on cuda:{ordinal}"))),
        }
    }

    /// The folder of the library, in a wheel site-packages/torch/lib.
    #[cfg(unix)]
    pub fn folder(&self) -> Option<PathBuf> {
        use std::ffi::{CStr, OsStr};
        use std::mem::MaybeUninit;
        use std::os::unix::ffi::OsStrExt;
        use std::path::Path;

        let mut found = MaybeUninit::<libc::Dl_info>::uninit();
        // SAFETY: asks about the address of a function; writes `found` where it returns non-zero.
        let status = unsafe { libc::dladdr(self.functions.current_stream as *const _, found.as_mut_ptr()) };
        if status == 0 {
            return None;
        }
        // SAFETY: written, see above; the name is a string of the loader that lives as long as the library.
        let name = unsafe { CStr::from_ptr(found.assume_init().dli_fname) };
        Path::new(OsStr::from_bytes(name.to_bytes())).parent().map(Path::to_path_buf)
    }

    /// The folder of the library.
    #[cfg(not(unix))]
    pub fn folder(&self) -> Option<PathBuf> {
        None
    }
}
