//! From tensors to a problem: checks what came, chooses the backend and hands the tensors over.

mod backend;
mod checks;
mod cuda;
mod kernel;

use std::sync::{Mutex, PoisonError};

pub use backend::Backend;
use backend::{Choice, Reason};

use crate::composite;
use crate::error::{Error, Result};
use crate::problem::{Formulation, Pairing, Problem, Reduction, Threshold, Wanted};
use crate::torch::{self, no_grad_guard, on_memory, Device, Kind, Tensor};

/// The tensors of a call, as they came. M = number of views * n.
pub struct Tensors {
    /// The anchors: [n, D] each.
    pub views: Vec<Tensor>,
    /// [N, D]
    pub keys: Option<Tensor>,
    /// [M, D]
    pub positives: Option<Tensor>,
    /// int64 [M, P]
    pub positive_index: Option<Tensor>,
    /// int64 [M]
    pub ignored_index: Option<Tensor>,
    /// int64 [M]
    pub anchor_labels: Option<Tensor>,
    /// int64 [N]
    pub key_labels: Option<Tensor>,
    /// 0-d: replaces the value of `Threshold::Cosine`.
    pub epsilon: Option<Tensor>,
    /// [M]
    pub weights: Option<Tensor>,
}

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
    checks::selectors(&tensors, &problem)?;
    // Emulated kernels read it as real ones do, by its address.
    let on_host = |epsilon: &mut Tensor| epsilon.device() == Device::Cpu && settings.backend != Backend::Emulated;
    if let Some(epsilon) = tensors.epsilon.take_if(on_host) {
        problem.threshold = Threshold::Cosine { value: epsilon.f_double_value(&[])? };
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

/// Notes why a call falls back. Returns it where it is new.
fn fall_back(reason: String) -> Option<String> {
    let mut noted = FALLBACKS.lock().unwrap_or_else(PoisonError::into_inner);
    if noted.contains(&reason) {
        return None;
    }
    noted.push(reason.clone());
    Some(reason)
}

/// Who computes, ready to.
enum Runner {
    Cpu,
    Cuda(cuda::Kernels),
    Composite,
}

/// The backend for the problem, and a warning as in [`Outputs`].
fn runner(problem: &Problem, tensors: &Tensors, settings: &Settings) -> Result<(Runner, Option<String>)> {
    let first = &tensors.views[0];
    let (device, scalar) = (torch::device_name(first.device()), cuda::scalar(first.f_kind()?)?);
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

/// The dtype of the arithmetic and of everything returned.
fn compute_kind(input: &Tensor) -> Result<Kind> {
    Ok(if input.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float })
}

fn problem(tensors: &Tensors, settings: &Settings) -> Result<Problem> {
    let (rows, dims) = checks::embeddings(tensors)?;
    let anchors = rows * tensors.views.len();
    Ok(Problem {
        anchors,
        keys: tensors.keys.as_ref().map_or(anchors, checks::length),
        dims,
        square: tensors.keys.is_none(),
        pairing: pairing(tensors, settings.offset)?,
        threshold: settings.threshold,
        formulation: settings.formulation,
        temperature: settings.temperature,
        reduction: settings.reduction,
    })
}

fn pairing(tensors: &Tensors, offset: usize) -> Result<Pairing> {
    match (&tensors.positives, &tensors.positive_index) {
        (Some(_), Some(_)) => Err(Error::value("expected `positives` or `positive_index`, but got both")),
        (Some(_), None) if tensors.keys.is_none() => {
            Err(Error::value("expected `keys`, the negatives, along with `positives`, but got none"))
        }
        (_, None) if tensors.ignored_index.is_some() => {
            Err(Error::value("expected `positive_index` along with `ignored_index`, but got none"))
        }
        (Some(_), None) => Ok(Pairing::Apart),
        (None, Some(index)) => match index.size()[..] {
            [_, positives] => Ok(Pairing::Indexed { positives: positives as usize }),
            ref shape => {
                Err(Error::value(format!("expected `positive_index` to have shape [M, P], but got {shape:?}")))
            }
        },
        (None, None) => Ok(Pairing::Views { views: tensors.views.len(), offset }),
    }
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
        epsilon: tensors.epsilon,
        weights: tensors.weights,
    })
}
