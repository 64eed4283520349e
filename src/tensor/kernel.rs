//! Lends the memory of CPU tensors to the CPU kernel.

use half::{bf16, f16};

use super::described::values;
use super::{plain, scalar, threads, Tensors};
use crate::composite::Evaluation;
use crate::cpu::{self, BorrowedOperands, Element, Gradients, Rows};
use crate::error::Result;
use crate::operands::Scalar;
use crate::problem::{Problem, Reduction, Wanted};
use crate::torch::{address, on_memory, Device, Kind, Tensor};

/// [`cpu::evaluate`] on tensors.
pub(super) fn evaluate(problem: &Problem, tensors: &Tensors, wanted: Wanted) -> Result<Evaluation> {
    match scalar(&tensors.views[0])? {
        Scalar::F64 => evaluate_as::<f64>(problem, tensors, wanted),
        Scalar::F32 => evaluate_as::<f32>(problem, tensors, wanted),
        Scalar::Bf16 => evaluate_as::<bf16>(problem, tensors, wanted),
        Scalar::F16 => evaluate_as::<f16>(problem, tensors, wanted),
    }
}

/// [`cpu::row_quantiles`] on tensors.
pub(super) fn row_quantiles(problem: &Problem, tensors: &Tensors, quantile: f64) -> Result<Tensor> {
    match scalar(&tensors.views[0])? {
        Scalar::F64 => row_quantiles_as::<f64>(problem, tensors, quantile),
        Scalar::F32 => row_quantiles_as::<f32>(problem, tensors, quantile),
        Scalar::Bf16 => row_quantiles_as::<bf16>(problem, tensors, quantile),
        Scalar::F16 => row_quantiles_as::<f16>(problem, tensors, quantile),
    }
}

fn evaluate_as<E: Element>(problem: &Problem, tensors: &Tensors, wanted: Wanted) -> Result<Evaluation> {
    let kind = computed(&tensors.views[0])?;
    let empty = |rows: usize, wanted: bool| -> Result<Option<Tensor>> {
        let shape = [rows as i64, problem.dims as i64];
        Ok(wanted.then(|| Tensor::f_empty(shape, (kind, Device::Cpu))).transpose()?)
    };
    let mut anchors = empty(problem.anchors, wanted.anchors)?;
    let mut keys = empty(problem.keys, wanted.keys)?;
    let mut positives = empty(problem.anchors, wanted.positives)?;
    // SAFETY: fresh contiguous tensors of `E::Compute`, written by nobody else and outliving the call.
    let gradients = unsafe {
        Gradients { anchors: elements(&mut anchors)?, keys: elements(&mut keys)?, positives: elements(&mut positives)? }
    };
    let threads = threads();
    let found = lend(tensors, |operands: &BorrowedOperands<'_, E>| {
        on_memory(|| cpu::evaluate(problem, operands, gradients, threads))
    })?;
    let loss = if problem.reduction == Reduction::None && tensors.weights.is_none() {
        Tensor::f_from_slice(&found.losses)?.f_to_kind(kind)?
    } else {
        Tensor::f_scalar_tensor(found.loss, (kind, Device::Cpu))?
    };
    let statistics = Tensor::f_from_slice(&found.statistics.to_array())?.f_to_kind(kind)?;
    Ok(Evaluation { loss, statistics, gradients: [anchors, keys, positives] })
}

fn row_quantiles_as<E: Element>(problem: &Problem, tensors: &Tensors, quantile: f64) -> Result<Tensor> {
    let threads = threads();
    let found = lend(tensors, |operands: &BorrowedOperands<'_, E>| {
        on_memory(|| cpu::row_quantiles(problem, operands, quantile, threads))
    })?;
    Ok(Tensor::f_from_slice(&found)?.f_to_kind(computed(&tensors.views[0])?)?)
}

/// The dtype of everything that is returned for rows of a tensor's.
fn computed(tensor: &Tensor) -> Result<Kind> {
    Ok(if scalar(tensor)?.computed() == Scalar::F64 { Kind::Double } else { Kind::Float })
}

/// Runs the kernel on the memory of the tensors.
fn lend<E: Element, T>(tensors: &Tensors, run: impl FnOnce(&BorrowedOperands<'_, E>) -> Result<T>) -> Result<T> {
    let plain = plain(tensors)?;
    let matrix = |tensor: &Tensor| Ok(tensor.shallow_clone());
    let number = |tensor: &Tensor| Ok(tensor.f_double_value(&[])?);
    let weights = |tensor: &Tensor| values::<f64>(&tensor.f_to_kind(Kind::Double)?);
    let copies = plain.try_map(matrix, values::<i64>, number, weights)?;
    run(&copies.try_map(rows, |index| Ok(index.as_slice()), |&number| Ok(number), |weights| Ok(weights.as_slice()))?)
}

fn rows<E: Element>(tensor: &Tensor) -> Result<Rows<'_, E>> {
    let (row_stride, dim_stride) = tensor.stride2()?;
    let (rows, dims) = tensor.size2()?;
    let address = address(tensor)?.cast_const();
    // SAFETY: the caller chose `E` by the tensor's dtype. Address, shape and strides are what the tensor itself says of its
    // memory, which the borrow keeps alive: this holds for torch's own tensors, not for a subclass that answers otherwise.
    // Another thread that writes to an input meanwhile is the caller's race, as with torch's own operations.
    Ok(unsafe {
        Rows::from_raw(address.cast(), rows as usize, dims as usize, row_stride as isize, dim_stride as isize)
    })
}

/// The elements of a contiguous CPU tensor, to be written.
///
/// # Safety
/// `T` must be the type of its elements, and nobody else may use them meanwhile.
unsafe fn elements<T>(tensor: &mut Option<Tensor>) -> Result<Option<&mut [T]>> {
    let Some(tensor) = tensor.as_mut().filter(|tensor| tensor.numel() > 0) else { return Ok(None) };
    let address = address(tensor)?.cast();
    // SAFETY: contiguous, of that many `T`s and not empty, hence not null; unique by the caller.
    Ok(Some(unsafe { std::slice::from_raw_parts_mut(address, tensor.numel()) }))
}
