//! The border to Python: arguments in, work without the GIL (by the border `dynamic`, the kernels alone), tensors or
//! exceptions out.

use std::ffi::CString;
use std::path::PathBuf;

use numpy::{
    Element as NumpyElement, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::cpu::{Element, Rows};
use crate::cuda::{cubin, ptx, Operand, Scalar, Variant, SOURCES};
use crate::error::{view_name, Error, Input, RowFault};
use crate::problem::{Formulation, Reduction, Threshold};
use crate::statistics::{self, Request};
use crate::tensor::{self, Backend, Settings, Tensors};
use crate::torch::{on_tensors, PyTensor};

const BACKENDS: &[(&str, Backend)] = &[
    ("auto", Backend::Auto),
    ("cpu", Backend::Cpu),
    ("cuda", Backend::Cuda),
    ("composite", Backend::Composite),
    ("emulated", Backend::Emulated),
];
const DTYPES: &[(&str, Scalar)] =
    &[("float64", Scalar::F64), ("float32", Scalar::F32), ("bfloat16", Scalar::Bf16), ("float16", Scalar::F16)];
const REDUCTIONS: &[(&str, Reduction)] =
    &[("mean", Reduction::Mean), ("sum", Reduction::Sum), ("none", Reduction::None)];

/// Loss, statistics and gradients of anchors, keys and positives. See `_core.pyi`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // Flat, as a torch.library op is: it takes no structures.
pub fn evaluate(
    py: Python<'_>,
    views: Vec<Strided>,
    keys: Option<Strided>,
    positives: Option<Strided>,
    positive_index: Option<Strided>,
    ignored_index: Option<Strided>,
    anchor_labels: Option<Strided>,
    key_labels: Option<Strided>,
    epsilon: Option<Strided>,
    weights: Option<Strided>,
    offset: i64,
    threshold: &str,
    threshold_value: f64,
    formulation: &str,
    beta: f64,
    tau_plus: f64,
    temperature: f64,
    reduction: &str,
    want_gradient: bool,
    backend: &str,
    allow_tf32: bool,
) -> PyResult<(PyTensor, PyTensor, PyTensor, PyTensor, PyTensor)> {
    let formulations = [
        ("importance", Formulation::Importance { beta, tau_plus }),
        ("official", Formulation::Official),
        ("decoupled", Formulation::Decoupled),
    ];
    let settings = Settings {
        offset: row_offset(offset)?,
        threshold: threshold_rule(threshold, threshold_value)?,
        formulation: choose("formulation", formulation, &formulations)?,
        temperature,
        reduction: choose("reduction", reduction, REDUCTIONS)?,
        want_gradient,
        backend: choose("backend", backend, BACKENDS)?,
        allow_tf32,
    };
    let tensor = |strided: Option<Strided>| strided.map(|Strided(PyTensor(tensor))| tensor);
    let layout = ViewLayout::of(&views);
    let tensors = Tensors {
        views: views.into_iter().map(|Strided(PyTensor(tensor))| tensor).collect(),
        keys: tensor(keys),
        positives: tensor(positives),
        positive_index: tensor(positive_index),
        ignored_index: tensor(ignored_index),
        anchor_labels: tensor(anchor_labels),
        key_labels: tensor(key_labels),
        threshold: tensor(epsilon),
        weights: tensor(weights),
    };
    let outputs = on_tensors(py, || tensor::evaluate(tensors, &settings)).map_err(|error| layout.exception(error))?;
    warn(py, outputs.warning)?;
    let [anchors, keys, positives] = outputs.gradients.map(PyTensor);
    Ok((PyTensor(outputs.loss), PyTensor(outputs.statistics), anchors, keys, positives))
}

/// The quantile of each anchor's row of similarities. See `_core.pyi`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // As `evaluate`.
pub fn row_quantiles(
    py: Python<'_>,
    views: Vec<Strided>,
    keys: Option<Strided>,
    positives: Option<Strided>,
    offset: i64,
    quantile: f64,
    backend: &str,
    allow_tf32: bool,
) -> PyResult<PyTensor> {
    let settings = Settings {
        offset: row_offset(offset)?,
        threshold: Threshold::Adaptive { quantile },
        formulation: Formulation::Decoupled,
        temperature: 1.0,
        reduction: Reduction::None,
        want_gradient: false,
        backend: choose("backend", backend, BACKENDS)?,
        allow_tf32,
    };
    let layout = ViewLayout::of(&views);
    let tensors = Tensors {
        keys: keys.map(|Strided(PyTensor(tensor))| tensor),
        positives: positives.map(|Strided(PyTensor(tensor))| tensor),
        ..Tensors::of_views(views.into_iter().map(|Strided(PyTensor(tensor))| tensor).collect())
    };
    let found = on_tensors(py, || tensor::row_quantiles(tensors, quantile, &settings));
    let (quantiles, warning) = found.map_err(|error| layout.exception(error))?;
    warn(py, warning)?;
    Ok(PyTensor(quantiles))
}

/// Threshold, quantiles, negatives, means, counts above the threshold and histograms. See `_core.pyi`.
type SimilarityArrays<'py> = (
    f64,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<i64>>,
);

