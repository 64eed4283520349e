//! The border that is linked against no torch: a tensor is the Python object, an operation a call of its method.
//!
//! All of it needs the GIL, which [`on_tensors`] holds and [`on_memory`] gives up for the kernels' time. torch's own
//! operations give it up by themselves.

use std::borrow::Borrow;
use std::ffi::c_void;
use std::ptr;

use pyo3::call::PyCallArgs;
use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::GILOnceCell;
use pyo3::types::{IntoPyDict, PyDict, PyList, PyTuple};

use crate::error::{Error, Result};

/// What the extension calls this border.
pub const BORDER: &str = "dynamic";

/// Linked against no torch.
pub const TORCH_VERSION: Option<&str> = None;

/// Runs work on tensors.
pub fn on_tensors<T>(_py: Python<'_>, work: impl FnOnce() -> T) -> T {
    work()
}

/// Runs long work on memory alone, within work on tensors: without the GIL.
pub fn on_memory<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    Python::with_gil(|py| py.allow_threads(work))
}

impl From<PyErr> for Error {
    fn from(error: PyErr) -> Self {
        Python::with_gil(|py| {
            let text = error.value(py).to_string();
            if error.is_instance_of::<PyException>(py) && !text.is_empty() {
                return Self::runtime(text);
            }
            // An interrupt has no words of its own: "KeyboardInterrupt: ".
            Self::runtime(error.to_string().trim_end_matches(": "))
        })
    }
}

/// A dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // tch's names of torch's dtypes
pub enum Kind {
    Uint8,
    Int8,
    Int16,
    Int,
    Int64,
    Half,
    Float,
    Double,
    ComplexFloat,
    ComplexDouble,
    Bool,
    BFloat16,
}

const KINDS: &[(Kind, &str)] = &[
    (Kind::Float, "float32"),
    (Kind::Double, "float64"),
    (Kind::BFloat16, "bfloat16"),
    (Kind::Half, "float16"),
    (Kind::Int64, "int64"),
    (Kind::Int8, "int8"),
    (Kind::Uint8, "uint8"),
    (Kind::Bool, "bool"),
    (Kind::Int, "int32"),
    (Kind::Int16, "int16"),
    (Kind::ComplexFloat, "complex64"),
    (Kind::ComplexDouble, "complex128"),
];

impl Kind {
    fn of(tensor: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let torch = Torch::get(tensor.py())?;
        let dtype = torch.dtype.bind(tensor.py()).call1((tensor,))?;
        let known = torch.dtypes.iter().position(|known| known.is(&dtype));
        Ok(known.map(|index| KINDS[index].0))
    }
}

impl<'py> IntoPyObject<'py> for Kind {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let index = KINDS.iter().position(|(kind, _)| *kind == self);
        let dtype = index.and_then(|index| Torch::get(py).ok()?.dtypes.get(index));
        dtype.map(|dtype| dtype.bind(py).clone()).ok_or_else(|| PyRuntimeError::new_err("torch lacks a dtype"))
    }
}

/// The type of a tensor's elements.
pub trait Element: Copy {
    /// Its dtype.
    const KIND: Kind;
}

impl Element for f64 {
    const KIND: Kind = Kind::Double;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
}

impl Element for i64 {
    const KIND: Kind = Kind::Int64;
}

/// A device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// "cpu"
    Cpu,
    /// "cuda:0" and on
    Cuda(usize),
    /// Any other, by torch's name, with its number where it has one.
    Other(&'static str, Option<usize>),
}

/// Other types of devices, each by torch's name. One more, or a privateuse1 by whatever name, is "another accelerator".
const OTHER_DEVICES: &[&str] = &[
    "fpga", "hip", "hpu", "ideep", "ipu", "lazy", "maia", "meta", "mkldnn", "mps", "mtia", "opencl", "opengl", "ort",
    "ve", "vulkan", "xla", "xpu",
];

impl Device {
    fn of(tensor: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = tensor.py();
        let device = Torch::get(py)?.device.bind(py).call1((tensor,))?;
        let (name, index) =
            (device.getattr(intern!(py, "type"))?, device.getattr(intern!(py, "index"))?.extract::<Option<usize>>()?);
        Ok(match name.extract::<&str>()? {
            "cpu" => Self::Cpu,
            "cuda" => Self::Cuda(index.unwrap_or(0)),
            name => {
                let known = OTHER_DEVICES.iter().find(|known| **known == name);
                Self::Other(known.unwrap_or(&"another accelerator"), index)
            }
        })
    }
}

