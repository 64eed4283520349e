//! A variant's kernels as a cubin: from the cache on disk, else compiled and kept there.

use super::nvrtc::Compiler;
use super::{cache, Variant, SOURCES};
use crate::error::Result;

/// A cubin, and whether it was found on disk.
pub struct Binary {
    /// What the driver loads.
    pub cubin: Vec<u8>,
    /// Not compiled now.
    pub from_disk: bool,
}

/// The cubin for a device of that compute capability.
///
/// # Errors
/// [`Error::Runtime`](crate::error::Error::Runtime) where there is no compiler, it has no code for the device, or
/// it refuses the source.
pub fn cubin(variant: Variant, capability: (u32, u32)) -> Result<Binary> {
    let recipe = Recipe::of(variant, capability)?;
    if let Some(cubin) = cache::folder().and_then(|folder| cache::read(&folder, &recipe.key())) {
        return Ok(Binary { cubin, from_disk: true });
    }
    Ok(Binary { cubin: recipe.compile()?, from_disk: false })
}

/// The same, compiled anew whatever the cache has.
///
/// # Errors
/// As [`cubin`].
pub fn compile(variant: Variant, capability: (u32, u32)) -> Result<Vec<u8>> {
    Recipe::of(variant, capability)?.compile()
}

/// Everything that decides which bytes come out.
struct Recipe {
    compiler: &'static Compiler,
    options: Vec<String>,
}

impl Recipe {
    fn of(variant: Variant, capability: (u32, u32)) -> Result<Self> {
        let compiler = Compiler::get()?;
        let mut options = vec![format!("--gpu-architecture={}", compiler.architecture(capability)?)];
        options.extend(variant.options());
        Ok(Self { compiler, options })
    }

    fn key(&self) -> String {
        let version = self.compiler.version();
        let mut parts = vec![SOURCES, &version];
        parts.extend(self.options.iter().map(String::as_str));
        cache::key(&parts)
    }

    fn compile(&self) -> Result<Vec<u8>> {
        let cubin = self.compiler.cubin(SOURCES, &self.options)?;
        if let Some(folder) = cache::folder() {
            cache::write(&folder, &self.key(), &cubin);
        }
        Ok(cubin)
    }
}
