//! The kernels of a variant, or a part of them, as a cubin from the cache on disk or from the compiler.

use std::path::Path;

use super::nvrtc::Compiler;
use super::{cache, Part, Variant, SOURCES};
use crate::error::{Error, Result};

/// The lowest compute capability that has the kernels' instructions: cp.async, and mma for bfloat16 and tf32.
const OLDEST: (u32, u32) = (8, 0);

/// A cubin, and whether it was found on disk.
pub struct Binary {
    /// The binary.
    pub cubin: Vec<u8>,
    /// Whether it was found in the cache.
    pub from_disk: bool,
}

/// The cubin of a variant for GPUs of a compute capability.
///
/// # Errors
/// [`Error::Runtime`] if there is no compiler, if it does not know the GPU, or if the compilation fails.
pub fn cubin(variant: Variant, capability: (u32, u32)) -> Result<Binary> {
    let recipe = Recipe::of(variant, capability)?;
    match recipe.cached() {
        Some(cubin) => Ok(Binary { cubin, from_disk: true }),
        None => Ok(Binary { cubin: recipe.compile()?, from_disk: false }),
    }
}

/// The PTX of `sources`, compiled with the options of [`cubin`] and cached in `folder`. The tests execute it.
///
/// # Errors
/// As [`cubin`].
pub fn ptx(variant: Variant, capability: (u32, u32), sources: &str, folder: &Path) -> Result<String> {
    let mut recipe = Recipe { sources, ..Recipe::of(variant, capability)? };
    // The virtual architecture: no machine code, whose making takes most of the time.
    recipe.options.iter_mut().for_each(|option| *option = option.replace("=sm_", "=compute_"));
    let key = recipe.key();
    let text = match cache::read(folder, &key) {
        Some(text) => text,
        None => {
            let text = recipe.compiler.ptx(sources, &recipe.options)?;
            cache::write(folder, &key, &text);
            text
        }
    };
    Ok(String::from_utf8_lossy(&text).into())
}

/// The remarks of the assembler on `sources`, for the tests: registers, spills, and reasons to serialise products.
///
/// # Errors
/// As [`cubin`].
pub fn remarks(variant: Variant, capability: (u32, u32), sources: &str) -> Result<String> {
    let mut recipe = Recipe::of(variant, capability)?;
    recipe.options.push("--ptxas-options=-v".into());
    recipe.compiler.remarks(sources, &recipe.options)
}

/// Calls `load` with a cubin that has a part of the kernels: the cubin of all kernels if it is in the cache, else that
/// of the part.
///
/// # Errors
/// As [`cubin`], and those of `load`.
pub fn load<T>(variant: Variant, part: Part, capability: (u32, u32), load: impl Fn(&[u8]) -> Result<T>) -> Result<T> {
    let whole = Recipe::of(variant, capability)?;
    let own = Recipe { sources: part.sources(), ..Recipe::of(variant, capability)? };
    load_either(whole.cached().or_else(|| own.cached()), || own.compile(), load)
}

/// Checks that there are kernels for a compute capability. Returns the compiler.
///
/// # Errors
/// [`Error::Runtime`] with the reason why not.
pub fn check(capability: (u32, u32)) -> Result<&'static Compiler> {
    if capability < OLDEST {
        let ((major, minor), (oldest, _)) = (capability, OLDEST);
        return Err(Error::runtime(format!(
            "the kernels need compute capability {oldest}.0 or later, but the GPU has {major}.{minor}"
        )));
    }
    let compiler = Compiler::get()?;
    compiler.architecture(capability)?;
    Ok(compiler)
}

/// Loads a cached cubin or compiles one. A cached cubin may not fit the driver although it is intact.
fn load_either<T>(
    cached: Option<Vec<u8>>,
    compile: impl FnOnce() -> Result<Vec<u8>>,
    load: impl Fn(&[u8]) -> Result<T>,
) -> Result<T> {
    match cached.map(|cubin| load(&cubin)) {
        Some(Err(Error::Runtime(_))) | None => load(&compile()?),
        // If memory ran out, another cubin does not help.
        Some(answer) => answer,
    }
}

/// Everything that determines the compiled bytes.
struct Recipe<'a> {
    compiler: &'static Compiler,
    sources: &'a str,
    options: Vec<String>,
}

impl Recipe<'_> {
    fn of(variant: Variant, capability: (u32, u32)) -> Result<Self> {
        let compiler = check(capability)?;
        let mut options = vec![format!("--gpu-architecture={}", compiler.architecture(capability)?)];
        if variant.hopper.is_some() {
            // With the instructions that only this architecture has.
            options[0].push('a');
        }
        options.extend(variant.options());
        Ok(Self { compiler, sources: SOURCES, options })
    }

    fn key(&self) -> String {
        let version = self.compiler.version();
        let mut parts = vec![self.sources, &version];
        parts.extend(self.options.iter().map(String::as_str));
        cache::key(&parts)
    }

    fn cached(&self) -> Option<Vec<u8>> {
        cache::read(&cache::folder()?, &self.key())
    }

    fn compile(&self) -> Result<Vec<u8>> {
        let cubin = self.compiler.cubin(self.sources, &self.options)?;
        if let Some(folder) = cache::folder() {
            cache::write(&folder, &self.key(), &cubin);
        }
        Ok(cubin)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refuse_old(cubin: &[u8]) -> Result<Vec<u8>> {
        if cubin == b"old" {
            Err(Error::runtime("not for this driver"))
        } else {
            Ok(cubin.to_vec())
        }
    }

    #[test]
    fn what_the_driver_refuses_is_compiled_anew() {
        let fresh = || Ok(b"fresh".to_vec());
        assert_eq!(load_either(Some(b"cached".to_vec()), fresh, refuse_old).unwrap(), b"cached");
        assert_eq!(load_either(Some(b"old".to_vec()), fresh, refuse_old).unwrap(), b"fresh");
        assert_eq!(load_either(None, fresh, refuse_old).unwrap(), b"fresh");
        let still_refused = load_either(Some(b"old".to_vec()), || Ok(b"old".to_vec()), refuse_old);
        assert_eq!(still_refused, Err(Error::runtime("not for this driver")));
    }

    #[test]
    fn nothing_is_compiled_where_memory_ran_out() {
        let full = || Error::Memory("full".into());
        let loaded: Result<()> = load_either(Some(b"cached".to_vec()), || Err(Error::runtime("")), |_| Err(full()));
        assert_eq!(loaded, Err(full()));
    }
}
