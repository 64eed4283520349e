//! The functions that Python calls. They read the arguments, compute without the GIL, write the results into memory
//! from Python, and turn errors into exceptions.

use std::path::PathBuf;

use numpy::{
    Element as NumpyElement, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::border::{is_plain, Array, Device};
use crate::cpu::{Element, Rows};
use crate::cuda::{cubin, ptx, remarks, Hopper, Operand, Variant, FAILED_AT, RERUN_AT, SOURCES};
use crate::dispatch::{self, Backend, Means, Outcome, Outputs, Settings};
use crate::error::{view_name, Error, Input, Result, RowFault};
use crate::formula::{self, Sums};
use crate::operands::{Described, Operands, Scalar};
use crate::problem::{validate_weighting, Formulation, Reduction, Threshold};
use crate::statistics::{self, Request};

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

/// The memory for loss, statistics, the gradients of anchors, keys and positives, and the derivative by the
/// temperature.
type Results = (Array, Array, Option<Array>, Option<Array>, Option<Array>, Option<Array>);

/// Writes loss, statistics and gradients. See `_core.pyi`.
#[pyfunction]
pub fn evaluate(
    py: Python<'_>,
    call: Call<Array>,
    outputs: Results,
    scratch: Py<PyAny>,
    backend: &str,
    allow_tf32: bool,
    threads: usize,
) -> PyResult<Option<String>> {
    let means = Means { backend: choose("backend", backend, BACKENDS)?, allow_tf32, threads };
    let (loss, statistics, anchors, keys, positives, temperature) = outputs;
    let mut outputs = Outputs { loss, statistics, gradients: [anchors, keys, positives], temperature };
    let allocate = allocator(&scratch);
    let work = || dispatch::evaluate(&call.operands, &call.settings, means, &mut outputs, allocate);
    py.allow_threads(work).map(outcome).map_err(|error| call.exception(error))
}

/// Writes the quantile of each anchor's row of similarities. See `_core.pyi`.
#[pyfunction]
pub fn row_quantiles(
    py: Python<'_>,
    call: Call<Array>,
    mut output: Array,
    scratch: Py<PyAny>,
    backend: &str,
    allow_tf32: bool,
    threads: usize,
) -> PyResult<Option<String>> {
    let means = Means { backend: choose("backend", backend, BACKENDS)?, allow_tf32, threads };
    let allocate = allocator(&scratch);
    let work = || dispatch::row_quantiles(&call.operands, &call.settings, means, &mut output, allocate);
    py.allow_threads(work).map(outcome).map_err(|error| call.exception(error))
}

/// Checks that settings are in their ranges. See `_core.pyi`.
#[pyfunction]
pub fn check_settings(temperature: f64, formulation: &str, beta: f64, tau_plus: f64, reduction: &str) -> PyResult<()> {
    choose("reduction", reduction, REDUCTIONS)?;
    validate_weighting(temperature, self::formulation(formulation, beta, tau_plus)?).map_err(exception)
}

/// The loss of one anchor, whether it is defined, the number of positives at the floor, the coefficient of the global
/// negatives, the two coefficients of the hierarchical negatives, and the derivatives by the positives.
type AnchorFormula = (f64, bool, usize, f64, f64, f64, Vec<f64>);

/// Evaluates the formula of one anchor, for tests. See `_core.pyi`.
#[pyfunction]
pub fn anchor_formula(
    formulation: &str,
    beta: f64,
    tau_plus: f64,
    temperature: f64,
    sums: [f64; 7],
    positives: Vec<f64>,
) -> PyResult<AnchorFormula> {
    let formulation = self::formulation(formulation, beta, tau_plus)?;
    let [global_shift, hierarchical_shift, global, weighted, weights, hierarchical, negatives] = sums;
    let sums =
        Sums { global_shift, hierarchical_shift, global, weighted, weights, hierarchical, similarity: 0.0, negatives };
    let mut slopes = vec![0.0; positives.len()];
    let found = formula::anchor(formulation, temperature, &sums, &positives, &mut slopes);
    Ok((found.loss, found.defined, found.at_floor, found.global, found.weighted, found.weights, slopes))
}

fn formulation(name: &str, beta: f64, tau_plus: f64) -> PyResult<Formulation> {
    let formulations = [
        ("importance", Formulation::Importance { beta, tau_plus }),
        ("official", Formulation::Official),
        ("decoupled", Formulation::Decoupled),
        ("elimination", Formulation::Elimination),
    ];
    // SupCon's: the losses that take a formulation's name offer the others.
    if name == "supervised" {
        return Ok(Formulation::Supervised);
    }
    choose("formulation", name, &formulations)
}

/// The number of all rows, the dimension, and whether autograd records a view. None for unusual views. See `_core.pyi`.
#[pyfunction]
pub fn usual_views(views: Vec<Bound<'_, PyAny>>) -> PyResult<Option<(usize, usize, bool)>> {
    let mut first: Option<Array> = None;
    let mut recorded = false;
    for view in &views {
        let array = match is_plain(view)? {
            true => view.extract::<Array>().ok(),
            false => None,
        };
        let has_kernels = |device| matches!(device, Device::Cpu | Device::Cuda(_));
        let usual = |array: &Array| array.shape.len() == 2 && array.scalar().is_some() && has_kernels(array.device);
        let Some(array) = array.filter(usual) else { return Ok(None) };
        let alike =
            |first: &Array| (&array.shape, &array.dtype, array.device) == (&first.shape, &first.dtype, first.device);
        let differs = first.as_ref().is_some_and(|first| !alike(first));
        if differs || view.call_method0(intern!(view.py(), "is_neg"))?.is_truthy()? {
            return Ok(None);
        }
        recorded = recorded || view.getattr(intern!(view.py(), "requires_grad"))?.is_truthy()?;
        first.get_or_insert(array);
    }
    let rows = first.filter(|_| views.len() > 1).map(|array| (array.shape[0] as usize, array.shape[1] as usize));
    Ok(rows.map(|(rows, dims)| (rows * views.len(), dims, recorded)))
}

/// Checks the operands and settings of a call. See `_core.pyi`.
#[pyfunction]
pub fn check(call: Call<Attributes>) -> PyResult<()> {
    dispatch::checked(&call.operands, &call.settings).map(drop).map_err(exception)
}

/// A function that takes the GIL and asks Python for memory.
fn allocator(scratch: &Py<PyAny>) -> impl FnMut(usize) -> Result<Array> + Send + use<'_> {
    move |bytes| {
        let made = Python::with_gil(|py| scratch.call1(py, (bytes,))?.extract::<Array>(py));
        made.map_err(|error| Error::runtime(error.to_string()))
    }
}

