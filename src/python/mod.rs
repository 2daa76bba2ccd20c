//! The Python module `rarepixel._core`: the only code that names PyO3.

mod build_info;
mod error;
mod loss;
mod metrics;
mod tensor;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::build_info::build_info;
    #[pymodule_export]
    use super::loss::{PyLossSpec, folds, loss_backward, loss_forward};
    #[pymodule_export]
    use super::metrics::confusion_matrix;
}