/// A device as torch writes it.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".into(),
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Other(name, None) => name.into(),
        Device::Other(name, Some(index)) => format!("{name}:{index}"),
    }
}

/// What is looked up in torch once.
///
/// Methods and attributes of tensors are those of `base`, torch's own type in C, which Python code cannot change as it
/// can `torch.Tensor`, a subclass or a tensor: by them memory is read and written.
struct Torch {
    module: Py<PyModule>,
    tensor: Py<PyAny>,
    base: Py<PyAny>,
    /// From a tensor to its attribute of this name.
    shape: Py<PyAny>,
    dtype: Py<PyAny>,
    device: Py<PyAny>,
    requires_grad: Py<PyAny>,
    /// In the order of `KINDS`.
    dtypes: Vec<Py<PyAny>>,
}

impl Torch {
    fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
        Ok(Self::get(py)?.module.bind(py))
    }

    fn base(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        Ok(Self::get(py)?.base.bind(py))
    }

    fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static TORCH: GILOnceCell<Torch> = GILOnceCell::new();
        TORCH.get_or_try_init(py, || {
            let module = py.import("torch")?;
            let dtypes = KINDS.iter().map(|(_, name)| module.getattr(*name).map(Bound::unbind));
            let base = module.getattr("_C")?.getattr("TensorBase")?;
            let attribute = |name: &str| Ok::<_, PyErr>(base.getattr(name)?.getattr("__get__")?.unbind());
            Ok(Torch {
                shape: attribute("shape")?,
                dtype: attribute("dtype")?,
                device: attribute("device")?,
                requires_grad: attribute("requires_grad")?,
                base: base.unbind(),
                tensor: module.getattr("Tensor")?.unbind(),
                dtypes: dtypes.collect::<PyResult<_>>()?,
                module: module.unbind(),
            })
        })
    }
}

/// The number of threads that torch uses inside an operation; 0 where it does not say.
pub fn get_num_threads() -> i32 {
    Python::with_gil(|py| {
        let threads = Torch::module(py).and_then(|torch| torch.call_method0(intern!(py, "get_num_threads"))?.extract());
        threads.unwrap_or(0)
    })
}

/// Records no gradients for as long as it lives.
///
/// # Errors
/// [`Error::Runtime`] where torch refuses.
pub fn no_grad_guard() -> Result<NoGradGuard> {
    Python::with_gil(|py| {
        let before = Torch::module(py)?.call_method0(intern!(py, "is_grad_enabled"))?.extract()?;
        let guard = NoGradGuard { before };
        NoGradGuard::set(py, false)?;
        Ok(guard)
    })
}

/// What was set before.
pub struct NoGradGuard {
    before: bool,
}

impl NoGradGuard {
    /// By functions in C alone, past torch function modes too (`torch.set_default_device` is one): Python code would be
    /// where an interrupt that came during the kernel is raised, and its setting is left undone.
    fn set(py: Python<'_>, enabled: bool) -> PyResult<()> {
        let torch = Torch::module(py)?.getattr(intern!(py, "_C"))?;
        let past_modes = torch.call_method0(intern!(py, "DisableTorchFunction"))?;
        past_modes.call_method0(intern!(py, "__enter__"))?;
        let set = torch.call_method1(intern!(py, "_set_grad_enabled"), (enabled,));
        past_modes.call_method1(intern!(py, "__exit__"), (py.None(), py.None(), py.None()))?;
        set.map(drop)
    }
}

impl Drop for NoGradGuard {
    fn drop(&mut self) {
        Python::with_gil(|py| Self::set(py, self.before).unwrap_or_else(|error| error.write_unraisable(py, None)));
    }
}

/// A `torch.Tensor`, and what is often asked of it. A result is never resized afterwards, but by `f_mm_out`: what that
/// returns has the size.
pub struct Tensor {
    object: Py<PyAny>,
    size: Vec<i64>,
    kind: Option<Kind>,
    device: Device,
    requires_grad: bool,
}

/// A tensor on its way from or to Python.
pub struct PyTensor(pub Tensor);

impl<'py> FromPyObject<'py> for PyTensor {
    fn extract_bound(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if object.is_instance(Torch::get(object.py())?.tensor.bind(object.py()))? {
            return Tensor::of(object).map(Self);
        }
        Err(PyTypeError::new_err(format!("expected a torch.Tensor, got {}", object.get_type())))
    }
}

impl<'py> IntoPyObject<'py> for PyTensor {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.0.object.into_bound(py))
    }
}

