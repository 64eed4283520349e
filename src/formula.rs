//! The loss of one anchor and its derivatives, from the sums over its negatives, in double precision. The CPU kernel
//! uses this code. `cuda/kernels/anchors.cu` is its counterpart for the CUDA kernels.
//!
//! The sums are scaled by shifts, so that they neither overflow nor underflow at a low temperature. With the shift `g`
//! of the global negatives and the shift `h` of the hierarchical negatives:
//! `global = sum_G exp((c - g) / t)`, `weighted = sum_H exp((1 + beta)(c - h) / t)` and
//! `weights = sum_H exp(beta (c - h) / t)`.

use crate::problem::Formulation;

/// The sums over an anchor's negatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sums {
    /// Shift of the sum over the global negatives.
    pub global_shift: f64,
    /// Shift of the sums over the hierarchical negatives.
    pub hierarchical_shift: f64,
    /// Sum over the global negatives.
    pub global: f64,
    /// Sum of weight times exponential over the hierarchical negatives.
    pub weighted: f64,
    /// Sum of weights over the hierarchical negatives.
    pub weights: f64,
    /// Number of hierarchical negatives.
    pub hierarchical: f64,
    /// Sum of the similarities of the hierarchical negatives for `Formulation::Supervised`, else 0.
    pub similarity: f64,
    /// Number of all negatives.
    pub negatives: f64,
}

/// The loss of an anchor, and the coefficients of its derivatives with respect to the similarities of its negatives.
/// The derivative is `global * exp((c - g) / t)` for a global negative, and `weighted * exp((1 + beta)(c - h) / t) -
/// weights * exp(beta (c - h) / t)` for a hierarchical negative.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Anchor {
    /// The loss, 0 if it is undefined.
    pub loss: f64,
    /// Whether the loss is defined.
    pub defined: bool,
    /// Number of positives for which the reweighted term is at its floor.
    pub at_floor: usize,
    /// Coefficient of the global negatives.
    pub global: f64,
    /// First coefficient of the hierarchical negatives.
    pub weighted: f64,
    /// Second coefficient of the hierarchical negatives.
    pub weights: f64,
    /// Derivative with respect to the temperature of the terms that do not depend on similarities: floor and constant.
    pub temperature: f64,
}

/// Evaluates an anchor, given the similarities of its positives, and writes the derivatives with respect to these.
pub fn anchor(
    formulation: Formulation,
    temperature: f64,
    sums: &Sums,
    positives: &[f64],
    derivatives: &mut [f64],
) -> Anchor {
    match formulation {
        Formulation::Importance { beta, tau_plus } => {
            importance(temperature, beta, tau_plus, sums, positives, derivatives)
        }
        Formulation::Official => {
            let constant = sums.negatives * (-1.0 / temperature).exp();
            decoupled(temperature, constant, sums, positives, derivatives)
        }
        Formulation::Decoupled => decoupled(temperature, 0.0, sums, positives, derivatives),
        Formulation::Elimination => {
            // What remains is InfoNCE over the global negatives.
            let remaining = Sums { hierarchical: 0.0, ..*sums };
            importance(temperature, 0.0, 0.0, &remaining, positives, derivatives)
        }
        Formulation::Supervised => supervised(temperature, sums, positives, derivatives),
    }
}

