//! Lends the memory of CPU tensors to the CPU kernel.

use half::{bf16, f16};

use super::checks::{length, values};
use super::{compute_kind, threads, Tensors};
use crate::composite::Evaluation;
use crate::cpu::{self, Element, Gradients, Inputs, Rows};
use crate::error::{Error, Result};
use crate::problem::{Problem, Reduction, Wanted};
use crate::torch::{address, on_memory, Device, Kind, Tensor};

/// [`cpu::evaluate`] on tensors.
pub(super) fn evaluate(problem: &Problem, tensors: &Tensors, wanted: Wanted) -> Result<Evaluation> {
    match tensors.views[0].f_kind()? {
        Kind::Double => evaluate_as::<f64>(problem, tensors, wanted),
        Kind::Float => evaluate_as::<f32>(problem, tensors, wanted),
        Kind::BFloat16 => evaluate_as::<bf16>(problem, tensors, wanted),
        Kind::Half => evaluate_as::<f16>(problem, tensors, wanted),
        other => Err(Error::runtime(format!("the CPU kernel has no code for {other:?}"))),
    }
}

/// [`cpu::row_quantiles`] on tensors.
pub(super) fn row_quantiles(problem: &Problem, tensors: &Tensors, quantile: f64) -> Result<Tensor> {
    match tensors.views[0].f_kind()? {
        Kind::Double => row_quantiles_as::<f64>(problem, tensors, quantile),
        Kind::Float => row_quantiles_as::<f32>(problem, tensors, quantile),
        Kind::BFloat16 => row_quantiles_as::<bf16>(problem, tensors, quantile),
        Kind::Half => row_quantiles_as::<f16>(problem, tensors, quantile),
        other => Err(Error::runtime(format!("the CPU kernel has no code for {other:?}"))),
    }
}

fn evaluate_as<E: Element>(problem: &Problem, tensors: &Tensors, wanted: Wanted) -> Result<Evaluation> {
    let kind = compute_kind(&tensors.views[0])?;
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
    let lent = Lent::of(tensors)?;
    let threads = threads();
    let evaluate = |inputs: &Inputs<'_, E>| on_memory(|| cpu::evaluate(problem, inputs, gradients, threads));
    let found = lent.with(evaluate)?;
    let loss = if problem.reduction == Reduction::None && tensors.weights.is_none() {
        Tensor::f_from_slice(&found.losses)?.f_to_kind(kind)?
    } else {
        Tensor::f_scalar_tensor(found.loss, (kind, Device::Cpu))?
    };
    let statistics = Tensor::f_from_slice(&found.statistics.to_array())?.f_to_kind(kind)?;
    Ok(Evaluation { loss, statistics, gradients: [anchors, keys, positives] })
}

fn row_quantiles_as<E: Element>(problem: &Problem, tensors: &Tensors, quantile: f64) -> Result<Tensor> {
    let lent = Lent::of(tensors)?;
    let threads = threads();
    let quantiles = |inputs: &Inputs<'_, E>| on_memory(|| cpu::row_quantiles(problem, inputs, quantile, threads));
    let found = lent.with(quantiles)?;
    Ok(Tensor::f_from_slice(&found)?.f_to_kind(compute_kind(&tensors.views[0])?)?)
}

/// Tensors whose memory can be read as it stands, and the short integer ones as vectors.
struct Lent {
    views: Vec<Tensor>,
    keys: Option<Tensor>,
    positives: Option<Tensor>,
    positive_index: Vec<i64>,
    ignored_index: Vec<i64>,
    anchor_labels: Vec<i64>,
    key_labels: Vec<i64>,
    weights: Option<Vec<f64>>,
}

impl Lent {
    fn of(tensors: &Tensors) -> Result<Self> {
        // A tensor may say "negate when read" of its memory, as the imaginary part of a conjugate does.
        let plain = |tensor: &Tensor| tensor.f_resolve_neg();
        let weights = tensors.weights.as_ref().map(|weights| weights.f_to_kind(Kind::Double)).transpose()?;
        Ok(Self {
            views: tensors.views.iter().map(plain).collect::<std::result::Result<_, _>>()?,
            keys: tensors.keys.as_ref().map(plain).transpose()?,
            positives: tensors.positives.as_ref().map(plain).transpose()?,
            positive_index: values(tensors.positive_index.as_ref())?,
            ignored_index: values(tensors.ignored_index.as_ref())?,
            anchor_labels: values(tensors.anchor_labels.as_ref())?,
            key_labels: values(tensors.key_labels.as_ref())?,
            weights: weights.as_ref().map(|weights| values(Some(weights))).transpose()?,
        })
    }

    fn with<E: Element, T>(&self, run: impl FnOnce(&Inputs<'_, E>) -> Result<T>) -> Result<T> {
        let anchors = self.views.iter().map(rows).collect::<Result<Vec<_>>>()?;
        run(&Inputs {
            anchors: &anchors,
            keys: self.keys.as_ref().map(rows).transpose()?,
            positives: self.positives.as_ref().map(rows).transpose()?,
            positive_index: &self.positive_index,
            ignored_index: &self.ignored_index,
            anchor_labels: &self.anchor_labels,
            key_labels: &self.key_labels,
            weights: self.weights.as_deref(),
        })
    }
}

fn rows<E: Element>(tensor: &Tensor) -> Result<Rows<'_, E>> {
    let (row_stride, dim_stride) = tensor.stride2()?;
    let dims = tensor.size2()?.1 as usize;
    let address = address(tensor)?.cast_const();
    // SAFETY: the caller chose `E` by the tensor's dtype; libtorch's strides stay within its storage,
    // which the borrow keeps alive. Writing to an input meanwhile is the caller's race, as with torch's own operations.
    Ok(unsafe { Rows::from_raw(address.cast(), length(tensor), dims, row_stride as isize, dim_stride as isize) })
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