impl<'py> IntoPyObject<'py> for &Tensor {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.object.bind(py).clone())
    }
}

impl std::ops::Deref for PyTensor {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.0
    }
}

/// Where a tensor's elements are.
///
/// # Errors
/// [`Error::Runtime`] where it has no memory.
pub fn address(tensor: &Tensor) -> Result<*mut c_void> {
    let address =
        Python::with_gil(|py| Torch::base(py)?.call_method1(intern!(py, "data_ptr"), (tensor,))?.extract::<usize>())?;
    if address == 0 && tensor.numel() > 0 {
        return Err(Error::runtime("expected a tensor with memory, but got one without"));
    }
    Ok(ptr::with_exposed_provenance_mut(address))
}

/// What Python takes for a number.
pub trait Number: for<'py> IntoPyObject<'py> {}

impl Number for i32 {}
impl Number for i64 {}
impl Number for f64 {}

/// Methods by tch's name, each a call of Python's method of that name: `tch's(argument: type) = "Python's"`. Behind
/// `&mut`, one that writes into the tensor's own memory.
macro_rules! methods {
    ($($(&$mut:ident)? $name:ident($($argument:ident: $type:ty),*) = $python:literal;)*) => {
        $(pub fn $name(&$($mut)? self, $($argument: $type),*) -> PyResult<Self> {
            Python::with_gil(|py| {
                Self::of(&Torch::base(py)?.call_method1(intern!(py, $python), (&*self, $($argument,)*))?)
            })
        })*
    };
}

/// The same with a dtype for the result.
macro_rules! methods_with_dtype {
    ($($name:ident($($argument:ident: $type:ty),*) = $python:literal;)*) => {
        $(pub fn $name(&self, $($argument: $type,)* kind: impl Into<Option<Kind>>) -> PyResult<Self> {
            Python::with_gil(|py| {
                let keywords = kind.into().map(|kind| [("dtype", kind)].into_py_dict(py)).transpose()?;
                let method = Torch::base(py)?.getattr(intern!(py, $python))?;
                Self::of(&method.call((self, $($argument,)*), keywords.as_ref())?)
            })
        })*
    };
}

/// The same, of a function of torch that takes the tensor first.
macro_rules! functions {
    ($($name:ident($($argument:ident: $type:ty),*) = $python:literal;)*) => {
        $(pub fn $name(&self, $($argument: $type),*) -> PyResult<Self> {
            Python::with_gil(|py| {
                Self::of(&Torch::module(py)?.call_method1(intern!(py, $python), (self, $($argument,)*))?)
            })
        })*
    };
}

#[allow(missing_docs)] // tch's names of torch's operations
impl Tensor {
    methods! {
        f_abs() = "abs";
        f_add(other: &Tensor) = "add";
        f_add_scalar(other: impl Number) = "add";
        f_amax(dims: [i64; 1], keep: bool) = "amax";
        f_amin(dims: [i64; 1], keep: bool) = "amin";
        f_argmin(dim: i64, keep: bool) = "argmin";
        f_clamp(low: f64, high: f64) = "clamp";
        f_clamp_max(high: f64) = "clamp_max";
        f_clamp_min(low: f64) = "clamp_min";
        f_contiguous() = "contiguous";
        f_div(other: &Tensor) = "div";
        f_div_scalar(other: impl Number) = "div";
        f_eq(other: impl Number) = "eq";
        f_eq_tensor(other: &Tensor) = "eq";
        f_exp() = "exp";
        f_expand_as(other: &Tensor) = "expand_as";
        f_expm1() = "expm1";
        f_ge(other: impl Number) = "ge";
        f_gt(other: impl Number) = "gt";
        f_gt_tensor(other: &Tensor) = "gt";
        f_isfinite() = "isfinite";
        f_log() = "log";
        f_log1p() = "log1p";
        f_logaddexp(other: &Tensor) = "logaddexp";
        f_logical_and(other: &Tensor) = "logical_and";
        f_logical_not() = "logical_not";
        f_logical_or(other: &Tensor) = "logical_or";
        f_logsumexp(dims: [i64; 1], keep: bool) = "logsumexp";
        f_lt(other: impl Number) = "lt";
        f_masked_fill(mask: &Tensor, value: impl Number) = "masked_fill";
        f_maximum(other: &Tensor) = "maximum";
        f_minimum(other: &Tensor) = "minimum";
        f_mul(other: &Tensor) = "mul";
        f_mul_scalar(other: impl Number) = "mul";
        f_narrow(dim: i64, start: i64, length: i64) = "narrow";
        f_ne(other: impl Number) = "ne";
        f_neg() = "neg";
        f_remainder(other: impl Number) = "remainder";
        f_resolve_neg() = "resolve_neg";
        f_sqrt() = "sqrt";
        f_square() = "square";
        f_squeeze_dim(dim: i64) = "squeeze";
        f_sub(other: &Tensor) = "sub";
        f_sub_scalar(other: impl Number) = "sub";
        f_to_kind(kind: Kind) = "to";
        f_transpose(dim: i64, other: i64) = "transpose";
        f_type_as(other: &Tensor) = "type_as";
        f_unsqueeze(dim: i64) = "unsqueeze";
        f_where_self(condition: &Tensor, other: &Tensor) = "where";

        &mut f_add_(other: &Tensor) = "add_";
        &mut f_addcmul_(left: &Tensor, right: &Tensor) = "addcmul_";
        &mut f_addmm_(left: &Tensor, right: &Tensor) = "addmm_";
        &mut f_div_scalar_(other: impl Number) = "div_";
        &mut f_exp_() = "exp_";
        &mut f_mul_(other: &Tensor) = "mul_";
        &mut f_scatter_add_(dim: i64, index: &Tensor, source: &Tensor) = "scatter_add_";
        &mut f_scatter_value_(dim: i64, index: &Tensor, value: impl Number) = "scatter_";
    }

