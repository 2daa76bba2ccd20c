//! The two libraries that CUDA needs, found when they are first used: the driver and NVRTC. Missing, too old or broken ones
//! become errors that say what is missing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cudarc::driver::result::DriverError;
use cudarc::nvrtc::result::NvrtcError;
use cudarc::{driver, nvrtc};

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
    "cuGetErrorName",
    "cuGetErrorString",
];
/// The same for NVRTC.
const NVRTC_SYMBOLS: &[&str] = &[
    "nvrtcVersion",
    "nvrtcGetNumSupportedArchs",
    "nvrtcGetSupportedArchs",
    "nvrtcCreateProgram",
    "nvrtcCompileProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetProgramLogSize",
    "nvrtcGetProgramLog",
    "nvrtcGetCUBINSize",
    "nvrtcGetCUBIN",
    "nvrtcGetPTXSize",
    "nvrtcGetPTX",
];

/// An error that ends with where to look.
fn cuda(problem: impl std::fmt::Display) -> Error {
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

/// An error of NVRTC, with what was being done.
pub fn nvrtc_error(doing: impl std::fmt::Display) -> impl FnOnce(NvrtcError) -> Error {
    move |error| cuda(format!("NVRTC: {doing}: {error}"))
}

/// Run `action`; a panic (of cudarc, for a library that it cannot use) becomes an error.
fn guarded<T>(library: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it cannot be used");
        Err(cuda(format!("{library} is broken: {text}")))
    })
}

/// The version of the driver, as (major, minor), once it is initialised.
pub fn driver() -> Result<(i32, i32)> {
    guarded("the CUDA driver library (libcuda)", || {
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

/// The version of NVRTC, as (major, minor).
pub fn nvrtc() -> Result<(i32, i32)> {
    guarded("NVRTC (libnvrtc)", || {
        // SAFETY: loading NVRTC runs its initialisers, which have no preconditions.
        if !unsafe { nvrtc::sys::is_culib_present() } {
            let help = "it comes with CUDA builds of torch, or as the package nvidia-cuda-nvrtc";
            return Err(cuda(format!(
                "NVRTC, the compiler of the kernels, was not found (libnvrtc.so.13 or .12): {help}"
            )));
        }
        for name in NVRTC_SYMBOLS {
            // SAFETY: as above.
            if unsafe { nvrtc::sys::culib().get::<*const ()>(name.as_bytes()) }.is_err() {
                return Err(cuda(format!("NVRTC has no {name}: 11.2 or newer is needed")));
            }
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: NVRTC writes two integers.
        unsafe { nvrtc::sys::nvrtcVersion(&mut major, &mut minor) }
            .result()
            .map_err(nvrtc_error("cannot ask its version"))?;
        Ok((major, minor))
    })
}

/// The architectures that this NVRTC compiles for, such as 90 for sm_90.
pub fn architectures() -> Result<Vec<i32>> {
    nvrtc()?;
    let mut count = 0;
    // SAFETY: NVRTC writes one integer.
    unsafe { nvrtc::sys::nvrtcGetNumSupportedArchs(&mut count) }
        .result()
        .map_err(nvrtc_error("cannot list architectures"))?;
    let mut list = vec![0; count.max(0) as usize];
    // SAFETY: NVRTC writes as many integers as it has just announced.
    unsafe { nvrtc::sys::nvrtcGetSupportedArchs(list.as_mut_ptr()) }
        .result()
        .map_err(nvrtc_error("cannot list architectures"))?;
    Ok(list)
}