/// None if a kernel has computed, else the reason why there is no kernel.
fn outcome(outcome: Outcome) -> Option<String> {
    match outcome {
        Outcome::Computed => None,
        Outcome::NoKernel(reason) => Some(reason),
    }
}

/// The operands and settings of a call, in the order of the tuple `hex_ssl.operands.Operands`. Its last fields, which
/// tell what gradients are wanted, are not read: the outputs tell the same.
pub struct Call<T> {
    operands: Operands<T>,
    settings: Settings,
}

impl<'py, T: FromPyObject<'py>> FromPyObject<'py> for Call<T> {
    fn extract_bound(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let tuple = object.downcast::<PyTuple>()?;
        let mut items = tuple.iter_borrowed();
        let mut next = || items.next().ok_or_else(|| PyTypeError::new_err("expected more items in a call"));
        let operands = Operands {
            views: next()?.try_iter()?.map(|view| view?.extract()).collect::<PyResult<_>>()?,
            keys: next()?.extract()?,
            positives: next()?.extract()?,
            positive_index: next()?.extract()?,
            ignored_index: next()?.extract()?,
            anchor_labels: next()?.extract()?,
            key_labels: next()?.extract()?,
            threshold: next()?.extract()?,
            weights: next()?.extract()?,
            temperature: next()?.extract()?,
        };
        let offset: i64 = next()?.extract()?;
        let offset = usize::try_from(offset)
            .map_err(|_| PyValueError::new_err(format!("expected `offset` to be at least 0, but got {offset}")))?;
        let (rule, value) = (next()?, next()?.extract::<f64>()?);
        let rules = [
            ("adaptive", Threshold::Adaptive { quantile: value }),
            ("cosine", Threshold::Cosine { value }),
            ("minmax", Threshold::MinMax { value }),
            ("labels", Threshold::Labels),
            ("given", Threshold::Given),
            ("margin", Threshold::Margin { margin: value, relative: false }),
            ("relative_margin", Threshold::Margin { margin: value, relative: true }),
        ];
        let threshold = choose("threshold_rule", rule.extract()?, &rules)?;
        let formulation = formulation(next()?.extract()?, next()?.extract()?, next()?.extract()?)?;
        let temperature = next()?.extract()?;
        let reduction = choose("reduction", next()?.extract()?, REDUCTIONS)?;
        let towers = next()?.extract()?;
        Ok(Self { operands, settings: Settings { offset, threshold, formulation, temperature, reduction, towers } })
    }
}

