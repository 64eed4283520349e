//! The formulations: from a chunk's logits to its losses and to their derivatives.
//!
//! Sums of exponentials are kept as logarithms: at a temperature of 0.005 they span e^-200 .. e^200,
//! more than float32 holds.

use crate::error::Result;
use crate::problem::{Formulation, Problem};
use crate::torch::{Kind, Tensor};

const LOG_ZERO: f64 = f64::NEG_INFINITY;

/// The hierarchical negatives of a chunk of C anchors.
pub(super) struct Hierarchical {
    /// [C, N]: which they are.
    pub(super) mask: Tensor,
    /// [C, 1]: how many, in the dtype of the arithmetic.
    pub(super) count: Tensor,
}

/// A chunk of C anchors after the forward pass.
pub(super) struct Terms {
    /// [C]: each anchor's loss, 0 where it has none.
    pub(super) losses: Tensor,
    /// [C]: 1 where the anchor has a loss, else 0.
    pub(super) defined: Tensor,
    /// [C]: the fraction of the anchor's positives whose reweighted term is at its floor.
    pub(super) floored: Tensor,
    /// [C, P]: derivatives by the positive logits.
    pub(super) positive_slopes: Tensor,
    /// [C, N]: logits of the global negatives, minus infinity elsewhere.
    global: Tensor,
    /// [C, 1]: the derivative by a global logit is exp(logit - this).
    log_denominator: Tensor,
    /// The hierarchical part, with the [C, 1] factors of its two derivatives.
    local: Option<(Local, [Tensor; 2])>,
}

impl Terms {
    /// `logits` [C, N]: minus infinity where the key is no negative. `positives` [C, P]: logits.
    /// `hierarchical`: none where no anchor has any. `negatives` [C, 1]: how many there are.
    pub(super) fn of(
        problem: &Problem,
        logits: &Tensor,
        positives: &Tensor,
        hierarchical: Option<&Hierarchical>,
        negatives: &Tensor,
    ) -> Result<Self> {
        let global = match hierarchical {
            Some(hierarchical) => logits.f_masked_fill(&hierarchical.mask, LOG_ZERO)?,
            None => logits.shallow_clone(),
        };
        match problem.formulation {
            Formulation::Importance { beta, tau_plus } => {
                let local = hierarchical.map(|hierarchical| Local::of(logits, hierarchical, beta)).transpose()?;
                Self::importance(global, local, positives, beta, tau_plus, problem.temperature)
            }
            Formulation::Official => {
                let constant = negatives.f_mul_scalar((-1.0 / problem.temperature).exp())?;
                Self::without_positive(global, Some(&constant), positives)
            }
            Formulation::Decoupled => Self::without_positive(global, None, positives),
        }
    }

    /// -s_p + log(exp(s_p) + E_G + Q_p), mean over the positives p.
    fn importance(
        global: Tensor,
        local: Option<Local>,
        positives: &Tensor,
        beta: f64,
        tau_plus: f64,
        temperature: f64,
    ) -> Result<Self> {
        let log_global = global.f_logsumexp([1], true)?;
        let reweighted = local.as_ref().map(|local| local.reweighted(positives, tau_plus, temperature)).transpose()?;
        let log_others = match &reweighted {
            Some(reweighted) => log_global.f_logaddexp(&reweighted.log_term)?,
            None => log_global,
        };
        let losses = log_others.f_sub(positives)?;
        let losses = losses.f_logaddexp(&losses.f_zeros_like()?)?;
        let log_denominators = losses.f_add(positives)?;
        let mut slopes = losses.f_neg()?.f_expm1()?;
        let mut floored = losses.f_zeros_like()?;
        let mut hierarchical = None;
        if let (Some(local), Some(reweighted)) = (local, reweighted) {
            let (by_positive, factors) = local.slopes(&reweighted, positives, &log_denominators, beta, tau_plus)?;
            slopes = slopes.f_sub(&by_positive)?;
            floored = reweighted.at_floor.f_type_as(&losses)?;
            hierarchical = Some((local, factors));
        }
        let count = positives.size2()?.1 as f64;
        let log_mean = log_denominators.f_neg()?.f_logsumexp([1], true)?.f_sub_scalar(count.ln())?;
        Ok(Self {
            losses: row_mean(&losses)?,
            defined: row_mean(&losses.f_ones_like()?)?,
            floored: row_mean(&floored)?,
            positive_slopes: slopes.f_div_scalar(count)?,
            global,
            log_denominator: log_mean.f_neg()?,
            local: hierarchical,
        })
    }

    /// -s_p + log E_G + constant, mean over the positives p; no loss where there is no global negative.
    fn without_positive(global: Tensor, constant: Option<&Tensor>, positives: &Tensor) -> Result<Self> {
        let log_global = global.f_logsumexp([1], true)?;
        let undefined = log_global.f_eq(LOG_ZERO)?;
        let log_denominator = log_global.f_masked_fill(&undefined, 0.0)?;
        let mut losses = log_denominator.f_sub(positives)?;
        if let Some(constant) = constant {
            losses = losses.f_add(constant)?;
        }
        let losses = losses.f_masked_fill(&undefined, 0.0)?;
        let defined = undefined.f_logical_not()?.f_type_as(positives)?;
        let count = positives.size2()?.1 as f64;
        Ok(Self {
            losses: row_mean(&losses)?,
            floored: row_mean(&losses.f_zeros_like()?)?,
            positive_slopes: defined.f_div_scalar(-count)?.f_expand_as(positives)?,
            defined: row_mean(&defined)?,
            global,
            log_denominator,
            local: None,
        })
    }

