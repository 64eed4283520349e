//! The errors of this crate. Their texts tell the caller what to change.

use std::fmt;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// One of the inputs of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The anchors: the rows of all views, concatenated.
    Anchors,
    /// The keys.
    Keys,
    /// The positives, if they are not among the keys.
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

/// The reason why a row has no direction.
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

/// An error of this crate. The module `python` turns each kind into a Python exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// An argument has the wrong shape, dtype, device, range or value (`ValueError`).
    Value(String),
    /// A row of an input has no direction (`ValueError`). The module `python` names the caller's argument.
    Row {
        /// The input.
        input: Input,
        /// The index of the first such row.
        row: usize,
        /// What is wrong with it.
        fault: RowFault,
    },
    /// torch, CUDA or a compiler failed, or memory for a result does not fit (`RuntimeError`).
    Runtime(String),
    /// They failed for want of memory (`RuntimeError`). Another time there may be enough.
    Memory(String),
}

impl Error {
    /// An error for an argument that is not as expected.
    pub fn value(text: impl Into<String>) -> Self {
        Self::Value(text.into())
    }

    /// An error for a failure that is not the fault of an argument.
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

/// The caller's name for a view: the arguments of the losses are `z1, z2, *more_views`.
pub fn view_name(index: usize) -> String {
    match index {
        0 | 1 => format!("z{}", index + 1),
        _ => format!("more_views[{}]", index - 2),
    }
}
