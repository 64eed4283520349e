//! The border to torch: it reads the address, shape, strides, dtype and device of a tensor.
//!
//! There are two borders. A feature selects one when the crate is built. `dlpack` asks torch for a DLPack struct. It is
//! not linked against torch, and works with every supported release. `tch` reads the same data from libtorch, through
//! tch and pyo3-tch. It is linked against one release. Both read the C++ object of the tensor, so a tensor subclass
//! that overrides Python attributes cannot change what memory is used.

#[cfg(not(feature = "tch"))]
mod dlpack;
#[cfg(feature = "tch")]
mod tch;

use std::ffi::c_void;
use std::slice;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::GILOnceCell;

#[cfg(not(feature = "tch"))]
pub use dlpack::DlpackBorder as Torch;
#[cfg(feature = "tch")]
pub use tch::TchBorder as Torch;

use crate::error::{Error, Result};
use crate::operands::{Described, Scalar};

/// A border to torch.
pub trait Border {
    /// The name of the border.
    const NAME: &'static str;
    /// The torch release that the extension is linked against. None if it is not linked against torch.
    const TORCH_VERSION: Option<&'static str>;
    /// An object that keeps the memory of a tensor alive.
    type Owner: Send;

    /// The array of a Python tensor.
    ///
    /// # Errors
    /// The object is not a tensor, or its elements are not in memory with strides.
    fn array(object: &Bound<'_, PyAny>) -> PyResult<Array<Self::Owner>>;
}

/// The elements of a tensor in memory.
#[derive(Debug)]
pub struct Array<O = <Torch as Border>::Owner> {
    /// The address of the first element. Null only if there are no elements.
    pub pointer: *mut c_void,
    /// The length of each dimension.
    pub shape: Vec<i64>,
    /// The distance between neighbours along each dimension, in elements.
    pub strides: Vec<i64>,
    /// The type of the elements.
    pub dtype: Dtype,
    /// Where the memory is.
    pub device: Device,
    /// Keeps the memory alive.
    _owner: O,
}

// SAFETY: An array is plain data, an owner that is `Send`, and an address. Sending an address is harmless: only unsafe
// code dereferences it, under a contract of its own.
unsafe impl<O: Send> Send for Array<O> {}
// SAFETY: As above. A shared reference gives no access to the owner, and its methods do not change the array.
unsafe impl<O: Send> Sync for Array<O> {}

impl<O> Array<O> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().map(|&length| length.max(0) as usize).product()
    }

    /// Whether the elements are contiguous in memory, in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        let in_order = |(&length, &stride): (&i64, &i64)| {
            let fits = length == 1 || stride == expected;
            expected *= length;
            fits
        };
        self.len() == 0 || self.shape.iter().zip(&self.strides).rev().all(in_order)
    }
}

/// The type of a tensor's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dtype {
    /// One of the four floating-point dtypes of the losses.
    Float(Scalar),
    /// int64
    Int64,
    /// uint8
    Uint8,
    /// Any other dtype, by name.
    Other(String),
}

impl Dtype {
    /// The name in torch.
    pub fn name(&self) -> &str {
        match self {
            Self::Float(scalar) => scalar.name(),
            Self::Int64 => "int64",
            Self::Uint8 => "uint8",
            Self::Other(name) => name,
        }
    }

    /// The alignment that its elements need.
    fn bytes(&self) -> usize {
        match self {
            Self::Float(Scalar::F64) | Self::Int64 => 8,
            Self::Float(Scalar::F32) => 4,
            Self::Float(Scalar::Bf16 | Scalar::F16) => 2,
            Self::Uint8 | Self::Other(_) => 1,
        }
    }
}

/// Where a tensor's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The CPU's memory.
    Cpu,
    /// The memory of the CUDA device with this index.
    Cuda(usize),
    /// Any other device.
    Other,
}

impl Device {
    /// The name in torch.
    pub fn name(self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::Cuda(index) => format!("cuda:{index}"),
            Self::Other => "another device".into(),
        }
    }
}

impl<O> Described for Array<O> {
    fn shape(&self) -> &[i64] {
        &self.shape
    }

