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

use pyo3::prelude::*;

#[cfg(not(feature = "tch"))]
pub use dlpack::DlpackBorder as Torch;
#[cfg(feature = "tch")]
pub use tch::TchBorder as Torch;

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
    /// The distance of neighbours along each dimension, in elements.
    pub strides: Vec<i64>,
    /// The type of the elements.
    pub dtype: Dtype,
    /// Where the memory is.
    pub device: Device,
    /// Keeps the memory alive.
    _owner: O,
}

// SAFETY: an address, which is followed only where a kernel's safety comment says why it may be.
unsafe impl<O: Send> Send for Array<O> {}

impl<O> Array<O> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().map(|&length| length.max(0) as usize).product()
    }

    /// Whether the elements lie one after the other, the last dimension fastest.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&length, &stride)| {
            let fits = length == 1 || stride == expected;
            expected *= length;
            fits
        }) || self.len() == 0
    }
}

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// float64
    F64,
    /// float32
    F32,
    /// bfloat16
    Bf16,
    /// float16
    F16,
    /// int64
    I64,
    /// uint8
    U8,
    /// Any other.
    Other,
}

impl Dtype {
    /// torch's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::Other => "another dtype",
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

impl<'py> FromPyObject<'py> for Array {
    fn extract_bound(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        Torch::array(object)
    }
}