fn importance(
    temperature: f64,
    beta: f64,
    tau_plus: f64,
    sums: &Sums,
    positives: &[f64],
    derivatives: &mut [f64],
) -> Anchor {
    let share = 1.0 / positives.len() as f64;
    let count = sums.hierarchical;
    let global = sums.global_shift / temperature + sums.global.ln();
    let local = match count {
        0.0 => f64::NEG_INFINITY,
        _ => sums.hierarchical_shift / temperature + (count * sums.weighted / sums.weights).ln(),
    };
    let mut anchor = Anchor { defined: true, ..Anchor::default() };
    for (&similarity, derivative) in positives.iter().zip(derivatives) {
        let logit = similarity / temperature;
        // All terms are relative to the largest one.
        let top = logit.max(global).max(local);
        let positive = (logit - top).exp();
        let floor = count * (-1.0 / temperature - top).exp();
        let debiased = ((local - top).exp() - tau_plus * count * positive) / (1.0 - tau_plus);
        let at_floor = count > 0.0 && debiased <= floor;
        let reweighted = match count {
            0.0 => 0.0,
            _ => debiased.max(floor),
        };
        let denominator = positive + (global - top).exp() + reweighted;
        let scale = share / (temperature * denominator);

        anchor.loss += share * (top + denominator.ln() - logit);
        if sums.global > 0.0 {
            anchor.global += scale * (sums.global_shift / temperature - top).exp();
        }
        *derivative = scale * positive - share / temperature;
        if at_floor {
            anchor.at_floor += 1;
            anchor.temperature += scale * floor / temperature;
        } else if count > 0.0 {
            let scale = scale / (1.0 - tau_plus);
            let local_scale = scale * count * (sums.hierarchical_shift / temperature - top).exp() / sums.weights;
            anchor.weighted += local_scale * (1.0 + beta);
            anchor.weights += local_scale * beta * sums.weighted / sums.weights;
            *derivative -= scale * tau_plus * count * positive;
        }
    }
    anchor
}

fn decoupled(temperature: f64, constant: f64, sums: &Sums, positives: &[f64], derivatives: &mut [f64]) -> Anchor {
    if sums.global <= 0.0 {
        derivatives.fill(0.0);
        return Anchor::default();
    }
    let share = 1.0 / positives.len() as f64;
    derivatives.fill(-share / temperature);
    let attraction = share * positives.iter().sum::<f64>() / temperature;
    Anchor {
        loss: sums.global_shift / temperature + sums.global.ln() - attraction + constant,
        defined: true,
        global: 1.0 / (temperature * sums.global),
        temperature: constant / (temperature * temperature),
        ..Anchor::default()
    }
}

/// SupCon: the denominator contains all other rows. The hierarchical negatives, which have the anchor's label, are
/// positives too.
fn supervised(temperature: f64, sums: &Sums, positives: &[f64], derivatives: &mut [f64]) -> Anchor {
    let count = positives.len() as f64 + sums.hierarchical;
    if count == 0.0 {
        return Anchor::default();
    }
    let share = 1.0 / count;
    let global = sums.global_shift / temperature + sums.global.ln();
    let local = sums.hierarchical_shift / temperature + sums.weighted.ln();
    let top = positives.iter().fold(global.max(local), |top, similarity| top.max(similarity / temperature));
    let positive = |similarity: f64| (similarity / temperature - top).exp();
    let denominator: f64 =
        (global - top).exp() + (local - top).exp() + positives.iter().map(|&each| positive(each)).sum::<f64>();
    let scale = 1.0 / (temperature * denominator);
    for (&similarity, derivative) in positives.iter().zip(derivatives) {
        *derivative = scale * positive(similarity) - share / temperature;
    }
    let attraction = share * (positives.iter().sum::<f64>() + sums.similarity) / temperature;
    let factor = |shift: f64, sum: f64| if sum > 0.0 { scale * (shift / temperature - top).exp() } else { 0.0 };
    Anchor {
        loss: top - attraction + denominator.ln(),
        defined: true,
        global: factor(sums.global_shift, sums.global),
        weighted: factor(sums.hierarchical_shift, sums.weighted),
        weights: share / temperature,
        ..Anchor::default()
    }
}

impl Anchor {
    /// Multiplies the coefficients of the derivatives, but not the loss, by a weight.
    pub fn scale(&mut self, weight: f64) {
        self.global *= weight;
        self.weighted *= weight;
        self.weights *= weight;
        self.temperature *= weight;
    }
}
