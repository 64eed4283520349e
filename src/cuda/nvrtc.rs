//! NVRTC, the compiler that torch installs. It compiles CUDA C++ to a cubin, without a toolkit and without a GPU.

use std::ffi::{c_char, c_int, CString};
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use libloading::Library;

use super::driver::Handle;
use super::library::{c_functions, loaded, open};
use super::torch::TorchCuda;
use crate::error::{Error, Result};

/// Names of the library, newest first.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"];
/// NVRTC_ERROR_OUT_OF_MEMORY
const OUT_OF_MEMORY: c_int = 1;
/// The library that NVRTC loads by its bare name when it compiles. It is found only if the process has already loaded
/// it.
const BUILTINS: &str = "libnvrtc-builtins.so.";

c_functions! {
    /// As declared in nvrtc.h.
    NvrtcFunctions {
        version = "nvrtcVersion"(*mut c_int, *mut c_int);
        count_architectures = "nvrtcGetNumSupportedArchs"(*mut c_int);
        architectures = "nvrtcGetSupportedArchs"(*mut c_int);
        create = "nvrtcCreateProgram"(
            *mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char,
        );
        destroy = "nvrtcDestroyProgram"(*mut Handle);
        compile = "nvrtcCompileProgram"(Handle, c_int, *const *const c_char);
        log_size = "nvrtcGetProgramLogSize"(Handle, *mut usize);
        log = "nvrtcGetProgramLog"(Handle, *mut c_char);
        cubin_size = "nvrtcGetCUBINSize"(Handle, *mut usize);
        cubin = "nvrtcGetCUBIN"(Handle, *mut c_char);
        ptx_size = "nvrtcGetPTXSize"(Handle, *mut usize);
        ptx = "nvrtcGetPTX"(Handle, *mut c_char);
    }
}

/// The compiler.
pub struct Compiler {
    functions: NvrtcFunctions,
    version: (c_int, c_int),
    /// The compute capabilities that it supports, as 90 for 9.0.
    architectures: Vec<c_int>,
    // Kept open for the functions.
    _library: Library,
}

impl Compiler {
    /// The compiler, which the first call loads: the one that torch has loaded, else the one installed with torch, else
    /// that of the system.
    ///
    /// # Errors
    /// [`Error::Runtime`] if there is none. Later calls return the same error.
    pub fn get() -> Result<&'static Self> {
        static COMPILER: OnceLock<Result<Compiler>> = OnceLock::new();
        COMPILER.get_or_init(|| Self::of(find()?)).as_ref().map_err(Clone::clone)
    }

    fn of(library: Library) -> Result<Self> {
        let functions = NvrtcFunctions::of(&library)?;
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: writes two ints, then one.
        unsafe {
            expect("nvrtcVersion", (functions.version)(&raw mut major, &raw mut minor))?;
            expect("nvrtcGetNumSupportedArchs", (functions.count_architectures)(&raw mut count))?;
        }
        let mut architectures = vec![0; count.unsigned_abs() as usize];
        // SAFETY: writes as many ints as it said.
        expect("nvrtcGetSupportedArchs", unsafe { (functions.architectures)(architectures.as_mut_ptr()) })?;
        Ok(Self { functions, version: (major, minor), architectures, _library: library })
    }

    /// The version, such as "13.0".
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// The architecture to compile for: the newest one whose code runs on the device.
    ///
    /// # Errors
    /// [`Error::Runtime`] if there is none.
    pub fn architecture(&self, capability: (u32, u32)) -> Result<String> {
        newest(&self.architectures, capability).map(|known| format!("sm_{known}")).ok_or_else(|| {
            let (major, minor) = capability;
            Error::runtime(format!("NVRTC {} has no code for compute capability {major}.{minor}", self.version()))
        })
    }

    /// Compiles a program without headers to a cubin, for an architecture such as sm_90.
    ///
    /// # Errors
    /// [`Error::Runtime`] with the log of the compiler.
    pub fn cubin(&self, source: &str, options: &[String]) -> Result<Vec<u8>> {
        let program = self.program(source, options)?;
        program.text(self.functions.cubin_size, self.functions.cubin)
    }

    /// Compiles a program without headers to PTX, for a virtual architecture such as compute_90.
    ///
    /// # Errors
    /// As [`Compiler::cubin`].
    pub fn ptx(&self, source: &str, options: &[String]) -> Result<Vec<u8>> {
        let program = self.program(source, options)?;
        let mut text = program.text(self.functions.ptx_size, self.functions.ptx)?;
        text.pop(); // the final zero
        Ok(text)
    }

    /// Compiles a program like [`Compiler::cubin`] and returns the log of the compiler.
    ///
    /// # Errors
    /// As [`Compiler::cubin`].
    pub fn remarks(&self, source: &str, options: &[String]) -> Result<String> {
        let program = self.program(source, options)?;
        let log = program.text(self.functions.log_size, self.functions.log)?;
        Ok(String::from_utf8_lossy(&log).trim_end_matches('\0').into())
    }

    fn program(&self, source: &str, options: &[String]) -> Result<Program<'_>> {
        let c_string = |text: &str| CString::new(text).map_err(|_| Error::runtime("a NUL in a kernel's source"));
        let source = c_string(source)?;
        let options = options.iter().map(|option| c_string(option)).collect::<Result<Vec<_>>>()?;
        let mut program = Program { functions: &self.functions, handle: null_mut() };
        // SAFETY: zero-terminated strings, no headers; writes one handle.
        let status = unsafe {
            (self.functions.create)(&raw mut program.handle, source.as_ptr(), c"hex_ssl.cu".as_ptr(), 0, null(), null())
        };
        expect("nvrtcCreateProgram", status)?;
        program.compile(&options)?;
        Ok(program)
    }
}