    methods_with_dtype! {
        f_cumsum(dim: i64) = "cumsum";
        f_mean() = "mean";
        f_mean_dim(dims: &[i64], keep: bool) = "mean";
        f_sum() = "sum";
        f_sum_dim_intlist(dims: &[i64], keep: bool) = "sum";
    }

    functions! {
        f_empty_like() = "empty_like";
        f_full_like(value: f64) = "full_like";
        f_ones_like() = "ones_like";
        f_zeros_like() = "zeros_like";
    }

    pub fn f_gather(&self, dim: i64, index: &Tensor, sparse_grad: bool) -> PyResult<Self> {
        Python::with_gil(|py| {
            let keywords = [("sparse_grad", sparse_grad)].into_py_dict(py)?;
            Self::of(&Torch::base(py)?.call_method("gather", (self, dim, index), Some(&keywords))?)
        })
    }

    pub fn f_mm_out(&self, out: &Tensor, other: &Tensor) -> PyResult<Self> {
        Python::with_gil(|py| {
            let keywords = [("out", out)].into_py_dict(py)?;
            Self::of(&Torch::module(py)?.call_method("mm", (self, other), Some(&keywords))?)
        })
    }

    pub fn f_topk(&self, k: i64, dim: i64, largest: bool, sorted: bool) -> PyResult<(Self, Self)> {
        Python::with_gil(|py| {
            let found = Torch::base(py)?.call_method1("topk", (self, k, dim, largest, sorted))?;
            Ok((Self::of(&found.get_item(0)?)?, Self::of(&found.get_item(1)?)?))
        })
    }

    pub fn f_cat<T: Borrow<Tensor>>(tensors: &[T], dim: i64) -> PyResult<Self> {
        Self::join("cat", tensors, dim)
    }

    pub fn f_stack<T: Borrow<Tensor>>(tensors: &[T], dim: i64) -> PyResult<Self> {
        Self::join("stack", tensors, dim)
    }

    pub fn f_empty(size: impl AsRef<[i64]>, options: (Kind, Device)) -> PyResult<Self> {
        Self::made("empty", (size.as_ref(),), size.as_ref(), options)
    }

    pub fn f_scalar_tensor(value: f64, options: (Kind, Device)) -> PyResult<Self> {
        Self::made("full", ([0_i64; 0], value), &[], options)
    }

    pub fn f_from_slice<T: Element>(data: &[T]) -> Result<Self> {
        let made = Self::f_empty([data.len() as i64], (T::KIND, Device::Cpu))?;
        // SAFETY: contiguous and of as many `T`s, as `made` checks, with memory, and fresh: nobody else knows it yet.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), address(&made)?.cast(), data.len()) };
        Ok(made)
    }

