//! NVRTC, the compiler of the kernels: the library that Python names, which is torch's own, else what the library path leads to. (cudarc
//! would take the library path's first, which may be of a CUDA that the driver does not know.)

use std::ffi::{c_char, c_int};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cudarc::nvrtc::result::NvrtcError;
use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};
use libloading::Library;

use super::library::cuda;
use crate::{Error, Result};

/// What the library is called on the library path.
const NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
};
/// Older ones do not know all that the kernels ask for, nor the architectures whose launches rely on it.
const OLDEST: (i32, i32) = (12, 1);

macro_rules! functions {
    ($($field:ident: $symbol:literal ($($argument:ty),*);)*) => {
        /// The functions of the library that the crate calls.
        pub struct Functions {
            $(
                #[doc = $symbol]
                pub $field: unsafe extern "C" fn($($argument),*) -> nvrtcResult,
            )*
        }

        impl Functions {
            fn of(library: &Library) -> Result<Self> {
                Ok(Self {
                    // SAFETY: the symbol of that name has this type in every version of NVRTC.
                    $($field: *unsafe { library.get($symbol) }.map_err(|_| too_old(format!("has no {}", $symbol)))?,)*
                })
            }
        }
    };
}
functions! {
    version: "nvrtcVersion" (*mut c_int, *mut c_int);
    number_of_architectures: "nvrtcGetNumSupportedArchs" (*mut c_int);
    architectures: "nvrtcGetSupportedArchs" (*mut c_int);
    create: "nvrtcCreateProgram" (
        *mut nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
    );
    compile: "nvrtcCompileProgram" (nvrtcProgram, c_int, *const *const c_char);
    destroy: "nvrtcDestroyProgram" (*mut nvrtcProgram);
    log_size: "nvrtcGetProgramLogSize" (nvrtcProgram, *mut usize);
    log: "nvrtcGetProgramLog" (nvrtcProgram, *mut c_char);
    cubin_size: "nvrtcGetCUBINSize" (nvrtcProgram, *mut usize);
    cubin: "nvrtcGetCUBIN" (nvrtcProgram, *mut c_char);
    ptx_size: "nvrtcGetPTXSize" (nvrtcProgram, *mut usize);
    ptx: "nvrtcGetPTX" (nvrtcProgram, *mut c_char);
}

/// A library in use.
pub struct Nvrtc {
    /// (major, minor).
    pub version: (i32, i32),
    /// What it compiles for, such as 90 for sm_90.
    pub architectures: Vec<i32>,
    /// Its path, or its name on the library path.
    pub place: String,
    /// What it does.
    pub functions: Functions,
    /// Not unloaded, since the functions are its.
    _library: Library,
}

/// The one in use, for the life of the process.
static IN_USE: Mutex<Option<&'static Nvrtc>> = Mutex::new(None);

/// NVRTC: that of an earlier call, else that of the library path.
pub fn nvrtc() -> Result<&'static Nvrtc> {
    in_use(|| {
        let help = "it comes with CUDA builds of torch, or as the package nvidia-cuda-nvrtc";
        let missing = format!("NVRTC, the compiler of the kernels, was not found (libnvrtc.so.13 or .12): {help}");
        let mut found = Err(cuda(missing));
        // An old one is no reason not to look for another.
        for name in NAMES {
            let Ok(library) = load(name.as_ref()) else { continue };
            found = Nvrtc::of(library, (*name).to_owned());
            if found.is_ok() {
                break;
            }
        }
        found
    })
}

/// Use the library at `path` from now on, if none is in use yet.
pub fn use_nvrtc(path: &Path) -> Result<()> {
    in_use(|| {
        let library = load(path).map_err(|error| cuda(format!("NVRTC cannot be loaded: {error}")))?;
        Nvrtc::of(library, path.display().to_string())
    })
    .map(drop)
}

fn in_use(make: impl FnOnce() -> Result<Nvrtc>) -> Result<&'static Nvrtc> {
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(nvrtc) = *in_use {
        return Ok(nvrtc);
    }
    let nvrtc = Box::leak(Box::new(make()?));
    *in_use = Some(nvrtc);
    Ok(nvrtc)
}

fn load(path: &Path) -> std::result::Result<Library, libloading::Error> {
    // SAFETY: NVRTC's initialisers have no preconditions.
    unsafe { Library::new(path) }
}

impl Nvrtc {
    fn of(library: Library, place: String) -> Result<Self> {
        let functions = Functions::of(&library)?;
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: NVRTC writes two integers.
        check("cannot ask its version", unsafe { (functions.version)(&raw mut major, &raw mut minor) })?;
        if (major, minor) < OLDEST {
            return Err(too_old(format!("is {major}.{minor} ({place})")));
        }
        // SAFETY: it writes one integer.
        check("cannot list architectures", unsafe { (functions.number_of_architectures)(&raw mut count) })?;
        let mut architectures = vec![0; count.max(0) as usize];
        // SAFETY: it writes as many integers as it has just announced.
        check("cannot list architectures", unsafe { (functions.architectures)(architectures.as_mut_ptr()) })?;
        Ok(Self { version: (major, minor), architectures, place, functions, _library: library })
    }
}

fn too_old(problem: String) -> Error {
    cuda(format!("NVRTC {problem}: {}.{} or newer is needed", OLDEST.0, OLDEST.1))
}

/// The error of a call, with what was being done.
pub fn check(doing: impl std::fmt::Display, result: nvrtcResult) -> Result<()> {
    result.result().map_err(|error: NvrtcError| cuda(format!("NVRTC: {doing}: {error}")))
}
