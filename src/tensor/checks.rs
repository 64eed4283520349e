//! Shapes, dtypes, devices and index ranges of what came.

use super::{compute_kind, Tensors};
use crate::error::{view_name, Error, Result};
use crate::problem::{Pairing, Problem, Threshold};
use crate::torch::{device_name, Device, Element, Kind, Tensor};

/// Checks views, keys and positives against each other. Returns the rows of a view and the dimension.
pub(super) fn embeddings(tensors: &Tensors) -> Result<(usize, usize)> {
    let Some(first) = tensors.views.first() else {
        return Err(Error::value("expected at least 1 view, but got 0"));
    };
    let several = tensors.views.len() > 1;
    let first_name = if several { "z1" } else { "anchors" };
    let [rows, dims] = first.size()[..] else {
        return Err(wrong_shape(first_name, "[N, D]", first));
    };
    expect_floating(first_name, first)?;
    for (index, view) in tensors.views.iter().enumerate().skip(1) {
        let name = view_name(index);
        expect_shape(&name, view, &[rows, dims], " like `z1`")?;
        expect_like(&name, view, first_name, first)?;
    }
    if let Some(keys) = &tensors.keys {
        if !matches!(keys.size()[..], [_, columns] if columns == dims) {
            return Err(wrong_shape("keys", &format!("[N, {dims}], D as in `{first_name}`"), keys));
        }
        expect_like("keys", keys, first_name, first)?;
    }
    if let Some(positives) = &tensors.positives {
        let anchors = rows * tensors.views.len() as i64;
        expect_shape("positives", positives, &[anchors, dims], " like the anchors")?;
        expect_like("positives", positives, first_name, first)?;
    }
    Ok((rows as usize, dims as usize))
}

/// Checks indices, labels, epsilon and weights against the problem.
pub(super) fn selectors(tensors: &Tensors, problem: &Problem) -> Result<()> {
    let first = &tensors.views[0];
    let anchors = problem.anchors as i64;
    let integers = |name: &str, tensor: &Option<Tensor>, shape: &[i64]| -> Result<()> {
        let Some(tensor) = tensor else { return Ok(()) };
        expect_shape(name, tensor, shape, "")?;
        expect_kind(name, tensor, Kind::Int64)?;
        expect_device(name, tensor, first)
    };
    integers("positive_index", &tensors.positive_index, &[anchors, problem.positives() as i64])?;
    integers("ignored_index", &tensors.ignored_index, &[anchors])?;
    if problem.threshold == Threshold::Labels {
        integers("anchor_labels", &tensors.anchor_labels, &[anchors])?;
        integers("key_labels", &tensors.key_labels, &[problem.keys as i64])?;
        expect_given("anchor_labels", tensors.anchor_labels.is_some())?;
        expect_given("key_labels", tensors.key_labels.is_some() || problem.square)?;
    }
    if let Some(epsilon) = &tensors.epsilon {
        expect_shape("epsilon", epsilon, &[], "")?;
        expect_floating("epsilon", epsilon)?;
        expect_device("epsilon", epsilon, first)?;
    }
    if let Some(weights) = &tensors.weights {
        expect_shape("weights", weights, &[anchors], "")?;
        expect_kind("weights", weights, compute_kind(first)?)?;
        expect_device("weights", weights, first)?;
    }
    // Elsewhere the values are on the device, and nobody waits to see them.
    if first.device() == Device::Cpu && matches!(problem.pairing, Pairing::Indexed { .. }) {
        indices(tensors, problem)?;
    }
    Ok(())
}

