//! The driver's library, found when it is first used. A missing, too old or broken one becomes an error that says what is missing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cudarc::driver::{self, result::DriverError};

use crate::{Error, Result};

/// What this module's errors end with.
const HELP: &str = "`rarepixel doctor` shows what was found where";

/// Driver functions that the crate calls; cudarc panics where one is missing.
const DRIVER_SYMBOLS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags",
    "cuLaunchKernelEx",
    "cuStreamIsCapturing",
    "cuGetErrorName",
    "cuGetErrorString",
];
/// An error that ends with where to look.
pub fn cuda(problem: impl std::fmt::Display) -> Error {
    Error::Cuda(format!("{problem}; {HELP}"))
}

/// An error of the driver, with what was being done.
pub fn driver_error(doing: impl std::fmt::Display) -> impl FnOnce(DriverError) -> Error {
    move |error| {
        let name =
            error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned());
        let text = error.error_string().map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned());
        cuda(format!("CUDA: {doing}: {name}: {text}"))
    }
}

/// Run `action`; a panic (of cudarc, for a library that it cannot use) becomes an error.
fn guarded<T>(action: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it cannot be used");
        Err(cuda(format!("the CUDA driver library (libcuda) is broken: {text}")))
    })
}

/// The version of the driver, as (major, minor), once it is initialised.
pub fn driver() -> Result<(i32, i32)> {
    guarded(|| {
        // SAFETY: loading the driver library runs its initialisers, which is what any CUDA program does.
        if !unsafe { driver::sys::is_culib_present() } {
            return Err(cuda("the CUDA driver library (libcuda.so.1) was not found: is an NVIDIA driver installed?"));
        }
        for name in DRIVER_SYMBOLS {
            // SAFETY: only whether the symbol is there is asked; it is not called through this type.
            if unsafe { driver::sys::culib().get::<*const ()>(name.as_bytes()) }.is_err() {
                return Err(cuda(format!(
                    "the CUDA driver library has no {name}: the driver is too old, or not NVIDIA's"
                )));
            }
        }
        driver::result::init().map_err(driver_error("cannot initialise the driver"))?;
        let mut version = 0;
        // SAFETY: the driver writes one integer.
        unsafe { driver::sys::cuDriverGetVersion(&mut version) }
            .result()
            .map_err(driver_error("cannot ask the driver's version"))?;
        Ok((version / 1000, version % 1000 / 10))
    })
}
