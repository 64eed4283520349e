//! Checks that the operands of a call fit together: shapes, dtypes, devices and indices. The module `problem` checks the
//! ranges of numbers.
//!
//! `hex_ssl/validation.py` checks what a user passes, under the user's names and before it is converted. These checks
//! are those of the operators, which anyone may call. A backend reads memory by what they have found.

use super::{Operands, Scalar};
use crate::error::{view_name, Error, Result};
use crate::problem::{Formulation, Pairing, Problem, Reduction, Threshold};

/// The properties of an operand that the checks need.
pub trait Described {
    /// The shape.
    fn shape(&self) -> &[i64];
    /// The dtype, if it is one of the floating-point dtypes of the losses.
    fn scalar(&self) -> Option<Scalar>;
    /// The name of the dtype, such as "int64".
    fn dtype_name(&self) -> String;
    /// The name of the device, such as "cuda:0".
    fn device_name(&self) -> String;
    /// Whether both operands are on the same device.
    fn is_beside(&self, other: &Self) -> bool;
    /// The elements of an int64 operand on the CPU. None on other devices, because the check would wait for the device.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the elements cannot be read.
    fn integers(&self) -> Result<Option<Vec<i64>>>;
}

impl<T: Described> Operands<T> {
    /// Checks the matrices, and builds the problem from their shapes and the caller's settings.
    ///
    /// # Errors
    /// [`Error::Value`], which names the operand, what was expected and what came.
    pub fn problem(
        &self,
        offset: usize,
        threshold: Threshold,
        formulation: Formulation,
        temperature: f64,
        reduction: Reduction,
        towers: bool,
    ) -> Result<Problem> {
        let (rows, dims) = self.check_matrices()?;
        let anchors = rows * self.views.len();
        Ok(Problem {
            anchors,
            keys: self.keys.as_ref().map_or(anchors, length),
            dims,
            square: self.keys.is_none(),
            pairing: if towers { self.towers()? } else { self.pairing(offset)? },
            own_negatives: self.own_negatives(anchors),
            ignored: self.ignored_index.as_ref().map_or(0, |index| *index.shape().get(1).unwrap_or(&0) as usize),
            threshold,
            formulation,
            temperature,
            reduction,
        })
    }

    /// Checks all operands but the matrices against the problem.
    ///
    /// # Errors
    /// As [`problem`](Self::problem).
    pub fn check(&self, problem: &Problem) -> Result<()> {
        let first = &self.views[0];
        let anchors = problem.anchors as i64;
        expect_integers("positive_index", self.positive_index.as_ref(), &[anchors, problem.positives() as i64], first)?;
        if let Some(index) = &self.ignored_index {
            let [_, each] = index.shape()[..] else {
                return Err(wrong_shape("ignored_index", "[M, I]", index));
            };
            expect_integers("ignored_index", Some(index), &[anchors, each], first)?;
        }
        self.check_labels(problem)?;
        self.check_threshold(problem.threshold)?;
        if let Some(temperature) = &self.temperature {
            expect_number("temperature", temperature, first)?;
        }
        if let Some(weights) = &self.weights {
            expect_shape("weights", weights, &[anchors], "")?;
            let expected = first.scalar().map(Scalar::computed);
            if weights.scalar() != expected {
                return Err(wrong_dtype("weights", expected.map_or("floating point", Scalar::name), weights));
            }
            expect_beside("weights", weights, first)?;
        }
        self.check_indices(problem)
    }