impl Call<Array> {
    /// Converts an error to an exception. It names the caller's argument: for a row of the anchors, the view that
    /// contains the row, and for a row apart, the positives or the own negatives.
    fn exception(&self, error: Error) -> PyErr {
        let views = &self.operands.views;
        match error {
            Error::Row { input: Input::Anchors, row, fault } if views.len() > 1 || self.operands.keys.is_none() => {
                let rows = views[0].shape.first().map_or(1, |&rows| rows.max(1) as usize);
                row_exception(&view_name(row / rows), row % rows, &fault)
            }
            Error::Row { input: Input::Positives, row, fault } => self.row_apart_exception(row, &fault),
            other => exception(other),
        }
    }

    fn row_apart_exception(&self, row: usize, fault: &RowFault) -> PyErr {
        let rows = |array: &Array| array.shape.first().map_or(0, |&rows| rows as usize);
        let anchors = self.operands.views.iter().map(rows).sum::<usize>().max(1);
        let each = self.operands.positives.as_ref().map_or(1, rows).max(anchors) / anchors;
        let positives = usize::from(self.operands.positive_index.is_none());
        let (anchor, place) = (row / each, row % each);
        match place.checked_sub(positives) {
            None => row_exception("positives", anchor, fault),
            Some(place) => row_exception(&format!("own_negatives[{anchor}]"), place, fault),
        }
    }
}

/// The properties of a tensor on any device, read from its Python attributes. Of its elements, only int64 numbers on
/// the CPU are read, through the border.
pub struct Attributes {
    shape: Vec<i64>,
    dtype: String,
    device: String,
    integers: Option<Vec<i64>>,
}

impl<'py> FromPyObject<'py> for Attributes {
    fn extract_bound(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let text = |name| object.getattr(name)?.str()?.extract::<String>();
        let dtype = text(intern!(py, "dtype"))?.trim_start_matches("torch.").to_owned();
        let device = text(intern!(py, "device"))?;
        let integers = if dtype == "int64" && device == "cpu" {
            object.extract::<Array>()?.integers().map_err(exception)?
        } else {
            None
        };
        Ok(Self { shape: object.getattr(intern!(py, "shape"))?.extract()?, dtype, device, integers })
    }
}

impl Described for Attributes {
    fn shape(&self) -> &[i64] {
        &self.shape
    }

    fn scalar(&self) -> Option<Scalar> {
        DTYPES.iter().find(|(name, _)| *name == self.dtype).map(|&(_, scalar)| scalar)
    }

    fn dtype_name(&self) -> String {
        self.dtype.clone()
    }

    fn device_name(&self) -> String {
        self.device.clone()
    }

    fn is_beside(&self, other: &Self) -> bool {
        self.device == other.device
    }

    fn integers(&self) -> Result<Option<Vec<i64>>> {
        Ok(self.integers.clone())
    }
}

/// Threshold, quantiles, number of negatives, means, counts above the threshold, and histograms. See `_core.pyi`.
type SimilarityArrays<'py> = (
    f64,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<i64>>,
);

/// Computes statistics of the similarities of all pairs of embeddings. See `_core.pyi`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // Python passes each argument separately.
pub fn similarity_statistics<'py>(
    py: Python<'py>,
    embeddings: &Bound<'py, PyAny>,
    classes: Option<PyReadonlyArray1<'py, i64>>,
    superclasses: Option<PyReadonlyArray1<'py, i64>>,
    quantile: f64,
    threshold: Option<f64>,
    bins: i64,
    threads: usize,
) -> PyResult<SimilarityArrays<'py>> {
    let labels = |array: &Option<PyReadonlyArray1<'py, i64>>| array.as_ref().map(|array| array.as_array().to_vec());
    let (classes, superclasses) = (labels(&classes), labels(&superclasses));
    let request =
        Request { classes: classes.as_deref(), superclasses: superclasses.as_deref(), quantile, threshold, bins };
    if let Ok(array) = embeddings.extract::<PyReadonlyArray2<'_, f32>>() {
        return statistics_of(py, &array, &request, threads);
    }
    if let Ok(array) = embeddings.extract::<PyReadonlyArray2<'_, f64>>() {
        return statistics_of(py, &array, &request, threads);
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
    threads: usize,
) -> PyResult<SimilarityArrays<'py>> {
    let dims = array.shape()[1];
    let view = array.as_array();
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

/// The backend that the environment asks for. See `_core.pyi`.
#[pyfunction]
pub fn requested_backend() -> PyResult<&'static str> {
    let Some(asked) = std::env::var_os("HEX_SSL_BACKEND") else { return Ok("auto") };
    if let Some(&(name, _)) = BACKENDS.iter().find(|(name, _)| asked == *name) {
        return Ok(name);
    }
    let names = names(BACKENDS.iter().filter(|(_, backend)| *backend != Backend::Emulated));
    Err(PyValueError::new_err(format!("expected HEX_SSL_BACKEND to be one of {names}, but got {asked:?}")))
}

