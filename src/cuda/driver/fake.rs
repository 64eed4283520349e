//! A driver for the tests that notes what it is asked, in the thread's log.

use std::cell::{Cell, RefCell};

use super::*;

thread_local! {
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static STATUS: Cell<c_int> = const { Cell::new(0) };
    static REFUSED: Cell<&'static str> = const { Cell::new("") };
}

/// What was asked since the last time. From then on, nothing is refused.
pub fn log() -> Vec<String> {
    REFUSED.set("");
    LOG.take()
}

/// The call that gets CUDA_ERROR_NOT_INITIALIZED, by its word in the log.
pub fn refuse(call: &'static str) {
    REFUSED.set(call);
}

/// What the driver answers from now on.
pub fn answer(status: c_int) {
    STATUS.set(status);
}

fn note(text: String) -> c_int {
    let is_refused = text.split(' ').next() == Some(REFUSED.get());
    LOG.with_borrow_mut(|log| log.push(text));
    if is_refused {
        3
    } else {
        STATUS.get()
    }
}

pub fn driver() -> Driver {
    unsafe extern "C" fn init(_: c_uint) -> c_int {
        note("init".into())
    }
    unsafe extern "C" fn error_string(status: c_int, text: *mut *const c_char) -> c_int {
        // SAFETY: the caller's variable.
        unsafe { *text = if status == 2 { c"out of memory".as_ptr() } else { null() } };
        0
    }
    unsafe extern "C" fn device_get(device: *mut c_int, ordinal: c_int) -> c_int {
        // SAFETY: the caller's variable.
        unsafe { *device = ordinal };
        note(format!("device {ordinal}"))
    }
    unsafe extern "C" fn device_get_name(_: *mut c_char, _: c_int, device: c_int) -> c_int {
        note(format!("name {device}"))
    }
    unsafe extern "C" fn device_get_attribute(value: *mut c_int, attribute: c_int, _: c_int) -> c_int {
        // SAFETY: the caller's variable.
        unsafe { *value = attribute };
        note(format!("attribute {attribute}"))
    }
    unsafe extern "C" fn primary_context_retain(context: *mut Handle, device: c_int) -> c_int {
        // SAFETY: the caller's variable.
        unsafe { *context = 7 as Handle };
        note(format!("retain {device}"))
    }
    unsafe extern "C" fn context_push(context: Handle) -> c_int {
        note(format!("push {}", context as usize))
    }
    unsafe extern "C" fn context_pop(_: *mut Handle) -> c_int {
        note("pop".into())
    }
    unsafe extern "C" fn exchange_capture_mode(mode: *mut c_int) -> c_int {
        // SAFETY: the caller's variable. The thread's mode was 1.
        let asked = unsafe { std::mem::replace(&mut *mode, 1) };
        note(format!("mode {asked}"))
    }
    unsafe extern "C" fn module_load_data(module: *mut Handle, _: *const c_void) -> c_int {
        // SAFETY: the caller's variable.
        unsafe { *module = 5 as Handle };
        note("load".into())
    }
    unsafe extern "C" fn module_get_function(kernel: *mut Handle, _: Handle, name: *const c_char) -> c_int {
        // SAFETY: the caller's variable, and its string.
        let name = unsafe {
            *kernel = 6 as Handle;
            CStr::from_ptr(name)
        };
        note(format!("get {}", name.to_string_lossy()))
    }
    unsafe extern "C" fn function_set_attribute(_: Handle, attribute: c_int, value: c_int) -> c_int {
        note(format!("set {attribute} {value}"))
    }
    unsafe extern "C" fn launch_kernel(
        kernel: Handle,
        x: c_uint,
        y: c_uint,
        z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: Handle,
        parameters: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> c_int {
        // SAFETY: the tests pass two parameters, of these types.
        let (first, second) = unsafe { (*(*parameters).cast::<i32>(), *(*parameters.add(1)).cast::<f64>()) };
        assert!(extra.is_null());
        let (kernel, stream) = (kernel as usize, stream as usize);
        note(format!(
            "launch {kernel} {:?} {:?} {shared} {stream} {first} {second}",
            [x, y, z],
            [block_x, block_y, block_z]
        ))
    }
    unsafe extern "C" fn launch_kernel_ex(
        config: *const LaunchConfig,
        kernel: Handle,
        parameters: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> c_int {
        // SAFETY: the caller's, with one attribute. The tests pass two parameters, of these types.
        let (config, attribute, first, second) = unsafe {
            (&*config, &*(*config).attributes, *(*parameters).cast::<i32>(), *(*parameters.add(1)).cast::<f64>())
        };
        assert!(extra.is_null() && config.attribute_count == 1);
        let LaunchConfig { grid, block, shared_bytes, stream, .. } = config;
        let (kernel, stream) = (kernel as usize, *stream as usize);
        note(format!(
            "overlap {kernel} {grid:?} {block:?} {shared_bytes} {stream} {first} {second} attribute {} = {}",
            attribute.id, attribute.value[0]
        ))
    }
    let functions = DriverFunctions {
        init,
        error_string,
        device_get,
        device_get_name,
        device_get_attribute,
        primary_context_retain,
        context_push,
        context_pop,
        exchange_capture_mode,
        module_load_data,
        module_get_function,
        function_set_attribute,
        launch_kernel,
    };
    let overlap = Ok(OverlapFunctions { launch_kernel_ex });
    Driver { functions, overlap, _library: libloading::os::unix::Library::this().into() }
}
