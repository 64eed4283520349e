//! A GPU: what it is, the kernels loaded on it, and their launches on torch's current stream.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::{Attribute, Driver, Entered, Handle};
use super::nvrtc::Compiler;
use super::torch::TorchCuda;
use super::{binary, cache, hopper, Chip, Executor, Variant};
use crate::error::{Error, Result};

/// A GPU that runs the kernels.
pub struct Device {
    driver: &'static Driver,
    torch: &'static TorchCuda,
    compiler: &'static Compiler,
    ordinal: usize,
    name: String,
    chip: Chip,
    context: Handle,
    /// The kernels loaded so far, or why not. Loading happens under the lock: once, whoever asks.
    modules: Mutex<HashMap<Variant, Result<Arc<Module>>>>,
}

// SAFETY: the context is the driver's, which any thread may use; all else is `Send` and `Sync` of itself.
unsafe impl Send for Device {}
// SAFETY: see above.
unsafe impl Sync for Device {}

impl Device {
    /// The GPU that torch calls `cuda:ordinal`.
    ///
    /// # Errors
    /// [`Error::Runtime`] where kernels cannot run on it, with the reason; the same at every later call.
    pub fn get(ordinal: usize) -> Result<Arc<Self>> {
        static DEVICES: Mutex<BTreeMap<usize, Result<Arc<Device>>>> = Mutex::new(BTreeMap::new());
        lock(&DEVICES).entry(ordinal).or_insert_with(|| Self::find(ordinal).map(Arc::new)).clone()
    }

    fn find(ordinal: usize) -> Result<Self> {
        let torch = TorchCuda::get()?;
        let driver = Driver::get()?;
        let device = driver.device(ordinal)?;
        let name = driver.name(device)?;
        let chip = chip(driver, device)?;
        let compiler = binary::check(chip.capability)?;
        let context = driver.primary_context(device)?;
        Ok(Self { driver, torch, compiler, ordinal, name, chip, context, modules: Mutex::default() })
    }

    /// What the plan goes by.
    pub fn chip(&self) -> Chip {
        self.chip
    }

    /// What runs here, in words.
    pub fn describe(&self) -> String {
        let (major, minor) = self.chip.capability;
        let compiler = self.compiler.version();
        let kept = cache::folder().map_or("not on disk".into(), |folder| format!("in {}", folder.display()));
        let products = match hopper::is_asked_for() {
            _ if self.chip.capability != hopper::CAPABILITY => "",
            Ok(true) => ", with wgmma",
            _ => ", without wgmma",
        };
        let name = &self.name;
        format!(
            "the fused kernels run on {name} ({major}.{minor}{products}), compiled by NVRTC {compiler}, kept {kept}"
        )
    }

    /// The kernels of a variant, compiled where no cubin is at hand.
    ///
    /// # Errors
    /// [`Error::Runtime`] where they cannot be compiled or loaded; the same at every later call.
    pub fn module(&self, variant: Variant) -> Result<Arc<Module>> {
        lock(&self.modules).entry(variant).or_insert_with(|| self.load(variant).map(Arc::new)).clone()
    }

    fn load(&self, variant: Variant) -> Result<Module> {
        let _entered = self.enter()?;
        let handle = binary::load(variant, self.chip.capability, |cubin| self.driver.load_module(cubin))?;
        Ok(Module { handle, kernels: Mutex::default() })
    }

    /// Makes ready to launch kernels of `module` on the stream that is torch's current one on this thread.
    ///
    /// # Errors
    /// [`Error::Runtime`] where the driver refuses.
    pub fn launcher<'a>(&'a self, module: &'a Module) -> Result<Launcher<'a>> {
        let stream = self.torch.current_stream(self.ordinal)?;
        Ok(Launcher { module, stream, driver: self.driver, _entered: self.enter()? })
    }

    fn enter(&self) -> Result<Entered<'static>> {
        // SAFETY: the device's primary context, retained for good.
        unsafe { self.driver.enter(self.context) }
    }
}

