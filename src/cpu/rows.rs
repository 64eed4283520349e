//! Rows of numbers in borrowed memory, without any tensor type.

use std::marker::PhantomData;

use crate::operands::Operands;

/// A strided [rows, dims] matrix in somebody else's memory.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a, E> {
    pointer: *const E,
    rows: usize,
    dims: usize,
    row_stride: isize,
    dim_stride: isize,
    memory: PhantomData<&'a [E]>,
}

// SAFETY: a `Rows` only reads, and borrows what it reads for 'a, as `&[E]` does.
unsafe impl<E: Sync> Send for Rows<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Sync> Sync for Rows<'_, E> {}

impl<'a, E: Copy> Rows<'a, E> {
    /// A view of `rows` rows of `dims` elements, strides in elements.
    ///
    /// # Safety
    /// Each `pointer + row * row_stride + dim * dim_stride` must be readable for
    /// `'a`, and nobody may write there meanwhile.
    pub unsafe fn from_raw(pointer: *const E, rows: usize, dims: usize, row_stride: isize, dim_stride: isize) -> Self {
        Self { pointer, rows, dims, row_stride, dim_stride, memory: PhantomData }
    }

    /// A view of contiguous rows; elements beyond the last whole row are left out.
    pub fn from_slice(data: &'a [E], dims: usize) -> Self {
        let rows = data.len().checked_div(dims).unwrap_or(0);
        Self { pointer: data.as_ptr(), rows, dims, row_stride: dims as isize, dim_stride: 1, memory: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of elements of a row.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// A row whose elements are neighbours.
    #[inline(always)]
    pub(super) fn contiguous(&self, row: usize) -> Option<&'a [E]> {
        assert!(row < self.rows);
        // SAFETY: in range, readable by `from_raw`'s contract, and the elements are neighbours.
        (self.dim_stride == 1).then(|| unsafe {
            std::slice::from_raw_parts(self.pointer.offset(row as isize * self.row_stride), self.dims)
        })
    }

    /// One element.
    #[inline(always)]
    pub(super) fn get(&self, row: usize, dim: usize) -> E {
        assert!(row < self.rows && dim < self.dims);
        // SAFETY: in range, readable by `from_raw`'s contract.
        unsafe { *self.pointer.offset(row as isize * self.row_stride + dim as isize * self.dim_stride) }
    }
}

/// The operands in borrowed memory. Their shapes must be those of the [`Problem`](crate::problem::Problem), and their
/// indices rows of the keys: [`Operands::check`] sees to both.
pub type BorrowedOperands<'a, E> = Operands<Rows<'a, E>, &'a [i64], f64, &'a [f64]>;