    /// Checks that views, keys and positives fit together. Returns the number of rows of a view and the dimension.
    fn check_matrices(&self) -> Result<(usize, usize)> {
        let Some(first) = self.views.first() else {
            return Err(Error::value("expected at least 1 view, but got 0"));
        };
        let first_name = if self.views.len() > 1 || self.keys.is_none() { "z1" } else { "anchors" };
        let &[rows, dims] = first.shape() else {
            return Err(wrong_shape(first_name, "[N, D]", first));
        };
        expect_floating(first_name, first)?;
        for (index, view) in self.views.iter().enumerate().skip(1) {
            let name = view_name(index);
            expect_shape(&name, view, &[rows, dims], " like `z1`")?;
            expect_like(&name, view, first_name, first)?;
        }
        if let Some(keys) = &self.keys {
            if !matches!(keys.shape(), [_, columns] if *columns == dims) {
                return Err(wrong_shape("keys", &format!("[N, {dims}], D as in `{first_name}`"), keys));
            }
            expect_like("keys", keys, first_name, first)?;
        }
        if let Some(positives) = &self.positives {
            let anchors = rows * self.views.len() as i64;
            let fits = |length: i64| if anchors > 0 { length > 0 && length % anchors == 0 } else { length == 0 };
            if !matches!(positives.shape()[..], [length, columns] if columns == dims && fits(length)) {
                return Err(wrong_shape(
                    "positives",
                    &format!("[{anchors} R, {dims}], R rows for each anchor"),
                    positives,
                ));
            }
            expect_like("positives", positives, first_name, first)?;
        }
        Ok((rows as usize, dims as usize))
    }

    fn towers(&self) -> Result<Pairing> {
        let alone = self.keys.is_none() && self.positives.is_none() && self.positive_index.is_none();
        match self.views.len() == 2 && alone && self.ignored_index.is_none() {
            true => Ok(Pairing::Towers),
            false => Err(Error::value("expected two views alone for `towers`, but got other operands")),
        }
    }

    fn pairing(&self, offset: usize) -> Result<Pairing> {
        match (&self.positives, &self.positive_index) {
            (Some(_), _) if self.keys.is_none() => {
                Err(Error::value("expected `keys`, the negatives, along with `positives`, but got none"))
            }
            (None, None) if self.ignored_index.is_some() => Err(Error::value(
                "expected `positives` or `positive_index` along with `ignored_index`, but got neither",
            )),
            (Some(_), None) => Ok(Pairing::Apart),
            (_, Some(index)) => match index.shape() {
                &[_, positives] => Ok(Pairing::Indexed { positives: positives as usize }),
                shape => {
                    Err(Error::value(format!("expected `positive_index` to have shape [M, P], but got {shape:?}")))
                }
            },
            (None, None) => Ok(Pairing::Views { views: self.views.len(), offset }),
        }
    }

    /// Number of own negatives of each anchor. Without an index, the first of its rows apart is its positive.
    fn own_negatives(&self, anchors: usize) -> usize {
        let rows = self.positives.as_ref().map_or(0, length).checked_div(anchors).unwrap_or(0);
        rows.saturating_sub(usize::from(self.positive_index.is_none()))
    }

    fn check_labels(&self, problem: &Problem) -> Result<()> {
        if problem.threshold != Threshold::Labels {
            return Ok(());
        }
        let first = &self.views[0];
        expect_integers("anchor_labels", self.anchor_labels.as_ref(), &[problem.anchors as i64], first)?;
        expect_integers("key_labels", self.key_labels.as_ref(), &[problem.keys as i64], first)?;
        let given = |name: &str, given: bool| match given {
            true => Ok(()),
            false => Err(Error::value(format!("expected `{name}` for the rule \"labels\", but got none"))),
        };
        given("anchor_labels", self.anchor_labels.is_some())?;
        given("key_labels", self.key_labels.is_some() || problem.square)
    }

    /// Checks that `threshold` is given exactly if the rule is "given".
    fn check_threshold(&self, threshold: Threshold) -> Result<()> {
        match (&self.threshold, threshold) {
            (None, Threshold::Given) => Err(Error::value("expected `threshold` for the rule \"given\", but got none")),
            (None, _) => Ok(()),
            (Some(number), Threshold::Given) => expect_number("threshold", number, &self.views[0]),
            (Some(_), other) => Err(Error::value(format!(
                "expected `threshold` only for the rule \"given\", but the rule is {:?}",
                other.name()
            ))),
        }
    }

