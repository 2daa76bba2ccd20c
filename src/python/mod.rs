//! The Python module `rarepixel._core`: the only code that names PyO3.

mod build_info;
mod cuda;
mod error;
mod exchange;
mod loss;
mod memory;
mod metrics;
mod tensor;
mod xbd;

use pyo3::pymodule;

#[pymodule]
mod _core {
    use numpy::PyArray1;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::cpu::team::loaded();
        // The first array loads NumPy's own interface, which must not meet a Ctrl-C that is waiting.
        PyArray1::<u8>::zeros(module.py(), 0, false);
        Ok(())
    }

    #[pymodule_export]
    use super::build_info::build_info;
    #[pymodule_export]
    use super::cuda::{
        cuda_cache, cuda_class_counts, cuda_compile, cuda_devices, cuda_driver, cuda_loss_backward, cuda_loss_forward,
        cuda_nvrtc, cuda_owed, cuda_resize, cuda_use_nvrtc, cuda_workspace,
    };
    #[pymodule_export]
    use super::exchange::read_tensors_by;
    #[pymodule_export]
    use super::loss::{
        Labels, PyLossSpec, class_counts, default_threads, folds, join_torch, loss_backward, loss_finish, loss_forward,
        resize_labels,
    };
    #[pymodule_export]
    use super::memory::{free_idle_memory, idle_memory, kept_like};
    #[pymodule_export]
    use super::metrics::{confusion_matrix, cuda_confusion_matrix};
    #[pymodule_export]
    use super::xbd::{
        XBDFeed, XBDRun, xbd_check, xbd_count_pixels, xbd_index, xbd_pack, xbd_rasterize_label, xbd_read_image,
        xbd_read_label, xbd_read_target, xbd_synthesize, xbd_write_targets,
    };
}