    /// The elements of a contiguous CPU tensor as they lie in memory: not of one that is to be negated when read.
    pub fn f_copy_data<T: Element>(&self, data: &mut [T], numel: usize) -> Result<()> {
        if !self.is_contiguous()?
            || self.device != Device::Cpu
            || self.kind != Some(T::KIND)
            || numel > data.len().min(self.numel())
        {
            return Err(Error::runtime("expected a contiguous CPU tensor of the numbers to copy"));
        }
        // SAFETY: as many `T`s lie there, as just checked.
        unsafe { ptr::copy_nonoverlapping(address(self)?.cast_const().cast(), data.as_mut_ptr(), numel) };
        Ok(())
    }

    pub fn f_double_value(&self, index: &[i64]) -> PyResult<f64> {
        Python::with_gil(|py| self.item(py, index)?.extract())
    }

    pub fn f_int64_value(&self, index: &[i64]) -> PyResult<i64> {
        Python::with_gil(|py| self.item(py, index)?.extract())
    }

    pub fn f_kind(&self) -> PyResult<Kind> {
        self.kind.ok_or_else(|| PyRuntimeError::new_err("expected another dtype"))
    }

    pub fn size(&self) -> Vec<i64> {
        self.size.clone()
    }

    pub fn size2(&self) -> PyResult<(i64, i64)> {
        two(&self.size)
    }

    pub fn stride2(&self) -> PyResult<(i64, i64)> {
        let strides =
            |py: Python<'_>| Torch::base(py)?.call_method1(intern!(py, "stride"), (self,))?.extract::<Vec<i64>>();
        two(&Python::with_gil(strides)?)
    }

    fn is_contiguous(&self) -> PyResult<bool> {
        Python::with_gil(|py| Torch::base(py)?.call_method1(intern!(py, "is_contiguous"), (self,))?.extract())
    }

    pub fn numel(&self) -> usize {
        self.size.iter().product::<i64>() as usize
    }

    pub fn device(&self) -> Device {
        self.device
    }

    pub fn requires_grad(&self) -> bool {
        self.requires_grad
    }

    pub fn shallow_clone(&self) -> Self {
        let object = Python::with_gil(|py| self.object.clone_ref(py));
        Self { object, size: self.size.clone(), ..*self }
    }

    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let torch = Torch::get(py)?;
        Ok(Self {
            size: torch.shape.bind(py).call1((object,))?.extract()?,
            kind: Kind::of(object)?,
            device: Device::of(object)?,
            requires_grad: torch.requires_grad.bind(py).call1((object,))?.extract()?,
            object: object.clone().unbind(),
        })
    }

    fn join<T: Borrow<Tensor>>(function: &str, tensors: &[T], dim: i64) -> PyResult<Self> {
        Python::with_gil(|py| {
            let tensors = PyList::new(py, tensors.iter().map(Borrow::borrow))?;
            Self::of(&Torch::module(py)?.call_method1(function, (tensors, dim))?)
        })
    }

    /// A fresh contiguous tensor. Checked: unsafe code goes by its size, dtype and device, and a torch function mode may
    /// answer in torch's place.
    fn made<A: for<'py> PyCallArgs<'py>>(
        function: &str,
        arguments: A,
        size: &[i64],
        (kind, device): (Kind, Device),
    ) -> PyResult<Self> {
        Python::with_gil(|py| {
            let keywords = PyDict::new(py);
            keywords.set_item("dtype", kind)?;
            keywords.set_item("device", device_name(device))?;
            let made = Self::of(&Torch::module(py)?.call_method(function, arguments, Some(&keywords))?)?;
            let contiguous = made.is_contiguous()?;
            if contiguous && (&made.size[..], made.kind, made.device) == (size, Some(kind), device) {
                return Ok(made);
            }
            let named = |kind, size: &[i64], device, contiguous| {
                let dtype =
                    KINDS.iter().find(|(known, _)| Some(*known) == kind).map_or("another dtype", |(_, name)| name);
                format!("{dtype} {size:?} on {}{}", device_name(device), if contiguous { "" } else { ", with gaps" })
            };
            let expected = named(Some(kind), size, device, true);
            let got = named(made.kind, &made.size, made.device, contiguous);
            Err(PyRuntimeError::new_err(format!("expected torch.{function} to make {expected}, but got {got}")))
        })
    }

    fn item<'py>(&self, py: Python<'py>, index: &[i64]) -> PyResult<Bound<'py, PyAny>> {
        self.object.bind(py).get_item(PyTuple::new(py, index)?)?.call_method0("item")
    }
}

fn two(numbers: &[i64]) -> PyResult<(i64, i64)> {
    match numbers {
        &[first, second] => Ok((first, second)),
        _ => Err(PyRuntimeError::new_err(format!("expected two dimensions, but got {numbers:?}"))),
    }
}
