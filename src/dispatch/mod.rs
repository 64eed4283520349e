//! From arrays to a backend: checks the operands, chooses who computes, and lends the memory.

mod backend;
mod cpu;
mod cuda;

pub use backend::Backend;
use backend::Choice;

use crate::border::{Array, Device, Dtype};
use crate::error::{Error, Result};
use crate::operands::{Described, Operands, Scalar};
use crate::problem::{Formulation, Problem, Reduction, Threshold, Wanted};

/// What to compute from the operands.
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
    /// The views are two towers, compared with each other alone.
    pub towers: bool,
}

/// Who may compute, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// The backend.
    pub backend: Backend,
    /// Whether GPUs may multiply float32 rows rounded to tf32.
    pub allow_tf32: bool,
    /// Threads on the CPU.
    pub threads: usize,
}

/// Where the results go: contiguous arrays beside the operands, in the dtype of the arithmetic, that nobody else uses.
pub struct Outputs {
    /// 0-d, or [M] for `Reduction::None` without weights.
    pub loss: Array,
    /// [6]
    pub statistics: Array,
    /// Of anchors [M, D], keys [N, D] and positives [M, D], where wanted.
    pub gradients: [Option<Array>; 3],
    /// The derivative by the temperature, 0-d, where wanted, along with the anchors' gradient.
    pub temperature: Option<Array>,
}

/// What a fused kernel made of a call.
#[must_use]
pub enum Outcome {
    /// It has computed.
    Computed,
    /// There is none for the call: why, in words. Nothing was written.
    NoKernel(String),
}

/// The loss, its statistics and its gradients. `scratch` allocates so many bytes beside the operands.
///
/// # Errors
/// [`Error::Value`] and [`Error::Row`] for what came, [`Error::Runtime`] where a device fails.
pub fn evaluate(
    operands: &Operands<Array>,
    settings: &Settings,
    means: Means,
    outputs: Outputs,
    scratch: impl FnMut(usize) -> Result<Array>,
) -> Result<Outcome> {
    let problem = checked(operands, settings)?;
    outputs.check(&problem, operands)?;
    match runner(&problem, operands, means, Some(outputs.wanted()))? {
        Runner::Cpu => cpu::evaluate(&problem, operands, outputs, means.threads)?,
        Runner::Cuda(kernels) => kernels.evaluate(&problem, operands, &outputs, scratch)?,
        Runner::None(reason) => return Ok(Outcome::NoKernel(reason)),
    }
    Ok(Outcome::Computed)
}

/// Each anchor's quantile of its row of similarities, into `output` [M]. The threshold must be `Threshold::Adaptive`.
///
/// # Errors
/// As [`evaluate`].
pub fn row_quantiles(
    operands: &Operands<Array>,
    settings: &Settings,
    means: Means,
    output: Array,
    scratch: impl FnMut(usize) -> Result<Array>,
) -> Result<Outcome> {
    let problem = checked(operands, settings)?;
    expect_output("quantiles", &output, &[problem.anchors], operands)?;
    match runner(&problem, operands, means, None)? {
        Runner::Cpu => cpu::row_quantiles(&problem, operands, output, means.threads)?,
        Runner::Cuda(kernels) => kernels.row_quantiles(&problem, operands, &output, scratch)?,
        Runner::None(reason) => return Ok(Outcome::NoKernel(reason)),
    }
    Ok(Outcome::Computed)
}

/// The problem that the operands and the settings make, if all of them fit.
///
/// # Errors
/// [`Error::Value`] for what does not.
pub fn checked<T: Described>(operands: &Operands<T>, settings: &Settings) -> Result<Problem> {
    let Settings { offset, threshold, formulation, temperature, reduction, towers } = *settings;
    let problem = operands.problem(offset, threshold, formulation, temperature, reduction, towers)?;
    operands.check(&problem)?;
    problem.validate()?;
    Ok(problem)
}

