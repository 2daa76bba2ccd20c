//! NVRTC: from the embedded sources to a kernel image.

use std::ffi::{CStr, CString, c_char, c_int};

use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};

use super::nvrtc::{Functions, check, nvrtc};
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
        Source::Reduce => with(texts!["stage.cuh" "pixels.cuh" "reduce.cu"]),
        Source::Gradient if variant.sizes == Sizes::Upsampled => with(texts!["slope.cuh" "upsampled_gradient.cu"]),
        Source::Gradient => with(texts!["stage.cuh" "pixels.cuh" "slope.cuh" "gradient.cu"]),
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
        let known = &nvrtc()?.architectures;
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
        Self::Ptx(self.number())
    }

    /// Which one kernels are compiled for: what they may use.
    pub fn number(self) -> i32 {
        let (Self::Cubin(number) | Self::Ptx(number)) = self;
        number
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
struct Program {
    program: nvrtcProgram,
    functions: &'static Functions,
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the handle came from nvrtcCreateProgram and is destroyed once.
        let _ = unsafe { (self.functions.destroy)(&raw mut self.program) };
    }
}

impl Program {
    /// Of that text.
    fn new(text: &CStr, functions: &'static Functions) -> Result<Self> {
        let (mut program, none) = (std::ptr::null_mut(), std::ptr::null());
        // SAFETY: text and name are C strings, which NVRTC copies; there are no headers.
        let result =
            unsafe { (functions.create)(&raw mut program, text.as_ptr(), c"rarepixel.cu".as_ptr(), 0, none, none) };
        check("cannot create a program", result)?;
        Ok(Self { program, functions })
    }

    /// Compile it; NVRTC's verdict, about which its log says more.
    fn compile(&self, options: Vec<String>) -> nvrtcResult {
        let options: Vec<CString> =
            options.into_iter().map(|option| CString::new(option).expect("no option has a zero byte")).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program lives, and so do the options, as many C strings as are announced.
        unsafe { (self.functions.compile)(self.program, pointers.len() as c_int, pointers.as_ptr()) }
    }

    /// Something of which NVRTC first tells the size.
    fn read(
        &self,
        what: &str,
        size_of: unsafe extern "C" fn(nvrtcProgram, *mut usize) -> nvrtcResult,
        copy: unsafe extern "C" fn(nvrtcProgram, *mut c_char) -> nvrtcResult,
    ) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: the program lives; NVRTC writes the size.
        check(what, unsafe { size_of(self.program, &raw mut size) })?;
        let mut bytes = vec![0u8; size];
        // SAFETY: the buffer has the size that NVRTC has just announced.
        check(what, unsafe { copy(self.program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
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
    let nvrtc = nvrtc()?;
    let text = CString::new(source_text(variant)).expect("the sources have no zero byte");
    let program = Program::new(&text, &nvrtc.functions)?;
    let verdict = program.compile(options(variant, architecture, nvrtc.version));
    let log = program.read("cannot read the log", nvrtc.functions.log_size, nvrtc.functions.log)?;
    let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
    check(format!("cannot compile {variant:?} for {architecture:?}: {log}"), verdict)?;
    let image = match architecture {
        Architecture::Cubin(_) => {
            program.read("cannot read the cubin", nvrtc.functions.cubin_size, nvrtc.functions.cubin)?
        }
        Architecture::Ptx(_) => program.read("cannot read the PTX", nvrtc.functions.ptx_size, nvrtc.functions.ptx)?,
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