fn chip(driver: &Driver, device: c_int) -> Result<Chip> {
    let attribute = |attribute| driver.attribute(device, attribute);
    Ok(Chip {
        capability: (attribute(Attribute::CapabilityMajor)?, attribute(Attribute::CapabilityMinor)?),
        multiprocessors: attribute(Attribute::Multiprocessors)?,
        shared_bytes: attribute(Attribute::SharedBytes)? as usize,
    })
}

/// The kernels of a variant, loaded on a device.
pub struct Module {
    handle: Handle,
    kernels: Mutex<HashMap<String, LoadedKernel>>,
}

// SAFETY: the module is the driver's, which any thread may use.
unsafe impl Send for Module {}
// SAFETY: see above.
unsafe impl Sync for Module {}

struct LoadedKernel {
    handle: Handle,
    /// The dynamic shared memory that it may have.
    shared_bytes: u32,
}

impl Module {
    /// A kernel that may have so much shared memory. Not the driver's answer each time: launches are many and short.
    fn kernel(&self, driver: &Driver, name: &str, shared_bytes: u32) -> Result<Handle> {
        let mut kernels = lock(&self.kernels);
        let kernel = match kernels.entry(name.into()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                // SAFETY: a module of this driver.
                let handle = unsafe { driver.kernel(self.handle, name) }?;
                new.insert(LoadedKernel { handle, shared_bytes: 0 })
            }
        };
        if shared_bytes > kernel.shared_bytes {
            // SAFETY: a kernel of this driver.
            unsafe { driver.allow_shared(kernel.handle, shared_bytes) }?;
            kernel.shared_bytes = shared_bytes;
        }
        Ok(kernel.handle)
    }
}

/// Launches kernels on a stream. The device's context is the thread's current one for as long as this lives.
pub struct Launcher<'a> {
    driver: &'a Driver,
    module: &'a Module,
    stream: Handle,
    _entered: Entered<'a>,
}

impl Executor for Launcher<'_> {
    fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let handle = self.module.kernel(self.driver, kernel, shared_bytes)?;
        // SAFETY: a kernel of this module, whose parameters the plan packs; the stream is one of the current context.
        let launched = unsafe { self.driver.launch(handle, grid, block, shared_bytes, self.stream, arguments) };
        launched.map_err(|error| Error::runtime(format!("{error}, in kernel {kernel} of {grid:?} blocks")))
    }
}

/// A panic of another thread left nothing half done: the maps are only ever added to.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cuda::driver::fake;

    #[test]
    fn a_kernel_is_looked_up_once_and_gets_the_most_shared_memory_asked_for() {
        let driver = fake::driver();
        let module = Module { handle: 5 as Handle, kernels: Mutex::default() };
        for shared_bytes in [0, 1000, 500, 1000, 70_000] {
            assert_eq!(module.kernel(&driver, "sums", shared_bytes), Ok(6 as Handle));
        }
        assert_eq!(fake::log(), ["get sums", "set 8 1000", "set 8 70000"]);
        module.kernel(&driver, "anchors", 0).unwrap();
        assert_eq!(fake::log(), ["get anchors"]);
    }

    #[test]
    fn a_refused_launch_names_the_kernel() {
        let driver = fake::driver();
        let module = Module { handle: 5 as Handle, kernels: Mutex::default() };
        module.kernel(&driver, "sums", 0).unwrap();
        // SAFETY: the fake driver follows no handle.
        let entered = unsafe { driver.enter(7 as Handle) }.unwrap();
        let launcher = Launcher { driver: &driver, module: &module, stream: 9 as Handle, _entered: entered };
        let (mut first, mut second) = (1_i32, 2_f64);
        let mut arguments = [(&raw mut first).cast::<c_void>(), (&raw mut second).cast()];
        fake::answer(2);
        let refused = launcher.launch("sums", [3, 1, 1], 256, 0, &mut arguments);
        let text = "CUDA: cuLaunchKernel failed: out of memory (2), in kernel sums of [3, 1, 1] blocks";
        assert_eq!(refused, Err(Error::runtime(text)));
        fake::answer(0);
        fake::log();
    }
}
