//! Environment variables that turn something on (1) or off (0). They are read in each call.

use std::env;

use crate::error::{Error, Result};

/// Whether calls may take the kernels for sm_90a.
pub const WGMMA: Switch = Switch { name: "HEX_SSL_CUDA_WGMMA", default: true };
/// Whether the launches of a call may overlap, from compute capability 9.0 on. A kernel then starts while the one before
/// ends, and waits for it itself (`begin` in `kernels/device.cu`). No GPU has run this yet.
pub const OVERLAP: Switch = Switch { name: "HEX_SSL_CUDA_OVERLAP", default: false };

/// An environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Switch {
    name: &'static str,
    default: bool,
}

impl Switch {
    /// What it says, or the default if it is unset.
    ///
    /// # Errors
    /// [`Error::Value`] if it is neither 0 nor 1.
    pub fn is_on(self) -> Result<bool> {
        match env::var_os(self.name).as_ref().map(|value| value.to_string_lossy()).as_deref() {
            None => Ok(self.default),
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(other) => Err(Error::value(format!("expected {} to be 0 or 1, but got \"{other}\"", self.name))),
        }
    }
}
