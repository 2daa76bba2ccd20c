//! Memory of the size that a file's header asks for: where it is too much, an error of the file and not the end of the process.

use std::path::Path;

use ndarray::{Array, Dimension, IntoDimension};

use crate::memory::{self, Number};
use crate::{Error, Result};

/// An empty vector with room for `count` times `size` bytes; `path` is for the error.
pub(super) fn reserve(path: &Path, count: usize, size: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reserved = count.checked_mul(size).is_some_and(|length| bytes.try_reserve_exact(length).is_ok());
    if reserved { Ok(bytes) } else { Err(too_large(path, &[count, size])) }
}

/// A vector of zeros; `path` is for the error. Pages that are not touched take no memory, as with `vec![0; length]`.
pub(super) fn zeroed<T: Number>(path: &Path, length: usize) -> Result<Vec<T>> {
    memory::zeros(length).ok_or_else(|| too_large(path, &[length]))
}

/// As [`zeroed`], an array.
pub(super) fn zeros<T: Number, S: IntoDimension>(path: &Path, shape: S) -> Result<Array<T, S::Dim>> {
    let shape = shape.into_dimension();
    let length = shape.slice().iter().try_fold(1usize, |length, &side| length.checked_mul(side));
    let values = length.and_then(memory::zeros).ok_or_else(|| too_large(path, shape.slice()))?;
    Ok(Array::from_shape_vec(shape, values).expect("as many as the shape has"))
}

fn too_large(path: &Path, shape: &[usize]) -> Error {
    let shape = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
    Error::file(
        path,
        format!("there is no memory for {shape} values: expected a smaller image, or a smaller max_pixels"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_memory_can_hold_is_an_error_that_names_the_file() {
        let path = Path::new("d/image.png");
        let message = |shape| {
            format!(
                "d/image.png: there is no memory for {shape} values: expected a smaller image, or a smaller max_pixels"
            )
        };
        let side = 1 << 30;
        assert_eq!(
            zeros::<f32, _>(path, (3, side, side)).unwrap_err().to_string(),
            message("3 x 1073741824 x 1073741824")
        );
        assert_eq!(zeros::<u8, _>(path, (side, side)).unwrap_err().to_string(), message("1073741824 x 1073741824"));
        assert_eq!(
            zeros::<u8, _>(path, (side * side, side)).unwrap_err().to_string(),
            message("1152921504606846976 x 1073741824")
        );
        assert_eq!(
            reserve(path, side * side, side).unwrap_err().to_string(),
            message("1152921504606846976 x 1073741824")
        );
        assert_eq!(zeros::<u8, _>(path, (2, 0)).unwrap().dim(), (2, 0));
        assert_eq!(zeros::<f32, _>(path, (2, 3)).unwrap(), ndarray::Array2::<f32>::zeros((2, 3)));
        assert_eq!(zeroed::<u8>(path, usize::MAX).unwrap_err().to_string(), message("18446744073709551615"));
        assert_eq!(zeroed::<u8>(path, 3).unwrap(), [0; 3]);
        assert!(reserve(path, 7, 3).unwrap().capacity() >= 21);
    }
}
