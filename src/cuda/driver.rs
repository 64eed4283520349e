//! The functions of the CUDA driver that a launch needs, from libcuda.

#[cfg(all(test, unix))]
pub(super) mod fake;

use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::ptr::{null, null_mut};

use libloading::Library;

use super::library::{c_functions, open};
use super::memo::Memo;
use crate::error::{Error, Result};

/// A context, module, function or stream of the driver. A stream is valid as long as its owner, the others as long as
/// the process.
pub type Handle = *mut c_void;

const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

c_functions! {
    /// As declared in cuda.h. A device is an `int`.
    DriverFunctions {
        init = "cuInit"(c_uint);
        error_string = "cuGetErrorString"(c_int, *mut *const c_char);
        device_get = "cuDeviceGet"(*mut c_int, c_int);
        device_get_name = "cuDeviceGetName"(*mut c_char, c_int, c_int);
        device_get_attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
        primary_context_retain = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
        context_push = "cuCtxPushCurrent_v2"(Handle);
        context_pop = "cuCtxPopCurrent_v2"(*mut Handle);
        exchange_capture_mode = "cuThreadExchangeStreamCaptureMode"(*mut c_int);
        module_load_data = "cuModuleLoadData"(*mut Handle, *const c_void);
        module_get_function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
        function_set_attribute = "cuFuncSetAttribute"(Handle, c_int, c_int);
        launch_kernel = "cuLaunchKernel"(
            Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void,
        );
    }
}

c_functions! {
    /// As above. Drivers before CUDA 11.8 lack it.
    OverlapFunctions {
        launch_kernel_ex = "cuLaunchKernelEx"(*const LaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
    }
}

/// Where launches go.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// In whose order they run.
    pub stream: Handle,
    /// Whether a kernel may start before the one that precedes it has ended.
    pub overlaps: bool,
}

/// CUlaunchConfig
#[repr(C)]
struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: Handle,
    attributes: *const LaunchAttribute,
    attribute_count: c_uint,
}

/// CUlaunchAttribute, whose value is a union of 64 bytes.
#[repr(C)]
struct LaunchAttribute {
    id: c_uint,
    padding: c_uint,
    value: [c_int; 16],
}

/// CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
const STREAM_SERIALIZATION: c_uint = 6;

/// Attributes of a device, with the numbers of cuda.h.
#[derive(Debug, Clone, Copy)]
pub enum Attribute {
    /// CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
    Multiprocessors = 16,
    /// CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    CapabilityMajor = 75,
    /// CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    CapabilityMinor = 76,
    /// CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    SharedBytes = 97,
}

/// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
const MAX_DYNAMIC_SHARED: c_int = 8;
/// CUDA_ERROR_OUT_OF_MEMORY
const OUT_OF_MEMORY: c_int = 2;
/// CU_STREAM_CAPTURE_MODE_RELAXED
const CAPTURE_RELAXED: c_int = 2;

/// The driver, initialised.
pub struct Driver {
    functions: DriverFunctions,
    overlap: Result<OverlapFunctions>,
    // The functions stand in it.
    _library: Library,
}

