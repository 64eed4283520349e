//! Lends the memory of CUDA tensors to the CUDA kernels, and allocates by torch what they write.

use std::env;
use std::ffi::c_void;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use super::{plain, scalar, Tensors};
use crate::composite::Evaluation;
use crate::cuda::{self, Buffers, Chip, Device, DeviceNumber, Emulator, Executor, Matrix, Module, Operand, Variant};
use crate::error::{Error, Result};
use crate::problem::{Problem, Reduction, Wanted};
use crate::torch::{self, on_memory, Kind, Tensor};

/// Where the emulator of the kernels lies: a library that the tests build.
const EMULATOR: &str = "HEX_SSL_CUDA_EMULATOR";
/// Shared memory as on the smallest supported chip, and few enough multiprocessors that every plan splits its columns
/// somewhere.
const EMULATED_CHIP: Chip = Chip { capability: (8, 6), multiprocessors: 4, shared_bytes: 99 * 1024 };

/// The kernels that compute a problem, loaded and ready.
pub(super) struct Kernels {
    chip: Chip,
    variant: Variant,
    place: Place,
}

enum Place {
    Gpu(Arc<Device>, Arc<Module>),
    Emulator(Emulator),
}

impl Kernels {
    /// Those on a GPU.
    ///
    /// # Errors
    /// [`Error::Value`] for a problem that they do not compute, [`Error::Runtime`] where they cannot be had.
    pub(super) fn on_gpu(device: Arc<Device>, problem: &Problem, tensors: &Tensors, allow_tf32: bool) -> Result<Self> {
        let variant = supported(problem, tensors, device.chip(), allow_tf32)?;
        let module = on_memory(|| device.module(variant))?;
        Ok(Self { chip: device.chip(), variant, place: Place::Gpu(device, module) })
    }

    /// Those of the emulator.
    ///
    /// # Errors
    /// As [`Kernels::on_gpu`].
    pub(super) fn emulated(problem: &Problem, tensors: &Tensors, allow_tf32: bool) -> Result<Self> {
        let variant = supported(problem, tensors, EMULATED_CHIP, allow_tf32)?;
        let path = env::var_os(EMULATOR).ok_or_else(|| {
            Error::value(format!("expected {EMULATOR} to name the emulator's library, but it is not set"))
        })?;
        let emulator = Emulator::new(Path::new(&path), variant)?;
        Ok(Self { chip: EMULATED_CHIP, variant, place: Place::Emulator(emulator) })
    }

    /// [`cuda::evaluate`] on tensors.
    pub(super) fn evaluate(&self, problem: &Problem, tensors: &Tensors, wanted: Wanted) -> Result<Evaluation> {
        let device = tensors.views[0].device();
        let empty = |shape: &[usize]| float32(shape, device);
        let gradient = |rows, wanted: bool| wanted.then(|| empty(&[rows, problem.dims])).transpose();
        let each = problem.reduction == Reduction::None && tensors.weights.is_none();
        let loss = if each { empty(&[problem.anchors]) } else { empty(&[]) }?;
        let statistics = empty(&[6])?;
        let gradients = [
            gradient(problem.anchors, wanted.anchors)?,
            gradient(problem.keys, wanted.keys)?,
            gradient(problem.anchors, wanted.positives)?,
        ];
        let (plain, scratch) = (plain(tensors)?, self.scratch(problem, wanted, device)?);
        let mut buffers = buffers(&plain, &scratch)?;
        buffers.loss = torch::address(&loss)?.cast();
        buffers.statistics = torch::address(&statistics)?.cast();
        let [anchors, keys, positives] = &gradients;
        buffers.anchors_gradient = address(anchors.as_ref())?.cast_mut().cast();
        buffers.keys_gradient = address(keys.as_ref())?.cast_mut().cast();
        buffers.positives_gradient = address(positives.as_ref())?.cast_mut().cast();
        self.run(|executor| cuda::evaluate(problem, &buffers, wanted, self.chip, self.variant, executor))?;
        Ok(Evaluation { loss, statistics, gradients })
    }

    /// [`cuda::row_quantiles`] on tensors.
    pub(super) fn row_quantiles(&self, problem: &Problem, tensors: &Tensors) -> Result<Tensor> {
        let device = tensors.views[0].device();
        let quantiles = float32(&[problem.anchors], device)?;
        let wanted = Wanted { anchors: false, keys: false, positives: false };
        let (plain, scratch) = (plain(tensors)?, self.scratch(problem, wanted, device)?);
        let mut buffers = buffers(&plain, &scratch)?;
        buffers.loss = torch::address(&quantiles)?.cast();
        self.run(|executor| cuda::row_quantiles(problem, &buffers, buffers.loss, self.chip, self.variant, executor))?;
        Ok(quantiles)
    }

    fn scratch(&self, problem: &Problem, wanted: Wanted, device: torch::Device) -> Result<Tensor> {
        let bytes = cuda::scratch_bytes(problem, wanted, self.chip, self.variant) as i64;
        Ok(Tensor::f_empty([bytes], (Kind::Uint8, device))?)
    }

    /// All on torch's current stream of this thread: what torch allocated on it may be freed as soon as this returns.
    fn run(&self, launch: impl FnOnce(&dyn Executor) -> Result<()> + Send) -> Result<()> {
        on_memory(|| match &self.place {
            Place::Gpu(device, module) => launch(&device.launcher(module)?),
            Place::Emulator(emulator) => launch(emulator),
        })
    }
}

fn supported(problem: &Problem, tensors: &Tensors, chip: Chip, allow_tf32: bool) -> Result<Variant> {
    let operand = Operand::of(scalar(&tensors.views[0])?, allow_tf32)
        .ok_or_else(|| Error::value("the CUDA kernels compute in float32, bfloat16 and float16, not in float64"))?;
    let variant = Variant::new(problem.dims, operand);
    cuda::supports(problem, tensors.views.len(), chip, variant)
        .map_err(|reason| Error::value(format!("no CUDA kernel for this call: {reason}")))?;
    Ok(variant)
}

/// Where everything lies. The outputs' addresses are still to come.
fn buffers(plain: &Tensors, scratch: &Tensor) -> Result<Buffers> {
    let number = |tensor: &Tensor| Ok(DeviceNumber { pointer: address(Some(tensor))?, scalar: scalar(tensor)? });
    Ok(Buffers {
        operands: plain.try_map(
            matrix,
            |tensor| Ok(address(Some(tensor))?.cast()),
            number,
            |tensor| Ok(address(Some(tensor))?.cast()),
        )?,
        loss: null_mut(),
        statistics: null_mut(),
        anchors_gradient: null_mut(),
        keys_gradient: null_mut(),
        positives_gradient: null_mut(),
        scratch: torch::address(scratch)?,
    })
}

fn float32(shape: &[usize], device: torch::Device) -> Result<Tensor> {
    let shape: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
    Ok(Tensor::f_empty(shape, (Kind::Float, device))?)
}

fn matrix(tensor: &Tensor) -> Result<Matrix> {
    let (row_stride, dim_stride) = tensor.stride2()?;
    Ok(Matrix { pointer: torch::address(tensor)?, row_stride, dim_stride })
}

/// Where a tensor's elements are; null where there is none.
fn address(tensor: Option<&Tensor>) -> Result<*const c_void> {
    tensor.map_or(Ok(null()), |tensor| Ok(torch::address(tensor)?.cast_const()))
}
