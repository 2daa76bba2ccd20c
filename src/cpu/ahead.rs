//! Asking for memory before it is used. A tile reads and writes a row for each class, more rows than the hardware foresees.

use super::aligned::LINE;
use crate::tensor::View;

/// `_MM_HINT_T0` and `_MM_HINT_ET0`: into the first-level cache, to be read or to be written.
const READ: i32 = 3;
const WRITE: i32 = 7;

/// Pixels of the widest machine register.
const REGISTER: isize = 16;

/// Where the pixels that come after a tile lie. Nothing is read or written: any address will do.
#[derive(Clone, Copy)]
pub struct Ahead {
    address: *const u8,
    /// Bytes from the request for one class to that for the next.
    class: isize,
    /// Bytes from one pixel to the next.
    pixel: isize,
}

impl Ahead {
    /// The pixels of the view from `pixel` on, which may be the one behind the last.
    pub fn of(view: &View<'_>, sample: usize, pixel: usize) -> Self {
        let size = view.dtype().size() as isize;
        let [sample_stride, class_stride, pixel_stride] = view.strides;
        // The requests for the classes of a register are then spread over its pixels: all of their lines, each once.
        let pixel_by_pixel = class_stride == 1 && pixel_stride == view.channels as isize;
        let start = (sample as isize * sample_stride).wrapping_add(pixel as isize * pixel_stride);
        Self {
            address: (view.address() as *const u8).wrapping_offset(start.wrapping_mul(size)),
            class: if pixel_by_pixel { REGISTER * size } else { class_stride * size },
            pixel: pixel_stride * size,
        }
    }

    /// Nothing to ask for: memory that is in the cache.
    pub fn nothing<T>(cached: *const T) -> Self {
        Self { address: cached.cast(), class: 0, pixel: 0 }
    }

    #[inline(always)]
    fn at(&self, c: usize, i: usize) -> *const i8 {
        let offset = (c as isize).wrapping_mul(self.class).wrapping_add((i as isize).wrapping_mul(self.pixel));
        self.address.wrapping_offset(offset).cast()
    }

    /// Pixel `i` of class `c` will be read. All classes of a register of pixels are to be asked for.
    #[inline(always)]
    pub fn read(&self, c: usize, i: usize) {
        ask::<READ>(self.at(c, i));
    }

    /// Pixel `i` of class `c` will be written, likewise.
    #[inline(always)]
    pub fn write(&self, c: usize, i: usize) {
        ask::<WRITE>(self.at(c, i));
    }
}

/// The bytes from `address` on will be read.
#[inline(always)]
pub fn read_bytes(address: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(LINE) {
        ask::<READ>(address.wrapping_add(line).cast());
    }
}

#[inline(always)]
fn ask<const HINT: i32>(address: *const i8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing, and SSE is part of the baseline.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<HINT>(address);
    }
    // Elsewhere it has no stable name.
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
