//! From tensors to a problem: checks the tensors, chooses the backend and lends it their memory.

mod backend;
mod cuda;
mod described;
mod kernel;

use std::sync::{Mutex, PoisonError};

pub use backend::Backend;
use backend::{Choice, Reason};

use crate::composite;
use crate::error::{Error, Result};
use crate::operands::{Described, Operands, Scalar};
use crate::problem::{Formulation, Problem, Reduction, Threshold, Wanted};
use crate::torch::{self, no_grad_guard, on_memory, Device, Tensor};

/// The tensors of a call, as they came.
pub type Tensors = Operands<Tensor>;

/// What to compute from them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Row of the keys at which the views start.
    pub offset: usize,
    /// The split of the negatives.
    pub threshold: Threshold,
    /// The denominator.
    pub formulation: Formulation,
    /// The temperature.
    pub temperature: f64,
    /// The reduction.
    pub reduction: Reduction,
    /// Whether gradients are computed along with the loss.
    pub want_gradient: bool,
    /// Who computes.
    pub backend: Backend,
    /// Whether GPUs may multiply float32 rows rounded to tf32.
    pub allow_tf32: bool,
}

/// What a call returns. A gradient that was not computed is an empty tensor [0].
pub struct Outputs {
    /// 0-d or [M]
    pub loss: Tensor,
    /// [6]
    pub statistics: Tensor,
    /// Of anchors [M, D], keys [N, D] and positives [M, D].
    pub gradients: [Tensor; 3],
    /// Why no fused kernel computed it, in words, where the caller expects one and was not told before.
    pub warning: Option<String>,
}

/// The loss, its statistics and its gradients.
///
/// # Errors
/// [`Error::Value`] and [`Error::Row`] for what came, [`Error::Runtime`] for libtorch's failures.
pub fn evaluate(mut tensors: Tensors, settings: &Settings) -> Result<Outputs> {
    let _guard = no_grad_guard()?;
    let mut problem = problem(&tensors, settings)?;
    tensors.check(&problem)?;
    // Emulated kernels read it as real ones do, by its address.
    let on_host = |number: &mut Tensor| number.device() == Device::Cpu && settings.backend != Backend::Emulated;
    if let Some(number) = tensors.threshold.take_if(on_host) {
        problem.threshold = Threshold::Cosine { value: number.f_double_value(&[])? };
    }
    problem.validate()?;
    let wanted = wanted(&tensors, settings);
    let (runner, warning) = runner(&problem, &tensors, settings)?;
    let found = match runner {
        Runner::Cpu => kernel::evaluate(&problem, &tensors, wanted)?,
        Runner::Cuda(kernels) => kernels.evaluate(&problem, &tensors, wanted)?,
        Runner::Composite => composite::evaluate(&problem, &composite_inputs(tensors)?, wanted)?,
    };
    // Made from an output: a border has no name for every device.
    let none = found.statistics.f_narrow(0, 0, 0)?;
    let [anchors, keys, positives] = found.gradients;
    let or_none = |gradient: Option<Tensor>| gradient.map_or_else(|| none.f_empty_like(), Ok);
    let gradients = [or_none(anchors)?, or_none(keys)?, or_none(positives)?];
    Ok(Outputs { loss: found.loss, statistics: found.statistics, gradients, warning })
}

/// Each anchor's quantile of its row of similarities, [M], and a warning as in [`Outputs`].
/// Of `tensors`, views, keys and positives are read, of `settings` offset, backend and `allow_tf32`.
///
/// # Errors
/// As [`evaluate`].
pub fn row_quantiles(tensors: Tensors, quantile: f64, settings: &Settings) -> Result<(Tensor, Option<String>)> {
    let _guard = no_grad_guard()?;
    let settings = Settings { threshold: Threshold::Adaptive { quantile }, ..*settings };
    let problem = problem(&tensors, &settings)?;
    problem.validate()?;
    let (runner, warning) = runner(&problem, &tensors, &settings)?;
    let quantiles = match runner {
        Runner::Cpu => kernel::row_quantiles(&problem, &tensors, quantile)?,
        Runner::Cuda(kernels) => kernels.row_quantiles(&problem, &tensors)?,
        Runner::Composite => composite::row_quantiles(&problem, &composite_inputs(tensors)?, quantile)?,
    };
    Ok((quantiles, warning))
}