impl Driver {
    /// The driver, which the first call loads.
    ///
    /// # Errors
    /// [`Error::Runtime`] if there is no driver or no device. Later calls return the same error. [`Error::Memory`] if
    /// memory runs out.
    pub fn get() -> Result<&'static Self> {
        static DRIVER: Memo<(), &'static Driver> = Memo::new();
        DRIVER.get((), || Self::load().map(|driver| &*Box::leak(Box::new(driver))))
    }

    fn load() -> Result<Self> {
        let missing = |error: Error| Error::runtime(format!("no CUDA driver ({error})"));
        let library = open(LIBRARY).map_err(missing)?;
        let (functions, overlap) = (DriverFunctions::of(&library).map_err(missing)?, OverlapFunctions::of(&library));
        Self { functions, overlap, _library: library }.initialised()
    }

    fn initialised(self) -> Result<Self> {
        let relaxed = self.relax();
        // SAFETY: may be called any number of times from any thread.
        let done = self.check("cuInit", unsafe { (self.functions.init)(0) });
        drop(relaxed);
        done.map(|()| self)
    }

    fn check(&self, what: &str, status: c_int) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let mut text = null();
        // SAFETY: `text` becomes a static string, or stays null where the number is unknown.
        let words = unsafe {
            (self.functions.error_string)(status, &raw mut text);
            if text.is_null() {
                "unknown error".into()
            } else {
                CStr::from_ptr(text).to_string_lossy()
            }
        };
        let text = format!("CUDA: {what} failed: {words} ({status})");
        Err(if status == OUT_OF_MEMORY { Error::Memory(text) } else { Error::Runtime(text) })
    }

    /// The device with this number in torch.
    pub fn device(&self, ordinal: usize) -> Result<c_int> {
        let ordinal = c_int::try_from(ordinal).map_err(|_| Error::runtime(format!("CUDA: no device {ordinal}")))?;
        let mut device = 0;
        // SAFETY: writes one int.
        self.check("cuDeviceGet", unsafe { (self.functions.device_get)(&raw mut device, ordinal) })?;
        Ok(device)
    }

    /// The device's name, such as "NVIDIA H200".
    pub fn name(&self, device: c_int) -> Result<String> {
        let mut name = [0 as c_char; 128];
        // SAFETY: writes at most that many bytes, the last of them zero.
        let status = unsafe { (self.functions.device_get_name)(name.as_mut_ptr(), name.len() as c_int, device) };
        self.check("cuDeviceGetName", status)?;
        // SAFETY: zero-terminated, see above.
        Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// A property of the device.
    pub fn attribute(&self, device: c_int, attribute: Attribute) -> Result<u32> {
        let mut value = 0;
        // SAFETY: writes one int.
        let status = unsafe { (self.functions.device_get_attribute)(&raw mut value, attribute as c_int, device) };
        self.check("cuDeviceGetAttribute", status)?;
        Ok(value.unsigned_abs())
    }

    /// The primary context of the device, which torch uses too. It is kept until the process ends.
    pub fn primary_context(&self, device: c_int) -> Result<Handle> {
        let mut context = null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { (self.functions.primary_context_retain)(&raw mut context, device) };
        self.check("cuDevicePrimaryCtxRetain", status)?;
        Ok(context)
    }

    /// Makes the context current on this thread, which may have none (threads of autograd) or that of another device.
    /// Until the result is dropped, a stream capture does not forbid the thread to load kernels.
    ///
    /// # Safety
    /// `context` is a context of this process.
    pub unsafe fn enter(&self, context: Handle) -> Result<Entered<'_>> {
        // SAFETY: by the caller.
        self.check("cuCtxPushCurrent", unsafe { (self.functions.context_push)(context) })?;
        let context = Pushed(self);
        Ok(Entered { _relaxed: self.relax()?, _context: context })
    }

    /// Until the result is dropped, a stream capture does not forbid the thread any call.
    ///
    /// # Errors
    /// [`Error::Runtime`] if nothing in the process has initialised the driver yet. There is no capture then.
    pub fn relax(&self) -> Result<Relaxed<'_>> {
        let mut mode = CAPTURE_RELAXED;
        self.exchange_capture_mode(&mut mode)?;
        Ok(Relaxed { driver: self, mode })
    }

    fn exchange_capture_mode(&self, mode: &mut c_int) -> Result<()> {
        // SAFETY: exchanges one int of this thread.
        let status = unsafe { (self.functions.exchange_capture_mode)(mode) };
        self.check("cuThreadExchangeStreamCaptureMode", status)
    }

    /// Loads a cubin into the current context. It is kept until the process ends.
    pub fn load_module(&self, cubin: &[u8]) -> Result<Handle> {
        let mut module = null_mut();
        // SAFETY: a cubin tells its own length; `cubin` came whole from NVRTC or from a file with its checksum.
        let status = unsafe { (self.functions.module_load_data)(&raw mut module, cubin.as_ptr().cast()) };
        self.check("cuModuleLoadData", status)?;
        Ok(module)
    }

    /// A kernel of a module.
    ///
    /// # Safety
    /// `module` came from [`Driver::load_module`].
    pub unsafe fn kernel(&self, module: Handle, name: &str) -> Result<Handle> {
        let symbol = CString::new(name).map_err(|_| Error::runtime(format!("no name of a kernel: {name:?}")))?;
        let mut kernel = null_mut();
        // SAFETY: writes one handle; the module is the driver's, by the caller.
        let status = unsafe { (self.functions.module_get_function)(&raw mut kernel, module, symbol.as_ptr()) };
        self.check(&format!("cuModuleGetFunction of {name}"), status)?;
        Ok(kernel)
    }

    /// Sets the maximal dynamic shared memory of a kernel. More than 48 KiB must be requested.
    ///
    /// # Safety
    /// `kernel` came from [`Driver::kernel`].
    pub unsafe fn allow_shared(&self, kernel: Handle, bytes: u32) -> Result<()> {
        // SAFETY: by the caller.
        let status = unsafe { (self.functions.function_set_attribute)(kernel, MAX_DYNAMIC_SHARED, bytes as c_int) };
        self.check(&format!("cuFuncSetAttribute of {bytes} bytes of shared memory"), status)
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// `kernel` came from [`Driver::kernel`], the stream is one of the current context, and `arguments` point to the
    /// values of the kernel's parameters, in order. Pointers among them are valid until the kernel has run. If launches
    /// overlap, the kernel reads and writes nothing before it has waited for the one that precedes it.
    pub unsafe fn launch(
        &self,
        kernel: Handle,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        queue: Queue,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let Queue { stream, overlaps } = queue;
        let [x, y, z] = grid;
        let parameters = arguments.as_mut_ptr();
        if overlaps {
            let functions = self.overlap.as_ref().map_err(Clone::clone)?;
            let mut attribute = LaunchAttribute { id: STREAM_SERIALIZATION, padding: 0, value: [0; 16] };
            attribute.value[0] = 1;
            let config = LaunchConfig {
                grid,
                block: [block, 1, 1],
                shared_bytes,
                stream,
                attributes: &raw const attribute,
                attribute_count: 1,
            };
            // SAFETY: as below.
            let status = unsafe {
                (functions.launch_kernel_ex)(&raw const config, kernel, parameters, null::<*mut c_void>().cast_mut())
            };
            return self.check("cuLaunchKernelEx", status);
        }
        // SAFETY: by the caller; the values of the arguments are copied before the call returns.
        let status = unsafe {
            (self.functions.launch_kernel)(
                kernel,
                x,
                y,
                z,
                block,
                1,
                1,
                shared_bytes,
                stream,
                parameters,
                null::<*mut c_void>().cast_mut(),
            )
        };
        self.check("cuLaunchKernel", status)
    }
}

