//! Passes arrays on a CUDA device to the CUDA kernels, or arrays on the CPU to their emulator.

use std::env;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use super::{scalar, Outputs};
use crate::border::Array;
use crate::cuda::{self, Buffers, Chip, Device, DeviceNumber, Emulator, Executor, Matrix, Operand, Variant};
use crate::error::{Error, Result};
use crate::operands::Operands;
use crate::problem::{Problem, Wanted};

/// The environment variable with the path of the emulator, a library that the tests build.
const EMULATOR: &str = "HEX_SSL_CUDA_EMULATOR";
/// The shared memory is that of the smallest supported chip. There are so few multiprocessors that every plan splits
/// its columns somewhere.
const EMULATED_CHIP: Chip = Chip { capability: (8, 6), multiprocessors: 4, shared_bytes: 99 * 1024 };
/// Emulated where the kernels for sm_90a are asked for: with what these need, and few enough multiprocessors that rings of
/// stages go round.
const EMULATED_HOPPER: Chip = Chip { capability: (9, 0), multiprocessors: 2, shared_bytes: 227 * 1024 };

/// The loaded kernels for a problem.
pub(super) struct Kernels {
    chip: Chip,
    variant: Variant,
    place: Place,
}

enum Place {
    Gpu(Arc<Device>, cuda::Kernels),
    Emulator(Emulator),
}

impl Kernels {
    /// Loads the kernels on a GPU: for a loss and `wanted`, or for the quantiles alone.
    ///
    /// # Errors
    /// [`Error::Value`] for a problem that the kernels do not support, [`Error::Runtime`] if they cannot be loaded.
    pub(super) fn on_gpu(
        device: Arc<Device>,
        problem: &Problem,
        operands: &Operands<Array>,
        allow_tf32: bool,
        wanted: Option<Wanted>,
    ) -> Result<Self> {
        let problem = on_device(problem, operands);
        let variant = supported(&problem, operands, device.chip(), allow_tf32)?;
        let kernels = device.kernels(variant, &cuda::parts(&problem, wanted, variant))?;
        Ok(Self { chip: device.chip(), variant, place: Place::Gpu(device, kernels) })
    }

    /// Loads the kernels of the emulator.
    ///
    /// # Errors
    /// As [`Kernels::on_gpu`].
    pub(super) fn emulated(problem: &Problem, operands: &Operands<Array>, allow_tf32: bool) -> Result<Self> {
        let chip = if cuda::WGMMA.is_on()? { EMULATED_HOPPER } else { EMULATED_CHIP };
        let problem = on_device(problem, operands);
        let variant = supported(&problem, operands, chip, allow_tf32)?;
        let path = env::var_os(EMULATOR).ok_or_else(|| {
            Error::value(format!("expected {EMULATOR} to name the emulator's library, but it is not set"))
        })?;
        let emulator = Emulator::new(Path::new(&path), variant)?;
        Ok(Self { chip, variant, place: Place::Emulator(emulator) })
    }

    /// [`cuda::evaluate`] of arrays.
    pub(super) fn evaluate(
        &self,
        problem: &Problem,
        operands: &Operands<Array>,
        outputs: &Outputs,
        scratch: impl FnMut(usize) -> Result<Array>,
    ) -> Result<()> {
        let (problem, wanted) = (&on_device(problem, operands), outputs.wanted());
        let scratch = self.scratch(problem, operands, Some(wanted), scratch)?;
        let [anchors, keys, positives] = &outputs.gradients;
        let address = |array: &Option<Array>| array.as_ref().map_or(null_mut(), |array| array.pointer.cast());
        let buffers = Buffers {
            loss: outputs.loss.pointer.cast(),
            statistics: outputs.statistics.pointer.cast(),
            anchors_gradient: address(anchors),
            keys_gradient: address(keys),
            positives_gradient: address(positives),
            temperature_gradient: address(&outputs.temperature),
            ..buffers(operands, &scratch)?
        };
        self.run(|executor| cuda::evaluate(problem, &buffers, wanted, self.chip, self.variant, executor))
    }