impl Outputs {
    /// The results are written only where they fit.
    fn check(&self, problem: &Problem, operands: &Operands<Array>) -> Result<()> {
        let each = problem.reduction == Reduction::None && operands.weights.is_none();
        let loss: &[usize] = if each { &[problem.anchors] } else { &[] };
        expect_output("loss", &self.loss, loss, operands)?;
        expect_output("statistics", &self.statistics, &[6], operands)?;
        let names = ["anchors' gradient", "keys' gradient", "positives' gradient"];
        let rows = [problem.anchors, problem.keys, problem.anchors];
        for (index, gradient) in self.gradients.iter().enumerate() {
            if let Some(gradient) = gradient {
                expect_output(names[index], gradient, &[rows[index], problem.dims], operands)?;
            }
        }
        if let Some(derivative) = &self.temperature {
            expect_output("derivative by the temperature", derivative, &[], operands)?;
        }
        let Wanted { anchors, keys, positives } = self.wanted();
        let fits = (anchors || self.temperature.is_none() && !keys && !positives)
            && (operands.keys.is_some() || !keys)
            && (operands.positives.is_some() || !positives);
        match fits && !(each && anchors) {
            true => Ok(()),
            false => Err(Error::runtime("expected memory for gradients that there are, but got some for others")),
        }
    }

    fn wanted(&self) -> Wanted {
        let [anchors, keys, positives] = &self.gradients;
        Wanted { anchors: anchors.is_some(), keys: keys.is_some(), positives: positives.is_some() }
    }
}

fn expect_output(name: &str, output: &Array, shape: &[usize], operands: &Operands<Array>) -> Result<()> {
    let first = &operands.views[0];
    let same_shape = output.shape.iter().map(|&length| length as usize).eq(shape.iter().copied());
    let dtype = Dtype::Float(scalar(first)?.computed());
    if same_shape && output.dtype == dtype && output.device == first.device && output.is_contiguous() {
        return Ok(());
    }
    Err(Error::runtime(format!(
        "expected memory for the {name}, contiguous {} {shape:?} on {}, but got {} {:?} on {}",
        dtype.name(),
        first.device.name(),
        output.dtype.name(),
        output.shape,
        output.device.name()
    )))
}

/// The backend that computes, with its kernels loaded.
enum Runner {
    Cpu,
    Cuda(cuda::Kernels),
    None(String),
}

fn runner(problem: &Problem, operands: &Operands<Array>, means: Means, wanted: Option<Wanted>) -> Result<Runner> {
    let first = &operands.views[0];
    let (device, scalar) = (first.device.name(), scalar(first)?);
    let kernels = match means.backend.choose(&device, scalar)? {
        Choice::Cpu => return Ok(Runner::Cpu),
        Choice::Composite(reason) => return Ok(Runner::None(reason)),
        Choice::Cuda(device) => cuda::Kernels::on_gpu(device, problem, operands, means.allow_tf32, wanted),
        Choice::Emulated => cuda::Kernels::emulated(problem, operands, means.allow_tf32),
    };
    match kernels {
        Ok(kernels) => Ok(Runner::Cuda(kernels)),
        Err(error) if means.backend == Backend::Auto => Ok(Runner::None(error.to_string())),
        Err(error) => Err(error),
    }
}

/// The dtype of a matrix that was checked, or of the threshold.
fn scalar(array: &Array) -> Result<Scalar> {
    array.scalar().ok_or_else(|| {
        Error::runtime(format!("expected float64, float32, bfloat16 or float16, but got {}", array.dtype.name()))
    })
}

/// Nobody but the kernel of the CPU may follow an address on the CPU, and the other way round.
fn expect_device(array: &Array, device: Device) -> Result<()> {
    match array.device == device {
        true => Ok(()),
        false => Err(Error::runtime(format!(
            "expected memory on {}, but got some on {}",
            device.name(),
            array.device.name()
        ))),
    }
}
