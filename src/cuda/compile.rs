//! NVRTC: from the embedded sources to a kernel image.

use std::ffi::CString;

use cudarc::nvrtc::{result, sys};

use super::library::{self, nvrtc_error};
use super::variant::{Sizes, Source, Variant};
use crate::{Error, Result};

/// Each source with its name for messages, in the order of compilation.
fn sources(variant: &Variant) -> Vec<(&'static str, &'static str)> {
    macro_rules! texts {
        ($($name:literal)*) => { vec![$(($name, include_str!(concat!("kernels/", $name)))),*] };
    }
    // What a loss needs besides its pass.
    let with = |last: Vec<(&'static str, &'static str)>| {
        let mut list = texts!["number.cuh" "pass.cuh" "softmax.cuh"];
        match variant.sizes {
            Sizes::Equal if variant.label.is_some() => {}
            Sizes::Equal => list.extend(texts!["shares.cuh"]),
            Sizes::Area => list.extend(texts!["window.cuh" "shares.cuh"]),
            Sizes::Upsampled => list.extend(texts!["axis.cuh"]),
        }
        list.extend(last);
        list
    };
    match variant.source {
        Source::Reduce => with(texts!["pixels.cuh" "reduce.cu"]),
        Source::Gradient if variant.sizes == Sizes::Upsampled => with(texts!["slope.cuh" "upsampled_gradient.cu"]),
        Source::Gradient => with(texts!["pixels.cuh" "slope.cuh" "gradient.cu"]),
        Source::Confusion => texts!["number.cuh" "pass.cuh" "confusion.cu"],
        Source::Resize => texts!["number.cuh" "pass.cuh" "window.cuh" "resize.cu"],
        Source::Finish => texts!["number.cuh" "finish.cu"],
    }
}

/// All sources of a kernel as one text: NVRTC needs no include path.
pub fn source_text(variant: &Variant) -> String {
    sources(variant).into_iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}\n")).collect()
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Machine code for one architecture, such as 90 for sm_90.
    Cubin(i32),
    /// PTX, which the driver compiles: where the device is newer than NVRTC.
    Ptx(i32),
}

impl Architecture {
    /// For a device of that compute capability: machine code if this NVRTC knows the device, else the newest PTX that runs there.
    pub fn for_device(capability: i32) -> Result<Self> {
        let known = library::architectures()?;
        if known.contains(&capability) {
            return Ok(Self::Cubin(capability));
        }
        match known.iter().copied().filter(|&architecture| architecture < capability).max() {
            Some(architecture) => Ok(Self::Ptx(architecture)),
            None => {
                let lowest = known.iter().copied().min().unwrap_or_default();
                Err(Error::Cuda(format!(
                    "CUDA: the device has compute capability {}.{}, but this NVRTC compiles for {}.{} and newer",
                    capability / 10,
                    capability % 10,
                    lowest / 10,
                    lowest % 10
                )))
            }
        }
    }

    /// PTX for the same device.
    pub fn ptx(self) -> Self {
        let (Self::Cubin(architecture) | Self::Ptx(architecture)) = self;
        Self::Ptx(architecture)
    }
}

/// The options for a variant, of that version of NVRTC.
pub fn options(variant: &Variant, architecture: Architecture, nvrtc: (i32, i32)) -> Vec<String> {
    let mut options = vec![
        match architecture {
            Architecture::Cubin(number) => format!("--gpu-architecture=sm_{number}"),
            Architecture::Ptx(number) => format!("--gpu-architecture=compute_{number}"),
        },
        "--std=c++17".to_owned(),
        // NVRTC before 13.2 holds some generic lambdas of a kernel for host code.
        "-default-device".to_owned(),
        "--ptxas-options=--verbose".to_owned(),
    ];
    if nvrtc >= (12, 9) {
        // Since then NVRTC keeps what it compiled in the driver's cache, without its log. `cache` is the one that users know of.
        options.push("--no-cache".to_owned());
    }
    options.extend(variant.definitions().into_iter().map(|definition| format!("--define-macro={definition}")));
    options
}

/// A program of NVRTC, destroyed with its owner.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the handle came from nvrtcCreateProgram and is destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Read something of which NVRTC first tells the size.
fn read(
    program: &Program,
    what: &str,
    size_of: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
    copy: unsafe fn(sys::nvrtcProgram, *mut std::ffi::c_char) -> sys::nvrtcResult,
) -> Result<Vec<u8>> {
    let mut size = 0;
    // SAFETY: the program lives; NVRTC writes the size.
    unsafe { size_of(program.0, &mut size) }.result().map_err(nvrtc_error(what))?;
    let mut bytes = vec![0u8; size];
    // SAFETY: the buffer has the size that NVRTC has just announced.
    unsafe { copy(program.0, bytes.as_mut_ptr().cast()) }.result().map_err(nvrtc_error(what))?;
    Ok(bytes)
}

/// A compiled kernel and what the compiler said about it (registers and memory, for cubins).
pub struct Compiled {
    /// A cubin, or PTX with its final zero byte.
    pub image: Vec<u8>,
    /// NVRTC's log.
    pub log: String,
}

/// Compile a variant.
pub fn compile(variant: &Variant, architecture: Architecture) -> Result<Compiled> {
    let nvrtc = library::nvrtc()?;
    let text = CString::new(source_text(variant)).expect("the sources have no zero byte");
    let program =
        Program(result::create_program(&text, Some(c"rarepixel.cu")).map_err(nvrtc_error("cannot create a program"))?);
    // SAFETY: the program was just created.
    let status = unsafe { result::compile_program(program.0, &options(variant, architecture, nvrtc)) };
    let log = read(&program, "cannot read the log", sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog)?;
    let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
    status.map_err(nvrtc_error(format!("cannot compile {variant:?} for {architecture:?}: {log}")))?;
    let image = match architecture {
        Architecture::Cubin(_) => read(&program, "cannot read the cubin", sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)?,
        Architecture::Ptx(_) => read(&program, "cannot read the PTX", sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)?,
    };
    Ok(Compiled { image, log })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cache_is_enough() {
        let given = |nvrtc| options(&Variant::finish(crate::tensor::DType::Float32), Architecture::Cubin(90), nvrtc);
        assert!(!given((12, 8)).contains(&"--no-cache".to_owned())); // it does not know the option
        for newer in [(12, 9), (13, 0)] {
            assert!(given(newer).contains(&"--no-cache".to_owned()));
        }
    }
}
