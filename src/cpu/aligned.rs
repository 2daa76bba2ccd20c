//! Buffers that begin at a cache line: a register of pixels that lies across two costs twice.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest register.
pub const LINE: usize = 64;

/// A buffer that begins at a cache line.
pub struct Aligned<T> {
    /// Holds up to a line more than is used.
    storage: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` default values.
    pub fn new(len: usize) -> Self {
        let spare = LINE / size_of::<T>();
        let storage = vec![T::default(); len + spare];
        // An offset that cannot be had costs time, not correctness.
        let start = Some(storage.as_ptr().align_offset(LINE)).filter(|&start| start <= spare).unwrap_or(0);
        Self { storage, start, len }
    }

    /// Make it `len` default values if it is shorter.
    pub fn grow(&mut self, len: usize) {
        if self.len < len {
            *self = Self::new(len);
        }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.storage[self.start..][..self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.storage[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_line_and_has_its_length() {
        for len in [0, 1, 16, 1000] {
            let mut buffer = Aligned::<f32>::new(len);
            assert_eq!(buffer.as_ptr().align_offset(LINE), 0);
            assert_eq!(buffer.len(), len);
            buffer.fill(2.0);
            assert!(buffer.iter().all(|&x| x == 2.0));
            buffer.grow(len + 3);
            assert_eq!((buffer.len(), buffer.as_ptr().align_offset(LINE)), (len + 3, 0));
            assert_eq!(Aligned::<f64>::new(len).as_ptr().align_offset(LINE), 0);
        }
    }
}