/// The backend that runs on a device, and the reason. See `_core.pyi`.
#[pyfunction]
pub fn backend_for(py: Python<'_>, device: &str, dtype: &str, backend: &str) -> PyResult<(&'static str, String)> {
    let scalar = choose("dtype", dtype.trim_start_matches("torch."), DTYPES)?;
    let backend = choose("backend", backend, BACKENDS)?;
    Ok(py.allow_threads(|| backend.choose(device, scalar)).map_err(exception)?.describe(backend))
}

/// Compiles the CUDA kernels. This needs no GPU. See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (capability, dims, dtype, allow_tf32, wgmma=false))]
pub fn cuda_cubin<'py>(
    py: Python<'py>,
    capability: (u32, u32),
    dims: usize,
    dtype: &str,
    allow_tf32: bool,
    wgmma: bool,
) -> PyResult<(Bound<'py, PyBytes>, bool)> {
    let variant = cuda_variant(dims, dtype, allow_tf32, wgmma)?;
    let binary = py.allow_threads(|| cubin(variant, capability)).map_err(exception)?;
    Ok((PyBytes::new(py, &binary.cubin), binary.from_disk))
}

/// Compiles sources of kernels to PTX. See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (capability, dims, dtype, allow_tf32, sources, folder, wgmma=false))]
#[allow(clippy::too_many_arguments)]
pub fn cuda_ptx(
    py: Python<'_>,
    capability: (u32, u32),
    dims: usize,
    dtype: &str,
    allow_tf32: bool,
    sources: &str,
    folder: PathBuf,
    wgmma: bool,
) -> PyResult<String> {
    let variant = cuda_variant(dims, dtype, allow_tf32, wgmma)?;
    py.allow_threads(|| ptx(variant, capability, sources, &folder)).map_err(exception)
}

/// What the assembler says of sources of kernels. See `_core.pyi`.
#[pyfunction]
pub fn cuda_remarks(
    py: Python<'_>,
    capability: (u32, u32),
    dims: usize,
    dtype: &str,
    allow_tf32: bool,
    sources: &str,
    wgmma: bool,
) -> PyResult<String> {
    let variant = cuda_variant(dims, dtype, allow_tf32, wgmma)?;
    py.allow_threads(|| remarks(variant, capability, sources)).map_err(exception)
}

/// The sources of the CUDA kernels. See `_core.pyi`.
#[pyfunction]
pub fn cuda_sources() -> &'static str {
    SOURCES
}

/// Where the scratch memory counts rows that were searched anew. See `_core.pyi`.
#[pyfunction]
pub fn cuda_failed_rows_at() -> usize {
    FAILED_AT
}

/// Where the scratch memory tells whether the sums were computed again. See `_core.pyi`.
#[pyfunction]
pub fn cuda_rerun_at() -> usize {
    RERUN_AT
}

fn cuda_variant(dims: usize, dtype: &str, allow_tf32: bool, wgmma: bool) -> PyResult<Variant> {
    let scalar = choose("dtype", dtype.trim_start_matches("torch."), DTYPES)?;
    let operand = Operand::of(scalar, allow_tf32)
        .ok_or_else(|| PyValueError::new_err("expected `dtype` to have CUDA kernels, but got float64"))?;
    let variant = Variant::new(dims, operand);
    if !wgmma {
        return Ok(variant);
    }
    let hopper = Hopper::of(variant).ok_or_else(|| {
        let text = "expected 64, 128, 192 or 256 padded dimensions of 16 bits for `wgmma`";
        PyValueError::new_err(format!("{text}, but got {} of {dtype}", variant.dims))
    })?;
    Ok(Variant { hopper: Some(hopper), ..variant })
}

fn exception(error: Error) -> PyErr {
    match error {
        Error::Value(_) | Error::Row { .. } => PyValueError::new_err(error.to_string()),
        Error::Runtime(_) | Error::Memory(_) => PyRuntimeError::new_err(error.to_string()),
    }
}

fn row_exception(name: &str, row: usize, fault: &RowFault) -> PyErr {
    PyValueError::new_err(format!("expected rows of finite numbers, not all zero, but row {row} of `{name}` {fault}"))
}

fn choose<T: Copy>(argument: &str, value: &str, choices: &[(&str, T)]) -> PyResult<T> {
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value) {
        return Ok(*choice);
    }
    Err(PyValueError::new_err(format!(
        "expected `{argument}` to be one of {}, but got {value:?}",
        names(choices.iter())
    )))
}

/// The names of choices, in quotes.
fn names<'a, T: 'a>(choices: impl Iterator<Item = &'a (&'a str, T)>) -> String {
    choices.map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
