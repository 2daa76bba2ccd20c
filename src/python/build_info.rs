//! `rarepixel.build_info()`.

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// How this extension was built, as a dict of strings: "version", "target", "profile", "opt_level" and "rustc".
///
/// Example:
///     >>> import rarepixel as rp
///     >>> rp.build_info()["version"] == rp.__version__
///     True
#[pyfunction]
pub fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("target", env!("RAREPIXEL_TARGET"))?;
    info.set_item("profile", env!("RAREPIXEL_PROFILE"))?;
    info.set_item("opt_level", env!("RAREPIXEL_OPT_LEVEL"))?;
    info.set_item("rustc", env!("RAREPIXEL_RUSTC"))?;
    Ok(info)
}
