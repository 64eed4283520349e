//! The variants of the kernels, and the parts that are compiled together.

use super::hopper::Hopper;
use super::Scalar;

/// The largest padded dimension of 16-bit rows. Half of it is that of 32-bit rows.
pub const MAX_DIMS: usize = 512;

/// Joins files of `kernels/`.
macro_rules! joined {
    ($($name:literal)*) => { concat!($(include_str!(concat!("kernels/", $name, ".cu"))),*) };
}

/// The sources of all kernels.
pub const SOURCES: &str = joined!(
    "device" "parameters" "hopper_tiles" "tile" "exclude" "elements" "rows" "index" "anchors" "finish" "digits" "select"
    "lists" "joint" "total" "accumulate" "sums" "sums_general" "derivatives" "gradient" "gradient_general"
    "hopper_device" "hopper" "hopper_sums" "hopper_select" "hopper_joint" "hopper_gradient"
);

/// Kernels that are compiled and loaded together. A call needs some of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// For every call.
    Common,
    /// For the adaptive threshold.
    Quantiles,
    /// One pass for the adaptive threshold and the sums.
    Joint,
    /// The sums in the usual case.
    Sums,
    /// The gradient in the usual case.
    Gradient,
    /// The sums for any thresholds, exponents and shifts.
    GeneralSums,
    /// The gradient for any thresholds, exponents and shifts.
    GeneralGradient,
    /// The kernels for sm_90a, for variants that have them.
    Hopper,
}

impl Part {
    /// The part that has a kernel.
    pub fn of(kernel: &str) -> Self {
        match kernel {
            "select" | "sample" | "survivors" | "pick" | "select_failed" => Self::Quantiles,
            "sift" | "gather" | "settle" | "total_similarity" => Self::Joint,
            "sums" => Self::Sums,
            "gradient" => Self::Gradient,
            "ranges" | "closest_positives" | "settle_thresholds" | "sums_general" | "maxima" | "settle_shifts" => {
                Self::GeneralSums
            }
            "gradient_general" => Self::GeneralGradient,
            "note_coefficients" => Self::Hopper,
            name if name.ends_with("_wgmma") => Self::Hopper,
            _ => Self::Common,
        }
    }

    /// The sources of its compilation.
    pub fn sources(self) -> &'static str {
        match self {
            Self::Common => {
                joined!(
                    "device" "parameters" "hopper_tiles" "tile" "exclude" "elements" "rows" "index" "anchors" "finish"
                )
            }
            Self::Quantiles => joined!("device" "parameters" "tile" "exclude" "digits" "select"),
            Self::Joint => joined!("device" "parameters" "tile" "exclude" "elements" "digits" "lists" "joint" "total"),
            Self::Sums => joined!("device" "parameters" "tile" "exclude" "accumulate" "sums"),
            Self::Gradient => joined!("device" "parameters" "tile" "exclude" "derivatives" "gradient"),
            Self::GeneralSums => joined!("device" "parameters" "tile" "exclude" "accumulate" "sums_general"),
            Self::GeneralGradient => joined!("device" "parameters" "tile" "exclude" "derivatives" "gradient_general"),
            Self::Hopper => joined!(
                "device" "parameters" "hopper_tiles" "tile" "exclude" "digits" "lists" "accumulate" "derivatives"
                "hopper_device" "hopper" "hopper_sums" "hopper_select" "hopper_joint" "hopper_gradient"
            ),
        }
    }
}

/// The numbers that the tensor cores multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operand {
    /// bfloat16 rows.
    Bf16,
    /// float16 rows.
    F16,
    /// float32 rows, rounded to tf32.
    Tf32,
    /// float32 rows, each number split into two tf32 numbers. This takes three products, and keeps nearly the accuracy
    /// of float32.
    SplitTf32,
}

impl Operand {
    /// The operand for rows of a dtype. None for float64.
    pub fn of(scalar: Scalar, allow_tf32: bool) -> Option<Self> {
        match scalar {
            Scalar::Bf16 => Some(Self::Bf16),
            Scalar::F16 => Some(Self::F16),
            Scalar::F32 if allow_tf32 => Some(Self::Tf32),
            Scalar::F32 => Some(Self::SplitTf32),
            Scalar::F64 => None,
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::Tf32 | Self::SplitTf32 => 4,
        }
    }

    /// The name in the sources.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::Tf32 => "TF32",
            Self::SplitTf32 => "SPLIT_TF32",
        }
    }
}

/// A variant of the kernels, which is compiled by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variant {
    /// Dimensions, padded to a multiple of 32.
    pub dims: usize,
    /// The operand.
    pub operand: Operand,
    /// The sizes of the kernels for sm_90a. If given, the variant is only for this architecture.
    pub hopper: Option<Hopper>,
}

impl Variant {
    /// The variant for rows of `dims` numbers.
    pub fn new(dims: usize, operand: Operand) -> Self {
        Self { dims: Self::padded(dims), operand, hopper: None }
    }

    /// `dims`, padded for the scratch memory.
    pub fn padded(dims: usize) -> usize {
        dims.next_multiple_of(32)
    }

    /// A name that is unique among the variants of the same dimensions, such as "BF16" or "BF16_WGMMA".
    pub fn name(&self) -> String {
        format!("{}{}", self.operand.name(), if self.hopper.is_some() { "_WGMMA" } else { "" })
    }

    /// Bytes of a row in the scratch memory.
    pub fn row_bytes(&self) -> usize {
        self.dims * self.operand.bytes()
    }

    /// The options of the compiler, except for the architecture.
    pub fn options(&self) -> Vec<String> {
        let mut options =
            vec![format!("-DDIMS={}", self.dims), format!("-DOPERAND={}", self.operand.name()), "-std=c++17".into()];
        options.extend(self.hopper.iter().flat_map(Hopper::options));
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the kernels in a text.
    fn kernels(sources: &str) -> Vec<&str> {
        let lines = sources.lines().filter(|line| line.starts_with("KERNEL("));
        lines.filter_map(|line| line.split_once(") ")?.1.split('(').next()).collect()
    }

    #[test]
    fn each_kernel_is_in_one_part() {
        use Part::*;
        let mut found = Vec::new();
        for part in [Common, Quantiles, Joint, Sums, Gradient, GeneralSums, GeneralGradient, Hopper] {
            let here = kernels(part.sources());
            assert!(here.iter().all(|kernel| Part::of(kernel) == part), "{part:?} has {here:?}");
            found.extend(here);
        }
        let mut all = kernels(SOURCES);
        found.sort_unstable();
        all.sort_unstable();
        assert_eq!(found, all);
        assert!(all.len() > 20);
    }
}
