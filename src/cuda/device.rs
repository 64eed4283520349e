//! A GPU: its properties, the kernels loaded on it, and their launches on the current stream of torch.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::thread;

use super::driver::{Attribute, Driver, Entered, Handle, Queue};
use super::memo::{lock, Memo};
use super::nvrtc::Compiler;
use super::torch::TorchCuda;
use super::{binary, cache, hopper, switch, Chip, Executor, Part, Variant};
use crate::error::{Error, Result};

/// The least compute capability on which launches can overlap.
const OVERLAPPING: (u32, u32) = (9, 0);
/// The first kernel of every evaluation.
const FIRST: &str = "rows";

/// A GPU that runs the kernels.
pub struct Device {
    driver: &'static Driver,
    torch: &'static TorchCuda,
    compiler: &'static Compiler,
    ordinal: usize,
    name: String,
    chip: Chip,
    context: Handle,
    /// The loaded kernels, or the errors from loading them.
    modules: Memo<(Variant, Part), Arc<Module>>,
}

// SAFETY: the context is the driver's, which any thread may use; all else is `Send` and `Sync` of itself.
unsafe impl Send for Device {}
// SAFETY: see above.
unsafe impl Sync for Device {}

impl Device {
    /// The GPU that torch calls `cuda:ordinal`.
    ///
    /// # Errors
    /// [`Error::Runtime`] with the reason if the kernels cannot run on it. Later calls return the same error.
    /// [`Error::Memory`] if there is no memory for a context.
    pub fn get(ordinal: usize) -> Result<Arc<Self>> {
        static DEVICES: Memo<usize, Arc<Device>> = Memo::new();
        DEVICES.get(ordinal, || Self::find(ordinal).map(Arc::new))
    }

    fn find(ordinal: usize) -> Result<Self> {
        let torch = TorchCuda::get()?;
        let driver = Driver::get()?;
        let (name, chip, compiler, context) = found(driver, ordinal, binary::check)?;
        Ok(Self { driver, torch, compiler, ordinal, name, chip, context, modules: Memo::new() })
    }

    /// The properties that the plan depends on.
    pub fn chip(&self) -> Chip {
        self.chip
    }

    /// A description of the GPU and of its kernels.
    pub fn describe(&self) -> String {
        let (major, minor) = self.chip.capability;
        let compiler = self.compiler.version();
        let kept = cache::folder().map_or("not on disk".into(), |folder| format!("in {}", folder.display()));
        let products = match switch::WGMMA.is_on() {
            _ if self.chip.capability != hopper::CAPABILITY => "",
            Ok(true) => ", with wgmma",
            _ => ", without wgmma",
        };
        let launches = if self.overlaps() == Ok(true) { ", launches overlap" } else { "" };
        let name = &self.name;
        format!(
            "the fused kernels run on {name} ({major}.{minor}{products}{launches}), compiled by NVRTC {compiler}, kept {kept}"
        )
    }

    /// Loads parts of the kernels of a variant. Parts that are not in the cache are compiled in parallel.
    ///
    /// # Errors
    /// [`Error::Runtime`] if they cannot be compiled or loaded. Later calls return the same error. [`Error::Memory`] if
    /// memory runs out.
    pub fn kernels(&self, variant: Variant, parts: &[Part]) -> Result<Kernels> {
        let known = parts.iter().map(|&part| Some((part, self.modules.known(&(variant, part))?)));
        if let Some(known) = known.collect() {
            return Ok(Kernels(known));
        }
        let load = |part| Ok((part, self.modules.get((variant, part), || self.load(variant, part).map(Arc::new))?));
        let loaded: Result<Vec<_>> = thread::scope(|scope| {
            let threads: Vec<_> = parts.iter().map(|&part| scope.spawn(move || load(part))).collect();
            let results = threads.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)));
            results.collect()
        });
        loaded.map(Kernels)
    }

    fn load(&self, variant: Variant, part: Part) -> Result<Module> {
        let _entered = self.enter()?;
        let capability = self.chip.capability;
        let handle = binary::load(variant, part, capability, |cubin| self.driver.load_module(cubin))?;
        Ok(Module { handle, kernels: Mutex::default() })
    }

    /// A launcher of `kernels` on the current stream of torch in this thread.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the driver reports an error.
    pub fn launcher<'a>(&'a self, kernels: &'a Kernels) -> Result<Launcher<'a>> {
        let stream = self.torch.current_stream(self.ordinal)?;
        let queue = Queue { stream, overlaps: self.overlaps()? };
        Ok(Launcher { kernels, queue, driver: self.driver, _entered: self.enter()? })
    }

    /// Whether launches overlap.
    fn overlaps(&self) -> Result<bool> {
        Ok(switch::OVERLAP.is_on()? && self.chip.capability >= OVERLAPPING)
    }

    fn enter(&self) -> Result<Entered<'static>> {
        // SAFETY: the device's primary context, retained for good.
        unsafe { self.driver.enter(self.context) }
    }
}

