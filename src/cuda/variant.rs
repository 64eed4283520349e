//! What one compilation of the kernels is for.

use super::hopper::Hopper;
use super::Scalar;

/// Largest padded dimension that the kernels take in 16-bit operands; half of it in 32-bit ones.
pub const MAX_DIMS: usize = 512;

/// Files of `kernels/`, one after the other.
macro_rules! joined {
    ($($name:literal)*) => { concat!($(include_str!(concat!("kernels/", $name, ".cu"))),*) };
}

/// All CUDA sources.
pub const SOURCES: &str = joined!(
    "device" "parameters" "tile" "exclude" "rows" "index" "anchors" "finish" "digits" "select" "accumulate" "sums"
    "sums_general" "derivatives" "gradient" "gradient_general" "hopper_device" "hopper" "hopper_sums" "hopper_select"
    "hopper_gradient"
);

/// Kernels that are compiled and loaded together: a call needs some of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Those of every call.
    Common,
    /// Of the adaptive threshold.
    Quantiles,
    /// Of the usual case.
    Sums,
    /// Of the usual case.
    Gradient,
    /// Of any other thresholds, exponents and shifts.
    GeneralSums,
    /// As above.
    GeneralGradient,
    /// For sm_90a, of the variants that have them: no kernels of others.
    Hopper,
}

impl Part {
    /// The part that has a kernel.
    pub fn of(kernel: &str) -> Self {
        match kernel {
            "select" | "sample" | "survivors" | "pick" | "select_failed" => Self::Quantiles,
            "sums" => Self::Sums,
            "gradient" => Self::Gradient,
            "ranges" | "settle_thresholds" | "sums_general" | "maxima" | "settle_shifts" => Self::GeneralSums,
            "gradient_general" => Self::GeneralGradient,
            "tiles" | "note_coefficients" => Self::Hopper,
            name if name.ends_with("_wgmma") => Self::Hopper,
            _ => Self::Common,
        }
    }

    /// What its compilation reads.
    pub fn sources(self) -> &'static str {
        match self {
            Self::Common => joined!("device" "parameters" "tile" "exclude" "rows" "index" "anchors" "finish"),
            Self::Quantiles => joined!("device" "parameters" "tile" "exclude" "digits" "select"),
            Self::Sums => joined!("device" "parameters" "tile" "exclude" "accumulate" "sums"),
            Self::Gradient => joined!("device" "parameters" "tile" "exclude" "derivatives" "gradient"),
            Self::GeneralSums => joined!("device" "parameters" "tile" "exclude" "accumulate" "sums_general"),
            Self::GeneralGradient => joined!("device" "parameters" "tile" "exclude" "derivatives" "gradient_general"),
            Self::Hopper => joined!(
                "device" "parameters" "tile" "exclude" "digits" "accumulate" "derivatives" "hopper_device" "hopper"
                "hopper_sums" "hopper_select" "hopper_gradient"
            ),
        }
    }
}

/// What the tensor cores multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operand {
    /// bfloat16 rows as they come.
    Bf16,
    /// float16 rows as they come.
    F16,
    /// float32 rows, rounded to tf32.
    Tf32,
    /// float32 rows, split in two tf32 numbers: three products, and float32's accuracy.
    SplitTf32,
}

impl Operand {
    /// What multiplies rows of a type; none for float64.
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

    /// The name that the sources know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::Tf32 => "TF32",
            Self::SplitTf32 => "SPLIT_TF32",
        }
    }
}

/// One compilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variant {
    /// Dimensions, padded to a multiple of 32.
    pub dims: usize,
    /// The operand.
    pub operand: Operand,
    /// With the kernels for sm_90a, and for that architecture alone.
    pub hopper: Option<Hopper>,
}

impl Variant {
    /// For rows of `dims` numbers.
    pub fn new(dims: usize, operand: Operand) -> Self {
        Self { dims: Self::padded(dims), operand, hopper: None }
    }

    /// The dimensions of rows of `dims` numbers in the kernels' memory.
    pub fn padded(dims: usize) -> usize {
        dims.next_multiple_of(32)
    }

    /// What tells it from others of the same dimensions, such as "BF16" or "BF16_WGMMA".
    pub fn name(&self) -> String {
        format!("{}{}", self.operand.name(), if self.hopper.is_some() { "_WGMMA" } else { "" })
    }

    /// Bytes of a row in the kernels' memory.
    pub fn row_bytes(&self) -> usize {
        self.dims * self.operand.bytes()
    }

    /// The compiler's options, besides the architecture's.
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
        for part in [Common, Quantiles, Sums, Gradient, GeneralSums, GeneralGradient, Hopper] {
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