    fn scalar(&self) -> Option<Scalar> {
        match self.dtype {
            Dtype::Float(scalar) => Some(scalar),
            _ => None,
        }
    }

    fn dtype_name(&self) -> String {
        self.dtype.name().into()
    }

    fn device_name(&self) -> String {
        self.device.name()
    }

    fn is_beside(&self, other: &Self) -> bool {
        self.device == other.device
    }

    fn integers(&self) -> Result<Option<Vec<i64>>> {
        if self.device != Device::Cpu {
            return Ok(None);
        }
        // SAFETY: The array is on the CPU, and this crate never writes to integers. A Python thread that writes to them
        // during the call is a data race of the caller, as with torch's own operations.
        unsafe { self.elements::<i64>() }.map(|elements| Some(elements.to_vec()))
    }
}

/// A type of elements.
pub trait Element: Copy {
    /// The dtype of the elements.
    const DTYPE: Dtype;
}

impl Element for f64 {
    const DTYPE: Dtype = Dtype::Float(Scalar::F64);
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::Float(Scalar::F32);
}

impl Element for i64 {
    const DTYPE: Dtype = Dtype::Int64;
}

impl<O> Array<O> {
    /// The elements, for as long as the array is borrowed.
    ///
    /// # Errors
    /// [`Error::Runtime`] if they are of another type or not contiguous.
    ///
    /// # Safety
    /// The elements must be on the CPU, and nothing may write to them while they are borrowed.
    pub unsafe fn elements<T: Element>(&self) -> Result<&[T]> {
        let length = self.expect_contiguous::<T>()?;
        if length == 0 {
            return Ok(&[]);
        }
        // SAFETY: By the contract of this function. torch says that there are `length` contiguous elements of this
        // type, and the owner keeps them alive. An array from Python is aligned: its extraction checks that.
        Ok(unsafe { slice::from_raw_parts(self.pointer.cast_const().cast(), length) })
    }

    /// The elements, for writing.
    ///
    /// # Errors
    /// As [`elements`](Self::elements).
    ///
    /// # Safety
    /// The elements must be on the CPU, and nothing else may use them while they are borrowed.
    pub unsafe fn elements_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        let length = self.expect_contiguous::<T>()?;
        if length == 0 {
            return Ok(&mut []);
        }
        // SAFETY: As in `elements`, and by the contract of this function nothing else uses the elements.
        Ok(unsafe { slice::from_raw_parts_mut(self.pointer.cast(), length) })
    }

    fn expect_contiguous<T: Element>(&self) -> Result<usize> {
        if self.dtype == T::DTYPE && self.is_contiguous() {
            return Ok(self.len());
        }
        let (expected, came) = (T::DTYPE, &self.dtype);
        Err(Error::runtime(format!(
            "expected contiguous {}, but got {} {:?}",
            expected.name(),
            came.name(),
            self.strides
        )))
    }
}

/// Whether an object is a `torch.Tensor` or a `torch.nn.Parameter` itself. These types do not override any operation.
///
/// # Errors
/// torch cannot be imported.
pub fn is_plain(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    static TYPES: GILOnceCell<[Py<PyAny>; 2]> = GILOnceCell::new();
    let py = object.py();
    let find = || -> PyResult<[Py<PyAny>; 2]> {
        let torch = py.import("torch")?;
        Ok([torch.getattr("Tensor")?.unbind(), torch.getattr("nn")?.getattr("Parameter")?.unbind()])
    };
    let types = TYPES.get_or_try_init(py, find)?;
    Ok(types.iter().any(|plain| object.get_type().is(plain)))
}

impl<'py> FromPyObject<'py> for Array {
    fn extract_bound(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = Torch::array(object)?;
        let past = array.pointer as usize % array.dtype.bytes();
        if past == 0 {
            return Ok(array);
        }
        // torch aligns its own memory, but not that of others, as in `torch.frombuffer` with an odd offset.
        Err(PyValueError::new_err(format!(
            "expected tensors in aligned memory, but got {} that begins {past} bytes past a multiple of {}: pass a clone",
            array.dtype.name(),
            array.dtype.bytes()
        )))
    }
}
