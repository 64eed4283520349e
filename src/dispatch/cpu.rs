//! Passes arrays on the CPU to the CPU kernel.

use half::{bf16, f16};

use super::{expect_device, scalar, Outputs};
use crate::border::{Array, Device, Element as ArrayElement};
use crate::cpu::{self, BorrowedOperands, Element, Evaluation, Float, Gradients, Rows};
use crate::error::{Error, Result};
use crate::operands::{Operands, Scalar};
use crate::problem::{Problem, Threshold};

/// [`cpu::evaluate`] of arrays.
pub(super) fn evaluate(
    problem: &Problem,
    operands: &Operands<Array>,
    outputs: &mut Outputs,
    threads: usize,
) -> Result<()> {
    match scalar(&operands.views[0])? {
        Scalar::F64 => evaluate_as::<f64>(problem, operands, outputs, threads),
        Scalar::F32 => evaluate_as::<f32>(problem, operands, outputs, threads),
        Scalar::Bf16 => evaluate_as::<bf16>(problem, operands, outputs, threads),
        Scalar::F16 => evaluate_as::<f16>(problem, operands, outputs, threads),
    }
}

/// [`cpu::row_quantiles`] of arrays.
pub(super) fn row_quantiles(
    problem: &Problem,
    operands: &Operands<Array>,
    output: &mut Array,
    threads: usize,
) -> Result<()> {
    match scalar(&operands.views[0])? {
        Scalar::F64 => row_quantiles_as::<f64>(problem, operands, output, threads),
        Scalar::F32 => row_quantiles_as::<f32>(problem, operands, output, threads),
        Scalar::Bf16 => row_quantiles_as::<bf16>(problem, operands, output, threads),
        Scalar::F16 => row_quantiles_as::<f16>(problem, operands, output, threads),
    }
}

fn evaluate_as<E: Element<Compute: ArrayElement>>(
    problem: &Problem,
    operands: &Operands<Array>,
    outputs: &mut Outputs,
    threads: usize,
) -> Result<()> {
    let [anchors, keys, positives] = &mut outputs.gradients;
    let gradients = Gradients { anchors: gradient(anchors)?, keys: gradient(keys)?, positives: gradient(positives)? };
    let found =
        lend::<E, _>(problem, operands, |problem, operands| cpu::evaluate(problem, operands, gradients, threads))?;
    let Evaluation { loss, losses, statistics, temperature } = found;
    if let Some(derivative) = &mut outputs.temperature {
        write::<E::Compute>(derivative, &[temperature])?;
    }
    match outputs.loss.shape.len() {
        0 => write::<E::Compute>(&mut outputs.loss, &[loss])?,
        _ => write::<E::Compute>(&mut outputs.loss, &losses)?,
    }
    write::<E::Compute>(&mut outputs.statistics, &statistics.to_array())
}

fn row_quantiles_as<E: Element<Compute: ArrayElement>>(
    problem: &Problem,
    operands: &Operands<Array>,
    output: &mut Array,
    threads: usize,
) -> Result<()> {
    let Threshold::Adaptive { quantile } = problem.threshold else {
        return Err(Error::runtime("expected the threshold \"adaptive\" for row quantiles"));
    };
    let found =
        lend::<E, _>(problem, operands, |problem, operands| cpu::row_quantiles(problem, operands, quantile, threads))?;
    write::<E::Compute>(output, &found)
}

/// Runs the kernel on the memory of the operands. A threshold "given" and a temperature that are arrays are read first,
/// and become numbers of the problem.
fn lend<E: Element, T>(
    problem: &Problem,
    operands: &Operands<Array>,
    run: impl FnOnce(&Problem, &BorrowedOperands<'_, E>) -> Result<T>,
) -> Result<T> {
    let copies = operands.try_map(rows, integers, number, numbers)?;
    let threshold = copies.threshold.map_or(problem.threshold, |value| Threshold::Cosine { value });
    let temperature = copies.temperature.unwrap_or(problem.temperature);
    let problem = Problem { threshold, temperature, ..*problem };
    problem.validate()?;
    run(
        &problem,
        &copies.try_map(|&rows| Ok(rows), |&index| Ok(index), |&number| Ok(number), |all| Ok(all.as_slice()))?,
    )
}

fn integers(array: &Array) -> Result<&[i64]> {
    expect_device(array, Device::Cpu)?;
    // SAFETY: The array is on the CPU, and this crate never writes to an operand. A Python thread that writes to it
    // during the call is a data race of the caller, as with torch's own operations.
    unsafe { array.elements() }
}

fn rows<E: Element>(array: &Array) -> Result<Rows<'_, E>> {
    expect_device(array, Device::Cpu)?;
    let (&[rows, dims], &[row_stride, dim_stride]) = (&array.shape[..], &array.strides[..]) else {
        return Err(Error::runtime(format!("expected a matrix, but got shape {:?}", array.shape)));
    };
    // SAFETY: The array is on the CPU. `E` is the dtype of the first view, and the checks of the operands make sure
    // that all matrices have this dtype. Address, shape and strides come from torch's own struct, and the array keeps
    // the memory alive and is aligned. Writes by other threads are as in `integers`.
    Ok(unsafe {
        Rows::from_raw(
            array.pointer.cast_const().cast(),
            rows as usize,
            dims as usize,
            row_stride as isize,
            dim_stride as isize,
        )
    })
}

/// The numbers of a float32 or float64 array.
fn numbers(array: &Array) -> Result<Vec<f64>> {
    expect_device(array, Device::Cpu)?;
    match scalar(array)? {
        // SAFETY: The array is on the CPU. Writes by other threads are as in `integers`.
        Scalar::F64 => unsafe { array.elements::<f64>() }.map(<[f64]>::to_vec),
        // SAFETY: As above.
        Scalar::F32 => Ok(unsafe { array.elements::<f32>() }?.iter().map(|&value| value.into()).collect()),
        other => Err(Error::runtime(format!("expected float32 or float64, but got {}", other.name()))),
    }
}

fn number(array: &Array) -> Result<f64> {
    numbers(array)?.first().copied().ok_or_else(|| Error::runtime("expected a number, but got none"))
}

fn gradient<C: ArrayElement>(output: &mut Option<Array>) -> Result<Option<&mut [C]>> {
    let Some(output) = output else { return Ok(None) };
    expect_device(output, Device::Cpu)?;
    // SAFETY: The array is on the CPU, and nothing else uses an output, as `Outputs` requires.
    unsafe { output.elements_mut() }.map(Some)
}

fn write<C: ArrayElement + Float>(output: &mut Array, values: &[f64]) -> Result<()> {
    expect_device(output, Device::Cpu)?;
    // SAFETY: The array is on the CPU, and nothing else uses an output, as `Outputs` requires.
    let elements = unsafe { output.elements_mut::<C>() }?;
    if elements.len() != values.len() {
        return Err(Error::runtime(format!("expected room for {} numbers, but got {}", values.len(), elements.len())));
    }
    elements.iter_mut().zip(values).for_each(|(element, &value)| *element = C::from_f64(value));
    Ok(())
}