/// Statistics of the similarities of all pairs of a set of embeddings. See `_core.pyi`.
#[pyfunction]
pub fn similarity_statistics<'py>(
    py: Python<'py>,
    embeddings: &Bound<'py, PyAny>,
    classes: Option<PyReadonlyArray1<'py, i64>>,
    superclasses: Option<PyReadonlyArray1<'py, i64>>,
    quantile: f64,
    threshold: Option<f64>,
    bins: i64,
) -> PyResult<SimilarityArrays<'py>> {
    let labels = |array: &Option<PyReadonlyArray1<'py, i64>>| array.as_ref().map(|array| array.as_array().to_vec());
    let (classes, superclasses) = (labels(&classes), labels(&superclasses));
    let request =
        Request { classes: classes.as_deref(), superclasses: superclasses.as_deref(), quantile, threshold, bins };
    if let Ok(array) = embeddings.extract::<PyReadonlyArray2<'_, f32>>() {
        return statistics_of(py, &array, &request);
    }
    if let Ok(array) = embeddings.extract::<PyReadonlyArray2<'_, f64>>() {
        return statistics_of(py, &array, &request);
    }
    let expected = "expected `embeddings` to be a float32 or float64 array of shape [N, D], but got";
    match embeddings.downcast::<PyUntypedArray>() {
        Ok(array) => Err(PyValueError::new_err(format!("{expected} {} of shape {:?}", array.dtype(), array.shape()))),
        Err(_) => Err(PyTypeError::new_err(format!("{expected} {}", embeddings.get_type().name()?))),
    }
}

fn statistics_of<'py, E: Element + NumpyElement>(
    py: Python<'py>,
    array: &PyReadonlyArray2<'py, E>,
    request: &Request<'_>,
) -> PyResult<SimilarityArrays<'py>> {
    let dims = array.shape()[1];
    let view = array.as_array();
    let threads = tensor::threads();
    let found = py.allow_threads(|| {
        let standard = view.as_standard_layout();
        let rows = Rows::from_slice(standard.as_slice().unwrap_or_default(), dims);
        statistics::similarity_statistics(rows, request, threads)
    });
    let found = found.map_err(|error| match error {
        Error::Row { row, fault, .. } => row_exception("embeddings", row, &fault),
        other => exception(other),
    })?;
    let table = |rows: Vec<Vec<i64>>| PyArray2::from_vec2(py, &rows).map_err(PyErr::from);
    Ok((
        found.threshold,
        PyArray1::from_vec(py, found.quantiles),
        table(found.negatives.iter().map(|row| row.map(|count| count as i64).to_vec()).collect())?,
        PyArray2::from_vec2(py, &found.means.iter().map(|row| row.to_vec()).collect::<Vec<_>>())?,
        table(found.above.iter().map(|row| row.map(i64::from).to_vec()).collect())?,
        table(found.histogram.iter().map(|bins| bins.iter().map(|&count| count as i64).collect()).collect())?,
    ))
}

/// Which backend would run, and why. See `_core.pyi`.
#[pyfunction]
pub fn backend_for(py: Python<'_>, device: &str, dtype: &str, backend: &str) -> PyResult<(&'static str, String)> {
    let scalar = choose("dtype", dtype.trim_start_matches("torch."), DTYPES)?;
    let backend = choose("backend", backend, BACKENDS)?;
    Ok(py.allow_threads(|| backend.choose(device, scalar)).map_err(exception)?.describe(backend))
}

/// Why calls fell back on libtorch's operations so far. See `_core.pyi`.
#[pyfunction]
pub fn fallbacks() -> Vec<String> {
    tensor::fallbacks()
}

