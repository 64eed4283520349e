//! The border to torch: tensors, their operations and settings, as everything above the kernels uses them.
//!
//! There are two, of the same names; a feature chooses one when the crate is built. `tch` calls the libtorch that it is
//! linked against, of one release. `dynamic` calls the methods of the Python tensors, of whatever torch there is. All
//! names and signatures are tch's, as far as this crate uses them.

#[cfg(feature = "dynamic")]
mod dynamic;
#[cfg(feature = "tch")]
mod tch;

#[cfg(feature = "dynamic")]
pub use dynamic::*;
#[cfg(feature = "tch")]
pub use tch::*;

#[cfg(all(feature = "tch", feature = "dynamic"))]
compile_error!(
    "expected one of the features `tch` and `dynamic`, but got both; the default one goes by --no-default-features"
);
#[cfg(not(any(feature = "tch", feature = "dynamic")))]
compile_error!("expected one of the features `tch` and `dynamic`, but got none");
