//! What can go wrong, in words the caller can act on.

use std::fmt;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// One of the inputs of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The anchors, all views one below the other.
    Anchors,
    /// The keys.
    Keys,
    /// The positives given apart.
    Positives,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anchors => "anchors",
            Self::Keys => "keys",
            Self::Positives => "positives",
        })
    }
}

/// Why a row has no direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFault {
    /// It has a NaN or an infinity.
    NonFinite,
    /// All its elements are zero.
    Zero,
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NonFinite => "has a NaN or an infinity",
            Self::Zero => "is all zeros",
        })
    }
}

/// An error of the kernel. The border turns each kind into one Python exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// An argument has the wrong shape, dtype, device, range or value (`ValueError`).
    Value(String),
    /// A row of an input has no direction (`ValueError`). The border knows the input's name.
    Row {
        /// The input.
        input: Input,
        /// The first such row.
        row: usize,
        /// What is wrong with it.
        fault: RowFault,
    },
    /// libtorch or CUDA failed (`RuntimeError`).
    Runtime(String),
    /// They failed for want of memory (`RuntimeError`). Another time there may be enough.
    Memory(String),
}

impl Error {
    /// An argument that is not what was expected.
    pub fn value(text: impl Into<String>) -> Self {
        Self::Value(text.into())
    }

    /// A failure below this crate.
    pub fn runtime(text: impl Into<String>) -> Self {
        Self::Runtime(text.into())
    }

    /// The same failure below this crate, in more words.
    pub(crate) fn with(self, more: &str) -> Self {
        match self {
            Self::Runtime(text) => Self::Runtime(text + more),
            Self::Memory(text) => Self::Memory(text + more),
            other => other,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(text) | Self::Runtime(text) | Self::Memory(text) => f.write_str(text),
            Self::Row { input, row, fault } => {
                write!(f, "expected rows of finite numbers, not all zero, but row {row} of `{input}` {fault}")
            }
        }
    }
}

impl std::error::Error for Error {}

/// What the caller calls a view: the losses' arguments are `z1, z2, *more_views`.
pub fn view_name(index: usize) -> String {
    match index {
        0 | 1 => format!("z{}", index + 1),
        _ => format!("more_views[{}]", index - 2),
    }
}