/// The newest architecture whose code runs on GPUs of a compute capability: it has the same major number.
fn newest(architectures: &[c_int], (major, minor): (u32, u32)) -> Option<c_int> {
    let runs = |known: &c_int| known.unsigned_abs() / 10 == major && known.unsigned_abs() % 10 <= minor;
    architectures.iter().copied().filter(runs).max()
}

/// A program of NVRTC.
struct Program<'a> {
    functions: &'a NvrtcFunctions,
    handle: Handle,
}

impl Program<'_> {
    fn compile(&self, options: &[CString]) -> Result<()> {
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program is there; as many zero-terminated strings as said.
        let status = unsafe { (self.functions.compile)(self.handle, pointers.len() as c_int, pointers.as_ptr()) };
        expect("nvrtcCompileProgram", status).map_err(|error| {
            let log = self.text(self.functions.log_size, self.functions.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            error.with(&format!(": {}", log.trim_end_matches('\0').trim()))
        })
    }

    /// An output of a program, by the functions that return its size and its bytes.
    fn text(
        &self,
        size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
        bytes: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>> {
        let mut length = 0;
        // SAFETY: the program is there; writes one number.
        expect("NVRTC's answer", unsafe { size(self.handle, &raw mut length) })?;
        let mut text = vec![0_u8; length];
        // SAFETY: writes as many bytes as it said.
        expect("NVRTC's answer", unsafe { bytes(self.handle, text.as_mut_ptr().cast()) })?;
        Ok(text)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: created once, destroyed once.
            unsafe { (self.functions.destroy)(&raw mut self.handle) };
        }
    }
}

fn expect(what: &str, status: c_int) -> Result<()> {
    match status {
        0 => Ok(()),
        OUT_OF_MEMORY => Err(Error::Memory(format!("{what} failed: out of memory ({status})"))),
        _ => Err(Error::runtime(format!("{what} failed ({status})"))),
    }
}

fn find() -> Result<Library> {
    if let Some(library) = NAMES.iter().find_map(|name| loaded(name)) {
        return Ok(library);
    }
    let folders = TorchCuda::get().ok().and_then(TorchCuda::folder).map(|torch| folders(&torch)).unwrap_or_default();
    if let Some(library) = folders.iter().find_map(|folder| open_in(folder)) {
        return Ok(library);
    }
    let mut tried = NAMES.iter().map(open);
    tried.find_map(Result::ok).ok_or_else(|| Error::runtime(format!("no NVRTC: none of {} is here", NAMES.join(", "))))
}

/// The folders in which wheels install it: torch/lib, and nvidia/*/lib beside torch.
fn folders(torch: &Path) -> Vec<PathBuf> {
    let packages = torch.ancestors().nth(2).map(|packages| packages.join("nvidia"));
    let beside = packages.and_then(|nvidia| fs::read_dir(nvidia).ok()).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = beside.map(|entry| entry.path().join("lib")).collect();
    // The file system lists a folder in any order.
    folders.sort();
    folders.insert(0, torch.to_path_buf());
    folders
}

/// The library in a folder. Its builtins are loaded first, because it will look for them.
fn open_in(folder: &Path) -> Option<Library> {
    let path = NAMES.iter().map(|name| folder.join(name)).find(|path| path.exists())?;
    let beside = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    for builtins in beside.filter(|path| path.file_name().is_some_and(is_builtins)) {
        // Stays loaded as long as the compiler.
        std::mem::forget(open(builtins));
    }
    open(path).ok()
}

fn is_builtins(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(BUILTINS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_gpu_gets_the_newest_code_that_it_runs() {
        let known = [75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121];
        let cases =
            [((8, 0), Some(80)), ((8, 9), Some(89)), ((9, 9), Some(90)), ((10, 1), Some(100)), ((12, 1), Some(121))];
        for (capability, expected) in cases {
            assert_eq!(newest(&known, capability), expected);
        }
        assert_eq!((newest(&known, (13, 0)), newest(&known, (7, 0)), newest(&known, (0, 9))), (None, None, None));
    }

    #[test]
    fn builtins_are_told_from_others() {
        assert!(is_builtins("libnvrtc-builtins.so.13.0".as_ref()));
        assert!(!is_builtins("libnvrtc-builtins.alt.so.13.0".as_ref()));
        assert!(!is_builtins("libnvrtc.so.13".as_ref()));
    }

    #[test]
    fn folders_are_those_of_wheels() {
        let packages = std::env::temp_dir().join(format!("hex_ssl-packages-{}", std::process::id()));
        for folder in ["torch/lib", "nvidia/cu13/lib", "nvidia/cudnn/lib"] {
            fs::create_dir_all(packages.join(folder)).unwrap();
        }
        let found = folders(&packages.join("torch/lib"));
        let expected = ["torch/lib", "nvidia/cu13/lib", "nvidia/cudnn/lib"].map(|folder| packages.join(folder));
        assert_eq!(found, expected);
        assert!(found.iter().all(|folder| open_in(folder).is_none()));
        fs::remove_dir_all(&packages).unwrap();
    }
}