/// The compiled CUDA kernels for a GPU that need not be there. See `_core.pyi`.
#[pyfunction]
pub fn cuda_cubin<'py>(
    py: Python<'py>,
    capability: (u32, u32),
    dims: usize,
    dtype: &str,
    allow_tf32: bool,
) -> PyResult<(Bound<'py, PyBytes>, bool)> {
    let variant = cuda_variant(dims, dtype, allow_tf32)?;
    let binary = py.allow_threads(|| cubin(variant, capability)).map_err(exception)?;
    Ok((PyBytes::new(py, &binary.cubin), binary.from_disk))
}

/// The PTX that the compiler makes of sources of kernels. See `_core.pyi`.
#[pyfunction]
pub fn cuda_ptx(
    py: Python<'_>,
    capability: (u32, u32),
    dims: usize,
    dtype: &str,
    allow_tf32: bool,
    sources: &str,
    folder: PathBuf,
) -> PyResult<String> {
    let variant = cuda_variant(dims, dtype, allow_tf32)?;
    py.allow_threads(|| ptx(variant, capability, sources, &folder)).map_err(exception)
}

/// The sources of the kernels for GPUs. See `_core.pyi`.
#[pyfunction]
pub fn cuda_sources() -> &'static str {
    SOURCES
}

fn cuda_variant(dims: usize, dtype: &str, allow_tf32: bool) -> PyResult<Variant> {
    let scalar = choose("dtype", dtype.trim_start_matches("torch."), DTYPES)?;
    Operand::of(scalar, allow_tf32)
        .map(|operand| Variant::new(dims, operand))
        .ok_or_else(|| PyValueError::new_err("expected `dtype` to have CUDA kernels, but got float64"))
}

/// The caller is told once of each reason why something slower than a kernel computes.
fn warn(py: Python<'_>, reason: Option<String>) -> PyResult<()> {
    let Some(reason) = reason else { return Ok(()) };
    let text = format!("hex_ssl computes with libtorch's operations, in chunks: {reason}");
    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &CString::new(text)?, 1)
}

/// A tensor whose elements stand in memory by strides: what every backend reads.
pub struct Strided(PyTensor);

impl<'py> FromPyObject<'py> for Strided {
    fn extract_bound(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let tensor = object.extract::<PyTensor>()?;
        let layout = object.getattr("layout")?.str()?;
        if layout == "torch.strided" {
            return Ok(Self(tensor));
        }
        Err(PyValueError::new_err(format!("expected a dense tensor, but got one of layout {layout}")))
    }
}

/// How the anchors' rows are spread over the views, to name one in an error.
struct ViewLayout {
    views: usize,
    rows: usize,
}

impl ViewLayout {
    fn of(views: &[Strided]) -> Self {
        let rows = views.first().and_then(|Strided(view)| view.size().first().copied());
        Self { views: views.len(), rows: rows.map_or(1, |rows| rows.max(1) as usize) }
    }

    fn exception(&self, error: Error) -> PyErr {
        match error {
            Error::Row { input: Input::Anchors, row, fault } if self.views > 1 => {
                row_exception(&view_name(row / self.rows), row % self.rows, &fault)
            }
            other => exception(other),
        }
    }
}

fn exception(error: Error) -> PyErr {
    match error {
        Error::Value(_) | Error::Row { .. } => PyValueError::new_err(error.to_string()),
        Error::Runtime(_) => PyRuntimeError::new_err(error.to_string()),
    }
}

fn row_exception(name: &str, row: usize, fault: &RowFault) -> PyErr {
    PyValueError::new_err(format!("expected rows of finite numbers, not all zero, but row {row} of `{name}` {fault}"))
}

fn choose<T: Copy>(argument: &str, value: &str, choices: &[(&str, T)]) -> PyResult<T> {
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value) {
        return Ok(*choice);
    }
    let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
    Err(PyValueError::new_err(format!("expected `{argument}` to be one of {}, but got {value:?}", names.join(", "))))
}

/// The rule with its value.
fn threshold_rule(name: &str, value: f64) -> PyResult<Threshold> {
    let rules = [
        ("adaptive", Threshold::Adaptive { quantile: value }),
        ("cosine", Threshold::Cosine { value }),
        ("minmax", Threshold::MinMax { value }),
        ("labels", Threshold::Labels),
        ("given", Threshold::Given),
    ];
    choose("threshold", name, &rules)
}

fn row_offset(offset: i64) -> PyResult<usize> {
    usize::try_from(offset)
        .map_err(|_| PyValueError::new_err(format!("expected `offset` to be at least 0, but got {offset}")))
}
