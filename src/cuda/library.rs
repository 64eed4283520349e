//! C functions of libraries that may be missing at run time: NVRTC, the CUDA driver, and libtorch_cuda.
//!
//! libloading opens them. The few functions are declared by hand, from the public headers. Bindings of a whole toolkit
//! would tie the crate to one CUDA version, and those of cudarc panic if a library is missing.

use std::error::Error as _;
use std::path::Path;

use libloading::Library;

use crate::error::{Error, Result};

/// A struct of C functions that return a status, each loaded by its symbol.
macro_rules! c_functions {
    ($(#[$meta:meta])* $name:ident { $($function:ident = $symbol:literal ($($argument:ty),* $(,)?);)* }) => {
        $(#[$meta])*
        struct $name {
            $($function: unsafe extern "C" fn($($argument),*) -> std::ffi::c_int,)*
        }

        impl $name {
            /// Finds every function, or names the one that is missing.
            fn of(library: &libloading::Library) -> crate::error::Result<Self> {
                // SAFETY: each signature is that of the library's public header, under the symbol of that version.
                Ok(unsafe { Self { $($function: crate::cuda::library::function(library, $symbol)?,)* } })
            }
        }
    };
}
pub(super) use c_functions;

/// The function with this name.
///
/// # Safety
/// `F` is a pointer to a function of that symbol's signature, and is not called after the library is closed.
pub(super) unsafe fn function<F: Copy>(library: &Library, symbol: &str) -> Result<F> {
    // SAFETY: by the caller.
    let found = unsafe { library.get::<F>(symbol) };
    found.map(|function| *function).map_err(|error| Error::runtime(words(&error)))
}

/// Opens a library by its name, as the system's loader finds it, or by its path.
pub(super) fn open(name: impl AsRef<Path>) -> Result<Library> {
    let name = name.as_ref();
    // SAFETY: NVIDIA's and PyTorch's libraries, whose initialisers may run on any thread.
    unsafe { Library::new(name.as_os_str()) }.map_err(|error| Error::runtime(words(&error)))
}

/// The message of the loader. That of libloading says only that loading failed.
fn words(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The library with this name, if the process has already loaded it. PyTorch loads the version that fits it.
#[cfg(unix)]
pub(super) fn loaded(name: &str) -> Option<Library> {
    use libloading::os::unix;
    // SAFETY: nothing is loaded, so no initialiser runs.
    unsafe { unix::Library::open(Some(name), unix::RTLD_LAZY | libc::RTLD_NOLOAD) }.ok().map(Library::from)
}

/// The library with this name, if the process has already loaded it.
#[cfg(not(unix))]
pub(super) fn loaded(_name: &str) -> Option<Library> {
    None
}