    /// [C, N]: derivatives of the losses by the logits of the negatives.
    pub(super) fn negative_slopes(self) -> Result<Tensor> {
        let mut slopes = self.global.f_sub(&self.log_denominator)?.f_exp_()?;
        if let Some((local, [steep, flat])) = self.local {
            slopes = slopes.f_addcmul_(&local.weighted, &steep)?.f_addcmul_(&local.tilted, &flat)?;
        }
        Ok(slopes)
    }
}

/// The exponentials of the hierarchical negatives. Logits s are taken relative to the anchor's largest, `peak`.
struct Local {
    /// [C, N]: exp(beta (s - peak)), 0 elsewhere.
    tilted: Tensor,
    /// [C, N]: exp((1 + beta) (s - peak)), 0 elsewhere.
    weighted: Tensor,
    /// [C, 1]
    peak: Tensor,
    /// [C, 1]: sums of `tilted` and of `weighted`.
    sums: [Tensor; 2],
    /// [C, 1]: log |H|.
    log_count: Tensor,
}

/// Q of each (anchor, positive) pair, [C, P].
struct Reweighted {
    log_term: Tensor,
    at_floor: Tensor,
    /// Neither at the floor nor without hierarchical negatives: the term has a derivative.
    live: Tensor,
}

impl Local {
    fn of(logits: &Tensor, hierarchical: &Hierarchical, beta: f64) -> Result<Self> {
        let logits = logits.f_masked_fill(&hierarchical.mask.f_logical_not()?, LOG_ZERO)?;
        let peak = logits.f_amax([1], true)?;
        let peak = peak.f_masked_fill(&peak.f_eq(LOG_ZERO)?, 0.0)?;
        let mut relative = logits.f_sub(&peak)?;
        // 0 * -inf is NaN.
        let tilted = match beta {
            0.0 => hierarchical.mask.f_type_as(&relative)?,
            _ => relative.f_mul_scalar(beta)?.f_exp_()?,
        };
        let weighted = relative.f_exp_()?.f_mul_(&tilted)?;
        let sum = |of: &Tensor| of.f_sum_dim_intlist([1].as_slice(), true, None::<Kind>);
        let sums = [sum(&tilted)?, sum(&weighted)?];
        let log_count = hierarchical.count.f_log()?;
        Ok(Self { tilted, weighted, peak, sums, log_count })
    }

    /// Q_p = max((R - tau_plus |H| exp(s_p)) / (1 - tau_plus), |H| exp(-1 / temperature)).
    fn reweighted(&self, positives: &Tensor, tau_plus: f64, temperature: f64) -> Result<Reweighted> {
        let empty = self.log_count.f_eq(LOG_ZERO)?;
        let [tilted, weighted] = &self.sums;
        // log of R / |H|, a weighted mean. At least one element of each sum is 1.
        let log_mean = weighted.f_div(&tilted.f_clamp_min(1.0)?)?.f_log()?.f_add(&self.peak)?;
        let mut log_term =
            self.log_count.f_add(&log_mean)?.f_sub_scalar((1.0 - tau_plus).ln())?.f_expand_as(positives)?;
        if tau_plus > 0.0 {
            let debiased = positives.f_sub(&log_mean)?.f_add_scalar(tau_plus.ln())?.f_exp()?.f_clamp_max(1.0)?;
            log_term = log_term.f_add(&debiased.f_neg()?.f_log1p()?)?;
        }
        let log_floor = self.log_count.f_sub_scalar(1.0 / temperature)?;
        let live = log_term.f_gt_tensor(&log_floor)?.f_logical_and(&empty.f_logical_not()?)?;
        let at_floor = live.f_logical_or(&empty)?.f_logical_not()?;
        let log_term = log_term.f_maximum(&log_floor)?.f_masked_fill(&empty, LOG_ZERO)?;
        Ok(Reweighted { log_term, at_floor, live })
    }

    /// What Q_p takes from the derivatives by the positive logits, [C, P], and the factors of
    /// `weighted` and `tilted` in those by the hierarchical logits, [C, 1] each.
    fn slopes(
        &self,
        reweighted: &Reweighted,
        positives: &Tensor,
        log_denominators: &Tensor,
        beta: f64,
        tau_plus: f64,
    ) -> Result<(Tensor, [Tensor; 2])> {
        let fixed = reweighted.live.f_logical_not()?;
        let share = |logits: &Tensor| -> Result<Tensor> {
            let exponent = logits.f_add(&self.log_count)?.f_sub(log_denominators)?.f_masked_fill(&fixed, LOG_ZERO)?;
            Ok(exponent.f_exp()?.f_div_scalar(1.0 - tau_plus)?)
        };
        let by_positive = share(positives)?.f_mul_scalar(tau_plus)?;
        let [tilted, weighted] = &self.sums;
        let tilted = tilted.f_clamp_min(1.0)?;
        let kind = positives.f_kind()?;
        let steep = share(&self.peak)?.f_mean_dim([1].as_slice(), true, kind)?.f_div(&tilted)?;
        let flat = steep.f_mul(weighted)?.f_div(&tilted)?.f_mul_scalar(-beta)?;
        Ok((by_positive, [steep.f_mul_scalar(1.0 + beta)?, flat]))
    }
}

fn row_mean(of: &Tensor) -> Result<Tensor> {
    Ok(of.f_mean_dim([1].as_slice(), false, None::<Kind>)?)
}