/// What the driver tells of a GPU, and its context, unless `check` refuses its compute capability.
fn found<T>(
    driver: &Driver,
    ordinal: usize,
    check: impl FnOnce((u32, u32)) -> Result<T>,
) -> Result<(String, Chip, T, Handle)> {
    // The first call of a process may be in a stream capture. Where this is refused, what follows decides.
    let _relaxed = driver.relax();
    let device = driver.device(ordinal)?;
    let name = driver.name(device)?;
    let chip = chip(driver, device)?;
    let checked = check(chip.capability)?;
    Ok((name, chip, checked, driver.primary_context(device)?))
}

fn chip(driver: &Driver, device: c_int) -> Result<Chip> {
    let attribute = |attribute| driver.attribute(device, attribute);
    Ok(Chip {
        capability: (attribute(Attribute::CapabilityMajor)?, attribute(Attribute::CapabilityMinor)?),
        multiprocessors: attribute(Attribute::Multiprocessors)?,
        shared_bytes: attribute(Attribute::SharedBytes)? as usize,
    })
}

/// Parts of the kernels of a variant, loaded on a device.
pub struct Kernels(Vec<(Part, Arc<Module>)>);

impl Kernels {
    /// The module that has a kernel.
    fn module(&self, kernel: &str) -> Result<&Module> {
        let part = Part::of(kernel);
        let found = self.0.iter().find(|(here, _)| *here == part);
        found.map(|(_, module)| &**module).ok_or_else(|| Error::runtime(format!("the kernel {kernel} is not loaded")))
    }
}

/// A loaded part.
struct Module {
    handle: Handle,
    kernels: Mutex<HashMap<String, LoadedKernel>>,
}

// SAFETY: the module is the driver's, which any thread may use.
unsafe impl Send for Module {}
// SAFETY: see above.
unsafe impl Sync for Module {}

struct LoadedKernel {
    handle: Handle,
    /// The maximal dynamic shared memory, as set so far.
    shared_bytes: u32,
}

impl Module {
    /// A kernel with at least this maximal shared memory. The result is kept, so that most launches do
    /// not ask the driver again.
    fn kernel(&self, driver: &Driver, name: &str, shared_bytes: u32) -> Result<Handle> {
        let mut kernels = lock(&self.kernels);
        if !kernels.contains_key(name) {
            // SAFETY: a module of this driver.
            let handle = unsafe { driver.kernel(self.handle, name) }?;
            kernels.insert(name.into(), LoadedKernel { handle, shared_bytes: 0 });
        }
        let Some(kernel) = kernels.get_mut(name) else {
            return Err(Error::runtime(format!("the kernel {name} is not loaded")));
        };
        if shared_bytes > kernel.shared_bytes {
            // SAFETY: a kernel of this driver.
            unsafe { driver.allow_shared(kernel.handle, shared_bytes) }?;
            kernel.shared_bytes = shared_bytes;
        }
        Ok(kernel.handle)
    }
}

