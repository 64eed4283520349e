//! The border to torch: how a tensor becomes memory, with its shape, strides, dtype and device.
//!
//! There are two borders, and a feature chooses one when the crate is built. `dlpack` asks torch for a DLPack struct; it
//! is linked against no torch and works with every release. `tch` reads the same from libtorch, through tch and pyo3-tch;
//! it is linked against one release. Nothing that Python code can change decides what is read or written: both read the
//! tensor's own C++ object. Nothing else in the crate names torch.

#[cfg(not(feature = "tch"))]
mod dlpack;
#[cfg(feature = "tch")]
mod tch;

use std::ffi::c_void;
use std::slice;

use pyo3::prelude::*;

#[cfg(not(feature = "tch"))]
pub use dlpack::DlpackBorder as Torch;
#[cfg(feature = "tch")]
pub use tch::TchBorder as Torch;

use crate::error::{Error, Result};
use crate::operands::{Described, Scalar};

/// What a border does.
pub trait Border {
    /// The border's name.
    const NAME: &'static str;
    /// The torch release that the extension is linked against; none where it is linked against none.
    const TORCH_VERSION: Option<&'static str>;
    /// What keeps the memory of a tensor alive.
    type Owner: Send;

    /// The memory of a Python tensor.
    ///
    /// # Errors
    /// The object is no tensor, or its elements do not lie in memory by strides.
    fn array(object: &Bound<'_, PyAny>) -> PyResult<Array<Self::Owner>>;
}

/// The elements of a tensor in memory.
#[derive(Debug)]
pub struct Array<O = <Torch as Border>::Owner> {
    /// The first element; null only where there are none.
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

// SAFETY: an address, which is followed only where a comment says why it may be.
unsafe impl<O: Send> Send for Array<O> {}
// SAFETY: as above; nothing in it changes, and nobody asks for the owner.
unsafe impl<O: Send> Sync for Array<O> {}

impl<O> Array<O> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().map(|&length| length.max(0) as usize).product()
    }

    /// Whether the elements are neighbours in memory, row after row.
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
    /// One of the four that the losses take.
    Float(Scalar),
    /// int64
    Int64,
    /// uint8
    Uint8,
    /// Any other, by name.
    Other(String),
}

impl Dtype {
    /// torch's name of it.
    pub fn name(&self) -> &str {
        match self {
            Self::Float(scalar) => scalar.name(),
            Self::Int64 => "int64",
            Self::Uint8 => "uint8",
            Self::Other(name) => name,
        }
    }
}

/// Where a tensor's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The CPU's memory.
    Cpu,
    /// The memory of the CUDA device of this number.
    Cuda(usize),
    /// Any other.
    Other,
}

impl Device {
    /// torch's name of it.
    pub fn name(self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::Cuda(index) => format!("cuda:{index}"),
            Self::Other => "another device".into(),
        }
    }
}

impl<O> Described for Array<O> {
    fn shape(&self) -> Vec<i64> {
        self.shape.clone()
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
        // SAFETY: on the CPU; nobody writes to an operand during the call but the caller's own threads.
        unsafe { self.elements::<i64>() }.map(|elements| Some(elements.to_vec()))
    }
}

/// A type of elements.
pub trait Element: Copy {
    /// Its dtype.
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
    /// The elements, for as long as the array lives.
    ///
    /// # Errors
    /// [`Error::Runtime`] where they are of another type or not contiguous.
    ///
    /// # Safety
    /// They must be on the CPU, and nobody may write to them meanwhile.
    pub unsafe fn elements<T: Element>(&self) -> Result<&[T]> {
        let length = self.expect_contiguous::<T>()?;
        if length == 0 {
            return Ok(&[]);
        }
        // SAFETY: by the caller, and as many elements of that type lie there one after the other, as torch says.
        Ok(unsafe { slice::from_raw_parts(self.pointer.cast_const().cast(), length) })
    }

    /// The elements, to be written.
    ///
    /// # Errors
    /// As [`elements`](Self::elements).
    ///
    /// # Safety
    /// They must be on the CPU, and nobody else may use them meanwhile.
    pub unsafe fn elements_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        let length = self.expect_contiguous::<T>()?;
        if length == 0 {
            return Ok(&mut []);
        }
        // SAFETY: as `elements`; nobody else uses them, by the caller.
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

impl<'py> FromPyObject<'py> for Array {
    fn extract_bound(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        Torch::array(object)
    }
}
