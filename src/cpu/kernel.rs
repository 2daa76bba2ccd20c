//! The loss and its gradient over one tile, a register of pixels at a time.

mod hard;
mod label;
mod soft;

use std::marker::PhantomData;

use super::ahead::Ahead;
use super::aligned::Aligned;
use super::simd::{Element, InstructionSet, MAX_LANES, REGISTER_LANES, Vector, Work};
use crate::loss::spec::PixelLoss;

/// Pixels in class-major order: class c of pixel i is at `logits + c * logits_stride + i`.
#[derive(Clone, Copy)]
pub struct Tile<T> {
    /// Pixels; a multiple of [`MAX_LANES`].
    pub len: usize,
    /// (C, len).
    pub logits: *const T,
    /// Elements from one class to the next.
    pub logits_stride: isize,
    /// (len): class indices, or -1 where the pixel is ignored.
    pub labels: *const T,
    /// (C, len), for soft targets only.
    pub soft: *const T,
    /// Elements from one class to the next.
    pub soft_stride: isize,
    /// (C, len): where dL/dlogits goes. It may be the memory of the logits: pixels are read before they are written.
    pub gradient: *mut T,
    /// Elements from one class to the next.
    pub gradient_stride: isize,
    /// (len): where the loss of each pixel goes, or null.
    pub loss: *mut T,
    /// (len): the incoming gradient of each pixel, or null.
    pub incoming: *const T,
    /// The logits after these.
    pub next_logits: Ahead,
    /// Where the gradient after this goes.
    pub next_gradient: Ahead,
    /// Whether the gradient goes past the cache; it then begins at a cache line in each class.
    pub streams: bool,
}

/// What a kernel needs beside the pixels.
#[derive(Clone, Default)]
pub struct Params<T> {
    /// C.
    pub classes: usize,
    /// The pixel term.
    pub pixel: Option<PixelLoss>,
    /// w_c.
    pub weight: Vec<T>,
    /// sum_c w_c.
    pub weight_sum: f64,
    /// The factor before each pixel's gradient.
    pub factor: f64,
    /// The region term's dR/dp_c = a_c y_c + b_c: a_c + b_c for class-index targets, a_c for soft ones.
    pub region_target: Vec<T>,
    /// b_c.
    pub region: Vec<T>,
}

/// Sums over pixels, lane by lane, so that their order is fixed.
pub struct LaneSums {
    /// The pixel loss.
    pub loss: [f64; REGISTER_LANES],
    /// I_c for each class, then P_c, then (soft targets) T_c.
    pub classes: Vec<[f64; REGISTER_LANES]>,
}

impl LaneSums {
    /// All zero, with `parts` sums for each class.
    pub fn new(classes: usize, parts: usize) -> Self {
        Self { loss: [0.0; REGISTER_LANES], classes: vec![[0.0; REGISTER_LANES]; parts * classes] }
    }

    /// The sums over the lanes, the pixel loss first; what is left is zero.
    pub fn take(&mut self) -> Vec<f64> {
        let all = std::iter::once(&mut self.loss).chain(&mut self.classes);
        all.map(|lanes| std::mem::take(lanes).iter().sum()).collect()
    }
}

/// Which of its work a kernel does; each combination that is used is compiled by itself.
pub trait Mode {
    /// Add to the sums.
    const REDUCE: bool;
    /// Write the gradient.
    const GRADIENT: bool;
    /// There is a pixel term.
    const PIXEL: bool;
    /// There is a region term.
    const REGION: bool;
    /// The gradient's memory keeps the exponentials from the reducing pass to the other one: see `hard/kept.rs`.
    const KEEPS: bool;
    /// They are to be kept.
    const KEEP: bool = Self::REDUCE && Self::KEEPS;
    /// They were kept.
    const KEPT: bool = Self::GRADIENT && Self::KEEPS;
}

/// Buffers of registers of pixels for each class: for a group of registers, and two for sums.
pub struct Banks<T>(Aligned<T>, usize);

impl<T: Element> Banks<T> {
    /// For `classes` classes, on any instruction set.
    pub fn new(classes: usize) -> Self {
        Self(Aligned::new((hard::GROUP + 2) * classes * MAX_LANES), classes * MAX_LANES)
    }
}

/// One of the buffers: a register for each class. It stays in the first-level cache, which measured as fast as registers.
struct Bank<'a, T>(&'a mut [T]);

impl<T> Bank<'_, T> {
    /// The `r`th of the parts that hold a register for each of `classes` classes.
    #[inline(always)]
    fn part<V: Vector<Element = T>>(&mut self, r: usize, classes: usize) -> Bank<'_, T> {
        let length = classes * V::LANES;
        Bank(&mut self.0[r * length..][..length])
    }
    #[inline(always)]
    fn get<V: Vector<Element = T>>(&self, c: usize) -> V {
        debug_assert!((c + 1) * V::LANES <= self.0.len());
        // SAFETY: a bank holds MAX_LANES elements for each class.
        unsafe { V::load(self.0.as_ptr().add(c * V::LANES)) }
    }
    #[inline(always)]
    fn set<V: Vector<Element = T>>(&mut self, c: usize, value: V) {
        debug_assert!((c + 1) * V::LANES <= self.0.len());
        // SAFETY: as above.
        unsafe { value.store(self.0.as_mut_ptr().add(c * V::LANES)) }
    }
}

/// The loss, its sums and its gradient over a tile, on the instruction set.
///
/// # Safety
/// The tile's pointers must be valid for what `M` reads and writes of them, for `tile.len` pixels of `params.classes` classes.
pub unsafe fn run<T: Element, M: Mode>(
    set: InstructionSet,
    tile: &Tile<T>,
    params: &Params<T>,
    sums: &mut LaneSums,
    banks: &mut Banks<T>,
) {
    let kernel = Kernel::<T, M> { tile, params, sums, banks, mode: PhantomData };
    T::dispatch(set, kernel);
}

struct Kernel<'a, T, M> {
    tile: &'a Tile<T>,
    params: &'a Params<T>,
    sums: &'a mut LaneSums,
    banks: &'a mut Banks<T>,
    mode: PhantomData<M>,
}

impl<T: Element, M: Mode> Work<T> for Kernel<'_, T, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let Banks(buffer, length) = self.banks;
        let (e, rest) = buffer.split_at_mut(hard::GROUP * *length);
        let (intersection, prediction) = rest.split_at_mut(*length);
        // SAFETY: the promise of the caller of `run`, the only one to make this.
        unsafe {
            if self.tile.soft.is_null() {
                let banks = [Bank(e), Bank(intersection), Bank(prediction)];
                hard::run::<V, M>(self.tile, self.params, self.sums, banks);
            } else {
                soft::run::<V, M>(self.tile, self.params, self.sums, Bank(e));
            }
        }
    }
}
