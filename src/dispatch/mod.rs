//! Checks the operands, chooses a backend, and passes the memory to it.

mod backend;
mod cpu;
mod cuda;

pub use backend::Backend;
use backend::Choice;

use crate::border::{Array, Device, Dtype};
use crate::error::{Error, Result};
use crate::operands::{Described, Operands, Scalar};
use crate::problem::{Formulation, Problem, Reduction, Threshold, Wanted};

/// The settings of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Row of the keys at which the views start.
    pub offset: usize,
    /// Which negatives are hierarchical.
    pub threshold: Threshold,
    /// How the denominator is built.
    pub formulation: Formulation,
    /// The temperature.
    pub temperature: f64,
    /// The reduction.
    pub reduction: Reduction,
    /// Whether the views are two towers that are compared only with each other.
    pub towers: bool,
}

/// The backend to use, and its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// The backend.
    pub backend: Backend,
    /// Whether the CUDA kernels may round float32 rows to tf32 for products.
    pub allow_tf32: bool,
    /// Number of CPU threads.
    pub threads: usize,
}

/// The memory for the results: contiguous arrays on the device of the operands, in the dtype of the arithmetic. Nothing
/// else may use this memory during the call.
pub struct Outputs {
    /// The loss, 0-d, or [M] for `Reduction::None` without weights.
    pub loss: Array,
    /// The statistics, [6].
    pub statistics: Array,
    /// The gradients for anchors [M, D], keys [N, D] and the rows apart [M * R, D], if wanted.
    pub gradients: [Option<Array>; 3],
    /// The derivative by the temperature, 0-d, if wanted. It needs the gradient for the anchors.
    pub temperature: Option<Array>,
}

/// The outcome of a call.
#[must_use]
pub enum Outcome {
    /// A fused kernel has written the results.
    Computed,
    /// There is no fused kernel for the call, with the reason. Nothing was written.
    NoKernel(String),
}

/// Writes the loss, its statistics and its gradients. `scratch` allocates the given number of bytes on the device of
/// the operands.
///
/// # Errors
/// [`Error::Value`] and [`Error::Row`] for a wrong argument, [`Error::Runtime`] if an output does not fit or a device
/// fails.
pub fn evaluate(
    operands: &Operands<Array>,
    settings: &Settings,
    means: Means,
    outputs: &mut Outputs,
    scratch: impl FnMut(usize) -> Result<Array>,
) -> Result<Outcome> {
    let problem = checked(operands, settings)?;
    outputs.check(&problem, operands)?;
    match runner(&problem, operands, means, Some(outputs.wanted()))? {
        Runner::Cpu => cpu::evaluate(&problem, operands, outputs, means.threads)?,
        Runner::Cuda(kernels) => kernels.evaluate(&problem, operands, outputs, scratch)?,
        Runner::None(reason) => return Ok(Outcome::NoKernel(reason)),
    }
    Ok(Outcome::Computed)
}

/// Writes the quantile of each anchor's row of similarities to `output` [M]. The threshold must be
/// `Threshold::Adaptive`.
///
/// # Errors
/// As [`evaluate`].
pub fn row_quantiles(
    operands: &Operands<Array>,
    settings: &Settings,
    means: Means,
    output: &mut Array,
    scratch: impl FnMut(usize) -> Result<Array>,
) -> Result<Outcome> {
    let problem = checked(operands, settings)?;
    expect_output("quantiles", output, &[problem.anchors], operands)?;
    match runner(&problem, operands, means, None)? {
        Runner::Cpu => cpu::row_quantiles(&problem, operands, output, means.threads)?,
        Runner::Cuda(kernels) => kernels.row_quantiles(&problem, operands, output, scratch)?,
        Runner::None(reason) => return Ok(Outcome::NoKernel(reason)),
    }
    Ok(Outcome::Computed)
}

/// Checks the operands and settings, and builds the problem.
///
/// # Errors
/// [`Error::Value`] for a wrong operand or setting.
pub fn checked<T: Described>(operands: &Operands<T>, settings: &Settings) -> Result<Problem> {
    let Settings { offset, threshold, formulation, temperature, reduction, towers } = *settings;
    let problem = operands.problem(offset, threshold, formulation, temperature, reduction, towers)?;
    operands.check(&problem)?;
    problem.validate()?;
    Ok(problem)
}

impl Outputs {
    /// Checks the shapes, dtypes and devices of all outputs, and that each output belongs to the problem.
    fn check(&self, problem: &Problem, operands: &Operands<Array>) -> Result<()> {
        let each = problem.reduction == Reduction::None && operands.weights.is_none();
        let loss: &[usize] = if each { &[problem.anchors] } else { &[] };
        expect_output("loss", &self.loss, loss, operands)?;
        expect_output("statistics", &self.statistics, &[6], operands)?;
        let names = ["anchors' gradient", "keys' gradient", "positives' gradient"];
        let rows = [problem.anchors, problem.keys, problem.anchors * problem.rows_apart()];
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

/// The chosen backend, with its kernels loaded.
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

/// The dtype of a floating-point array.
fn scalar(array: &Array) -> Result<Scalar> {
    array.scalar().ok_or_else(|| {
        Error::runtime(format!("expected float64, float32, bfloat16 or float16, but got {}", array.dtype.name()))
    })
}

/// Checks the device of an array. The CPU kernel must not read an address on another device.
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
