//! Rows of numbers in borrowed memory, without any tensor type.

use std::marker::PhantomData;

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

/// The inputs of one evaluation. Lengths must be those of the [`Problem`](crate::problem::Problem).
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, E> {
    /// The anchors: one matrix, or several that stand one below the other (the views).
    pub anchors: &'a [Rows<'a, E>],
    /// The keys; none where the problem is square.
    pub keys: Option<Rows<'a, E>>,
    /// Each anchor's positive, for `Pairing::Apart`.
    pub positives: Option<Rows<'a, E>>,
    /// [anchors, positives] rows of the keys, for `Pairing::Indexed`; else empty.
    pub positive_index: &'a [i64],
    /// [anchors] row of the keys to leave out, -1 for none, for `Pairing::Indexed`; may be empty.
    pub ignored_index: &'a [i64],
    /// [anchors] labels, for `Threshold::Labels`; else empty.
    pub anchor_labels: &'a [i64],
    /// [keys] labels, for `Threshold::Labels` where the problem is not square; else empty.
    pub key_labels: &'a [i64],
    /// [anchors] weights: the loss is the sum of weight times anchor's loss, whatever the reduction.
    pub weights: Option<&'a [f64]>,
}