/// The reasons why calls fell back on libtorch's operations so far, each once.
pub fn fallbacks() -> Vec<String> {
    FALLBACKS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The number of threads that torch uses inside an operation.
pub fn threads() -> usize {
    usize::try_from(torch::get_num_threads()).unwrap_or(1).max(1)
}

static FALLBACKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Records why a call falls back. Returns the reason if it is new.
fn fall_back(reason: String) -> Option<String> {
    let mut noted = FALLBACKS.lock().unwrap_or_else(PoisonError::into_inner);
    if noted.contains(&reason) {
        return None;
    }
    noted.push(reason.clone());
    Some(reason)
}

/// The backend that computes, with its kernels loaded.
enum Runner {
    Cpu,
    Cuda(cuda::Kernels),
    Composite,
}

/// The backend for the problem, and a warning as in [`Outputs`].
fn runner(problem: &Problem, tensors: &Tensors, settings: &Settings) -> Result<(Runner, Option<String>)> {
    let first = &tensors.views[0];
    let (device, scalar) = (torch::device_name(first.device()), scalar(first)?);
    let choose = || settings.backend.choose(&device, scalar);
    // The first call on a GPU loads the compiler and retains the context: seconds.
    let choice = if first.device() == Device::Cpu { choose() } else { on_memory(choose) }?;
    let kernels = match choice {
        Choice::Cpu => return Ok((Runner::Cpu, None)),
        Choice::Composite(Reason::Lacking(reason)) => return Ok((Runner::Composite, fall_back(reason))),
        Choice::Composite(_) => return Ok((Runner::Composite, None)),
        Choice::Cuda(device) => cuda::Kernels::on_gpu(device, problem, tensors, settings.allow_tf32),
        Choice::Emulated => cuda::Kernels::emulated(problem, tensors, settings.allow_tf32),
    };
    match kernels {
        Ok(kernels) => Ok((Runner::Cuda(kernels), None)),
        Err(error) if settings.backend == Backend::Auto => Ok((Runner::Composite, fall_back(error.to_string()))),
        Err(error) => Err(error),
    }
}

/// Tensors with the same elements whose memory can be read as it stands. Those of vectors and numbers are contiguous.
fn plain(tensors: &Tensors) -> Result<Tensors> {
    // A tensor may say "negate when read" of its memory, as the imaginary part of a conjugate does.
    let matrix = |tensor: &Tensor| Ok(tensor.f_resolve_neg()?);
    let vector = |tensor: &Tensor| Ok(tensor.f_resolve_neg()?.f_contiguous()?);
    tensors.try_map(matrix, vector, vector, vector)
}

/// The dtype of a matrix that was checked, or of the threshold.
fn scalar(tensor: &Tensor) -> Result<Scalar> {
    tensor.scalar().ok_or_else(|| {
        let came = tensor.dtype_name();
        Error::runtime(format!("expected float64, float32, bfloat16 or float16, but got {came}"))
    })
}

fn problem(tensors: &Tensors, settings: &Settings) -> Result<Problem> {
    let Settings { offset, threshold, formulation, temperature, reduction, .. } = *settings;
    tensors.problem(offset, threshold, formulation, temperature, reduction)
}

/// Gradients of keys and positives where these require one; none for a loss that is not one number.
fn wanted(tensors: &Tensors, settings: &Settings) -> Wanted {
    let one_number = settings.reduction != Reduction::None || tensors.weights.is_some();
    let gradient = settings.want_gradient && one_number;
    let required = |input: &Option<Tensor>| gradient && input.as_ref().is_some_and(Tensor::requires_grad);
    Wanted { anchors: gradient, keys: required(&tensors.keys), positives: required(&tensors.positives) }
}

fn composite_inputs(tensors: Tensors) -> Result<composite::Inputs> {
    Ok(composite::Inputs {
        anchors: Tensor::f_cat(&tensors.views, 0)?,
        keys: tensors.keys,
        positives: tensors.positives,
        positive_index: tensors.positive_index,
        ignored_index: tensors.ignored_index,
        anchor_labels: tensors.anchor_labels,
        key_labels: tensors.key_labels,
        epsilon: tensors.threshold,
        weights: tensors.weights,
    })
}
