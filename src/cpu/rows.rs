//! Rows of numbers in borrowed memory.

use std::marker::PhantomData;

use crate::operands::Operands;

/// A strided matrix [rows, dims] in borrowed memory.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a, E> {
    pointer: *const E,
    rows: usize,
    dims: usize,
    row_stride: isize,
    dim_stride: isize,
    memory: PhantomData<&'a [E]>,
}

// SAFETY: `Rows` only reads, and it borrows its memory for 'a, like `&[E]`.
unsafe impl<E: Sync> Send for Rows<'_, E> {}
// SAFETY: As above.
unsafe impl<E: Sync> Sync for Rows<'_, E> {}

impl<'a, E: Copy> Rows<'a, E> {
    /// A view of `rows` rows of `dims` elements. The strides are in elements.
    ///
    /// # Safety
    /// Each `pointer + row * row_stride + dim * dim_stride` must be the aligned address of an initialised element in the
    /// same allocation, and readable for `'a`. Nothing may write to these elements during `'a`.
    pub unsafe fn from_raw(pointer: *const E, rows: usize, dims: usize, row_stride: isize, dim_stride: isize) -> Self {
        Self { pointer, rows, dims, row_stride, dim_stride, memory: PhantomData }
    }

    /// A view of contiguous rows. Elements after the last whole row are ignored.
    pub fn from_slice(data: &'a [E], dims: usize) -> Self {
        let rows = data.len().checked_div(dims).unwrap_or(0);
        Self { pointer: data.as_ptr(), rows, dims, row_stride: dims as isize, dim_stride: 1, memory: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of elements in a row.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// A row as a slice, if its elements are contiguous.
    #[inline(always)]
    pub(super) fn contiguous(&self, row: usize) -> Option<&'a [E]> {
        assert!(row < self.rows);
        // SAFETY: The row is in range, so its elements are readable by the contract of `from_raw`. With stride 1 they
        // are contiguous.
        (self.dim_stride == 1).then(|| unsafe {
            std::slice::from_raw_parts(self.pointer.offset(row as isize * self.row_stride), self.dims)
        })
    }

    /// One element.
    #[inline(always)]
    pub(super) fn get(&self, row: usize, dim: usize) -> E {
        assert!(row < self.rows && dim < self.dims);
        // SAFETY: The element is in range, so it is readable by the contract of `from_raw`.
        unsafe { *self.pointer.offset(row as isize * self.row_stride + dim as isize * self.dim_stride) }
    }
}

/// The operands in borrowed memory. Their shapes must fit the [`Problem`](crate::problem::Problem), and their indices
/// must be rows of the keys. [`Operands::check`] checks both.
pub type BorrowedOperands<'a, E> = Operands<Rows<'a, E>, &'a [i64], f64, &'a [f64]>;