    /// Checks that the indices are rows of the keys, and that the positives and the ignored keys of an anchor differ.
    fn check_indices(&self, problem: &Problem) -> Result<()> {
        let keys = problem.keys as i64;
        let positives = values(self.positive_index.as_ref())?.unwrap_or_default();
        let ignored = values(self.ignored_index.as_ref())?.unwrap_or_default();
        let outside = |name: &str, least: i64, values: &[i64]| match values.iter().find(|&&v| v < least || v >= keys) {
            Some(value) => Err(Error::value(format!("expected `{name}` to be in [{least}, {keys}), but got {value}"))),
            None => Ok(()),
        };
        if positives.is_empty() && ignored.is_empty() {
            return Ok(());
        }
        outside("positive_index", 0, &positives)?;
        outside("ignored_index", -1, &ignored)?;
        let [positives_each, ignored_each] = [&positives, &ignored].map(|values| values.len() / problem.anchors.max(1));
        let mut row = Vec::with_capacity(positives_each + ignored_each);
        for anchor in 0..problem.anchors {
            row.clear();
            row.extend_from_slice(&positives[anchor * positives_each..][..positives_each]);
            row.extend(ignored[anchor * ignored_each..][..ignored_each].iter().filter(|&&key| key >= 0));
            row.sort_unstable();
            if let Some(pair) = row.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(Error::value(format!(
                    "expected the positives and the ignored keys of an anchor to differ, but anchor {anchor} has key {} \
                     twice",
                    pair[0]
                )));
            }
        }
        Ok(())
    }
}

fn values<T: Described>(operand: Option<&T>) -> Result<Option<Vec<i64>>> {
    operand.map_or(Ok(None), Described::integers)
}

fn length<T: Described>(operand: &T) -> usize {
    operand.shape().first().map_or(0, |&rows| rows as usize)
}

fn wrong_shape(name: &str, expected: &str, operand: &impl Described) -> Error {
    Error::value(format!("expected `{name}` to have shape {expected}, but got {:?}", operand.shape()))
}

fn wrong_dtype(name: &str, expected: &str, operand: &impl Described) -> Error {
    Error::value(format!("expected `{name}` to be {expected}, but got {}", operand.dtype_name()))
}

fn expect_shape(name: &str, operand: &impl Described, shape: &[i64], like: &str) -> Result<()> {
    if operand.shape() == shape {
        return Ok(());
    }
    Err(wrong_shape(name, &format!("{shape:?}{like}"), operand))
}

fn expect_floating(name: &str, operand: &impl Described) -> Result<()> {
    match operand.scalar() {
        Some(_) => Ok(()),
        None => Err(wrong_dtype(name, "float64, float32, bfloat16 or float16", operand)),
    }
}

fn expect_number<T: Described>(name: &str, operand: &T, first: &T) -> Result<()> {
    expect_shape(name, operand, &[], "")?;
    expect_floating(name, operand)?;
    expect_beside(name, operand, first)
}

fn expect_integers<T: Described>(name: &str, operand: Option<&T>, shape: &[i64], first: &T) -> Result<()> {
    let Some(operand) = operand else { return Ok(()) };
    expect_shape(name, operand, shape, "")?;
    if operand.dtype_name() != "int64" {
        return Err(wrong_dtype(name, "int64", operand));
    }
    expect_beside(name, operand, first)
}

fn expect_like<T: Described>(name: &str, operand: &T, first_name: &str, first: &T) -> Result<()> {
    if operand.scalar() != first.scalar() {
        let expected = format!("{} like `{first_name}`", first.dtype_name());
        return Err(wrong_dtype(name, &expected, operand));
    }
    expect_beside(name, operand, first)
}

fn expect_beside<T: Described>(name: &str, operand: &T, first: &T) -> Result<()> {
    if operand.is_beside(first) {
        return Ok(());
    }
    let (came, expected) = (operand.device_name(), first.device_name());
    Err(Error::value(format!("expected `{name}` on {expected} like the anchors, but got a tensor on {came}")))
}

#[cfg(test)]
mod tests;