/// A context that is current on this thread. Dropping this restores the previous one.
pub struct Entered<'a> {
    // Dropped in this order.
    _relaxed: Relaxed<'a>,
    _context: Pushed<'a>,
}

/// A thread to which a stream capture forbids nothing. Dropping this restores its capture mode.
pub struct Relaxed<'a> {
    driver: &'a Driver,
    /// What the thread had before.
    mode: c_int,
}

impl Drop for Relaxed<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the next call of the driver reports it.
        let _ = self.driver.exchange_capture_mode(&mut self.mode);
    }
}

/// A context on the thread's stack of contexts.
struct Pushed<'a>(&'a Driver);

impl Drop for Pushed<'_> {
    fn drop(&mut self) {
        let mut context = null_mut();
        // SAFETY: takes off what `Driver::enter` pushed, on the same thread: a launcher never leaves its call.
        unsafe { (self.0.functions.context_pop)(&raw mut context) };
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn a_context_is_entered_and_left() {
        let driver = fake::driver();
        {
            // SAFETY: the fake driver follows no handle.
            let _entered = unsafe { driver.enter(7 as Handle) }.unwrap();
            assert_eq!(fake::log(), ["push 7", "mode 2"]);
        }
        assert_eq!(fake::log(), ["mode 1", "pop"], "the thread's own mode and context come back");
    }

    #[test]
    fn a_context_that_cannot_be_entered_is_left() {
        let driver = fake::driver();
        fake::refuse("mode");
        // SAFETY: the fake driver follows no handle.
        let refused = unsafe { driver.enter(7 as Handle) }.err();
        let text = "CUDA: cuThreadExchangeStreamCaptureMode failed: unknown error (3)";
        assert_eq!(refused, Some(Error::runtime(text)));
        assert_eq!(fake::log(), ["push 7", "mode 2", "pop"]);
    }

    #[test]
    fn the_driver_is_initialised_in_a_capture_and_before_any() {
        assert!(fake::driver().initialised().is_ok());
        assert_eq!(fake::log(), ["mode 2", "init", "mode 1"]);
        fake::refuse("mode");
        assert!(fake::driver().initialised().is_ok());
        assert_eq!(fake::log(), ["mode 2", "init"]);
        fake::refuse("init");
        let text = "CUDA: cuInit failed: unknown error (3)";
        assert_eq!(fake::driver().initialised().err(), Some(Error::runtime(text)));
        assert_eq!(fake::log(), ["mode 2", "init", "mode 1"]);
    }

    #[test]
    fn a_launch_is_handed_on_as_it_is() {
        let (mut first, mut second) = (-3_i32, 0.25_f64);
        let mut arguments = [(&raw mut first).cast::<c_void>(), (&raw mut second).cast()];
        let driver = fake::driver();
        for (overlaps, expected) in [
            (false, "launch 6 [4, 3, 2] [128, 1, 1] 512 9 -3 0.25"),
            (true, "overlap 6 [4, 3, 2] [128, 1, 1] 512 9 -3 0.25 attribute 6 = 1"),
        ] {
            let queue = Queue { stream: 9 as Handle, overlaps };
            // SAFETY: the fake driver follows no handle, and the arguments are what it expects.
            unsafe { driver.launch(6 as Handle, [4, 3, 2], 128, 512, queue, &mut arguments) }.unwrap();
            assert_eq!(fake::log(), [expected]);
        }
        // As in cuda.h.
        assert_eq!([size_of::<LaunchConfig>(), size_of::<LaunchAttribute>()], [56, 72]);
        assert_eq!([offset_of!(LaunchConfig, stream), offset_of!(LaunchConfig, attributes)], [32, 40]);
        assert_eq!(offset_of!(LaunchAttribute, value), 8);
    }

    #[test]
    fn errors_carry_the_drivers_words() {
        let driver = fake::driver();
        fake::answer(2);
        assert_eq!(
            driver.load_module(b"cubin"),
            Err(Error::Memory("CUDA: cuModuleLoadData failed: out of memory (2)".into()))
        );
        fake::answer(999);
        // SAFETY: the fake driver follows no handle.
        let refused = unsafe { driver.allow_shared(6 as Handle, 70_000) };
        let text = "CUDA: cuFuncSetAttribute of 70000 bytes of shared memory failed: unknown error (999)";
        assert_eq!(refused, Err(Error::runtime(text)));
        fake::log();
    }
}