/// Positives and the ignored key of an anchor are different rows of the keys.
fn indices(tensors: &Tensors, problem: &Problem) -> Result<()> {
    let positives = values::<i64>(tensors.positive_index.as_ref())?;
    let ignored = values::<i64>(tensors.ignored_index.as_ref())?;
    let keys = problem.keys as i64;
    let outside = |name: &str, least: i64, values: &[i64]| match values.iter().find(|&&v| v < least || v >= keys) {
        Some(value) => Err(Error::value(format!("expected `{name}` to be in [{least}, {keys}), but got {value}"))),
        None => Ok(()),
    };
    outside("positive_index", 0, &positives)?;
    outside("ignored_index", -1, &ignored)?;
    let mut special = Vec::with_capacity(problem.positives() + 1);
    for (anchor, row) in positives.chunks_exact(problem.positives().max(1)).enumerate() {
        special.clear();
        special.extend_from_slice(row);
        special.extend(ignored.get(anchor));
        special.sort_unstable();
        if let Some(pair) = special.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::value(format!(
                "expected the positives and the ignored key of an anchor to differ, but anchor {anchor} has key {} twice",
                pair[0]
            )));
        }
    }
    Ok(())
}

/// The elements of a CPU tensor in order; none where there is no tensor.
pub(super) fn values<T: Element + Default>(tensor: Option<&Tensor>) -> Result<Vec<T>> {
    let Some(tensor) = tensor else { return Ok(Vec::new()) };
    let mut values = vec![T::default(); tensor.numel()];
    // A tensor may say "negate when read" of its memory, as the imaginary part of a conjugate does.
    tensor.f_resolve_neg()?.f_contiguous()?.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}

/// Number of rows.
pub(super) fn length(tensor: &Tensor) -> usize {
    tensor.size().first().map_or(0, |&rows| rows as usize)
}

fn kind_name(tensor: &Tensor) -> String {
    match tensor.f_kind() {
        Ok(Kind::Half) => "float16".into(),
        Ok(Kind::Float) => "float32".into(),
        Ok(Kind::Double) => "float64".into(),
        Ok(Kind::Int) => "int32".into(),
        Ok(other) => format!("{other:?}").to_lowercase(),
        Err(_) => "another dtype".into(),
    }
}

fn wrong_shape(name: &str, expected: &str, tensor: &Tensor) -> Error {
    Error::value(format!("expected `{name}` to have shape {expected}, but got {:?}", tensor.size()))
}

fn expect_shape(name: &str, tensor: &Tensor, shape: &[i64], like: &str) -> Result<()> {
    if tensor.size() == shape {
        return Ok(());
    }
    Err(wrong_shape(name, &format!("{shape:?}{like}"), tensor))
}

fn expect_floating(name: &str, tensor: &Tensor) -> Result<()> {
    match tensor.f_kind() {
        Ok(Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double) => Ok(()),
        _ => Err(Error::value(format!(
            "expected `{name}` to be float64, float32, bfloat16 or float16, but got {}",
            kind_name(tensor)
        ))),
    }
}

fn expect_kind(name: &str, tensor: &Tensor, kind: Kind) -> Result<()> {
    if matches!(tensor.f_kind(), Ok(came) if came == kind) {
        return Ok(());
    }
    let expected = match kind {
        Kind::Double => "float64",
        Kind::Float => "float32",
        _ => "int64",
    };
    Err(Error::value(format!("expected `{name}` to be {expected}, but got {}", kind_name(tensor))))
}

fn expect_like(name: &str, tensor: &Tensor, first_name: &str, first: &Tensor) -> Result<()> {
    let (came, expected) = (kind_name(tensor), kind_name(first));
    if came != expected {
        return Err(Error::value(format!("expected `{name}` to be {expected} like `{first_name}`, but got {came}")));
    }
    expect_device(name, tensor, first)
}

fn expect_device(name: &str, tensor: &Tensor, first: &Tensor) -> Result<()> {
    let (came, expected) = (tensor.device(), first.device());
    if came == expected {
        return Ok(());
    }
    let (came, expected) = (device_name(came), device_name(expected));
    Err(Error::value(format!("expected `{name}` on {expected} like the anchors, but got a tensor on {came}")))
}

fn expect_given(name: &str, given: bool) -> Result<()> {
    if given {
        return Ok(());
    }
    Err(Error::value(format!("expected `{name}` for the threshold \"labels\", but got none")))
}