    /// [`cuda::row_quantiles`] of arrays.
    pub(super) fn row_quantiles(
        &self,
        problem: &Problem,
        operands: &Operands<Array>,
        output: &Array,
        scratch: impl FnMut(usize) -> Result<Array>,
    ) -> Result<()> {
        let scratch = self.scratch(problem, operands, None, scratch)?;
        let buffers = Buffers { loss: output.pointer.cast(), ..buffers(operands, &scratch)? };
        self.run(|executor| cuda::row_quantiles(problem, &buffers, buffers.loss, self.chip, self.variant, executor))
    }

    fn scratch(
        &self,
        problem: &Problem,
        operands: &Operands<Array>,
        wanted: Option<Wanted>,
        mut allocate: impl FnMut(usize) -> Result<Array>,
    ) -> Result<Array> {
        let bytes = cuda::scratch_bytes(problem, wanted, self.chip, self.variant);
        let scratch = allocate(bytes)?;
        if scratch.len() >= bytes && scratch.is_contiguous() && scratch.device == operands.views[0].device {
            return Ok(scratch);
        }
        Err(Error::runtime(format!("expected {bytes} bytes beside the operands, but got {:?}", scratch.shape)))
    }

    /// Launches kernels on the current stream of torch in this thread. torch may free the memory that it allocated on
    /// this stream as soon as the function returns.
    fn run(&self, launch: impl FnOnce(&dyn Executor) -> Result<()>) -> Result<()> {
        match &self.place {
            Place::Gpu(device, kernels) => launch(&device.launcher(kernels)?),
            Place::Emulator(emulator) => launch(emulator),
        }
    }
}

/// The problem as the host knows it. The kernels read a temperature that is an operand from the device.
fn on_device(problem: &Problem, operands: &Operands<Array>) -> Problem {
    let temperature = if operands.temperature.is_some() { f64::NAN } else { problem.temperature };
    Problem { temperature, ..*problem }
}

fn supported(problem: &Problem, operands: &Operands<Array>, chip: Chip, allow_tf32: bool) -> Result<Variant> {
    let operand = Operand::of(scalar(&operands.views[0])?, allow_tf32)
        .ok_or_else(|| Error::value("the CUDA kernels compute in float32, bfloat16 and float16, not in float64"))?;
    let variant = Variant::new(problem.dims, operand);
    cuda::supports(problem, operands.views.len(), chip, variant)
        .map_err(|reason| Error::value(format!("no CUDA kernel for this call: {reason}")))?;
    Ok(if cuda::WGMMA.is_on()? { variant.on_hopper(problem, chip) } else { variant })
}

/// The addresses of operands and scratch memory. The addresses of the outputs are null.
fn buffers(operands: &Operands<Array>, scratch: &Array) -> Result<Buffers> {
    let number = |array: &Array| Ok(DeviceNumber { pointer: contiguous(array)?, scalar: scalar(array)? });
    Ok(Buffers {
        operands: operands.try_map(matrix, contiguous, number, contiguous)?,
        loss: null_mut(),
        statistics: null_mut(),
        anchors_gradient: null_mut(),
        keys_gradient: null_mut(),
        positives_gradient: null_mut(),
        temperature_gradient: null_mut(),
        scratch: scratch.pointer,
    })
}

fn matrix(array: &Array) -> Result<Matrix> {
    match array.strides[..] {
        [row_stride, dim_stride] => Ok(Matrix { pointer: array.pointer, row_stride, dim_stride }),
        _ => Err(Error::runtime(format!("expected a matrix, but got shape {:?}", array.shape))),
    }
}

fn contiguous<T>(array: &Array) -> Result<*const T> {
    match array.is_contiguous() {
        true => Ok(array.pointer.cast_const().cast()),
        false => Err(Error::runtime(format!("expected contiguous elements, but got strides {:?}", array.strides))),
    }
}