/// Launches kernels on a stream. While this exists, the context of the device is the current one of the thread.
pub struct Launcher<'a> {
    driver: &'a Driver,
    kernels: &'a Kernels,
    queue: Queue,
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
        let handle = self.kernels.module(kernel)?.kernel(self.driver, kernel, shared_bytes)?;
        // What precedes an evaluation may be anything.
        let queue = Queue { overlaps: self.queue.overlaps && kernel != FIRST, ..self.queue };
        // SAFETY: a kernel of this module, whose parameters the plan packs; the stream is one of the current context. All
        // kernels start with `begin`, which waits.
        let launched = unsafe { self.driver.launch(handle, grid, block, shared_bytes, queue, arguments) };
        launched.map_err(|error| error.with(&format!(", in kernel {kernel} of {grid:?} blocks")))
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cuda::driver::fake;

    #[test]
    fn a_gpu_is_found_in_a_capture() {
        let driver = fake::driver();
        let (_, chip, checked, context) = found(&driver, 1, Ok).unwrap();
        assert_eq!((checked, context), (chip.capability, 7 as Handle));
        let asked = ["mode 2", "device 1", "name 1", "attribute 75", "attribute 76", "attribute 16", "attribute 97"];
        assert_eq!(fake::log(), [&asked[..], &["retain 1", "mode 1"]].concat());
        let refused = found(&driver, 1, |_| Err::<(), _>(Error::runtime("too old"))).err();
        assert_eq!(refused, Some(Error::runtime("too old")));
        assert_eq!(fake::log(), [&asked[..], &["mode 1"]].concat());
        fake::refuse("mode");
        assert!(found(&driver, 1, Ok).is_ok());
        assert_eq!(fake::log(), [&asked[..], &["retain 1"]].concat());
    }

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
    fn launches_overlap_but_for_the_first() {
        let driver = fake::driver();
        // SAFETY: the fake driver follows no handle.
        let entered = unsafe { driver.enter(7 as Handle) }.unwrap();
        let module = || Arc::new(Module { handle: 5 as Handle, kernels: Mutex::default() });
        let kernels = Kernels(vec![(Part::Common, module()), (Part::Sums, module())]);
        let queue = Queue { stream: 9 as Handle, overlaps: true };
        let launcher = Launcher { driver: &driver, kernels: &kernels, queue, _entered: entered };
        let (mut first, mut second) = (1_i32, 2_f64);
        fake::log();
        for kernel in ["rows", "sums", "anchors"] {
            let mut arguments = [(&raw mut first).cast::<c_void>(), (&raw mut second).cast()];
            launcher.launch(kernel, [3, 1, 1], 256, 0, &mut arguments).unwrap();
        }
        let log = fake::log();
        let calls = log.iter().filter_map(|line| line.split(' ').next());
        assert_eq!(calls.filter(|&call| call != "get").collect::<Vec<_>>(), ["launch", "overlap", "overlap"]);
    }

    #[test]
    fn a_refused_launch_names_the_kernel() {
        let driver = fake::driver();
        let module = Module { handle: 5 as Handle, kernels: Mutex::default() };
        module.kernel(&driver, "sums", 0).unwrap();
        // SAFETY: the fake driver follows no handle.
        let entered = unsafe { driver.enter(7 as Handle) }.unwrap();
        let kernels = Kernels(vec![(Part::Sums, Arc::new(module))]);
        let queue = Queue { stream: 9 as Handle, overlaps: false };
        let launcher = Launcher { driver: &driver, kernels: &kernels, queue, _entered: entered };
        let (mut first, mut second) = (1_i32, 2_f64);
        let mut arguments = [(&raw mut first).cast::<c_void>(), (&raw mut second).cast()];
        fake::answer(2);
        let refused = launcher.launch("sums", [3, 1, 1], 256, 0, &mut arguments);
        let text = "CUDA: cuLaunchKernel failed: out of memory (2), in kernel sums of [3, 1, 1] blocks";
        assert_eq!(refused, Err(Error::Memory(text.into())));
        let absent = launcher.launch("gradient", [1, 1, 1], 256, 0, &mut []);
        assert_eq!(absent, Err(Error::runtime("the kernel gradient is not loaded")));
        fake::answer(0);
        fake::log();
    }
}
