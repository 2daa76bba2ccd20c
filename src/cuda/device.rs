//! Devices, the kernels loaded on them, and launches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::{ctx, device};
use cudarc::driver::sys::{
    CUcontext, CUdevice_attribute, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
    CUresult, CUstream, CUstreamCaptureStatus, cuLaunchKernelEx, cuStreamIsCapturing,
};
use cudarc::driver::{CudaContext, CudaFunction, DeviceRepr};
use cudarc::nvrtc::Ptx;

use super::cache;
use super::compile::Architecture;
use super::library::{self, driver_error};
use super::variant::Variant;
use crate::Result;

/// A device with the primary context that torch uses too.
pub struct Device {
    context: Arc<CudaContext>,
    architecture: Architecture,
    multiprocessors: u32,
    /// Whether there is [`Start::Early`].
    starts_early: bool,
    kernels: Mutex<HashMap<Variant, Arc<Kernel>>>,
}

/// A loaded variant.
pub struct Kernel {
    /// In the order of `Source::entries`.
    functions: Vec<CudaFunction>,
    /// Threads a block.
    threads: u32,
    /// Blocks of the first function that the device holds at a time.
    resident: u32,
}

impl Kernel {
    /// Blocks for each of `rows` rows of so many pixels: enough to fill the device once, and no more than there is work for. It depends
    /// on shapes and the model of GPU alone, so sums are added up in the same order on every run.
    pub fn blocks(&self, variant: &Variant, pixels: usize, rows: usize) -> usize {
        pixels.div_ceil(variant.pixels_a_block()).min((self.resident as usize).div_ceil(rows)).max(1)
    }
}

/// What the driver says of an image that it does not take.
const REFUSED: [CUresult; 5] = [
    CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
    CUresult::CUDA_ERROR_INVALID_IMAGE,
    CUresult::CUDA_ERROR_INVALID_SOURCE,
    CUresult::CUDA_ERROR_INVALID_PTX,
    CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
];
/// What it says where nothing can be loaded since a graph is being captured.
const CAPTURES: [CUresult; 2] =
    [CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED];

/// When a kernel may start.
#[derive(Clone, Copy, PartialEq)]
pub enum Start {
    /// When all before it on its stream is done.
    InOrder,
    /// When all blocks of the kernel before it have called `let_kernel_behind_start`, where the device can do that; in order in a CUDA graph.
    Early,
}

/// Makes the thread's current context what it was before: torch relies on it.
struct Restore(Option<CUcontext>);

impl Restore {
    fn new() -> Result<Self> {
        Ok(Self(ctx::get_current().map_err(driver_error("cannot ask for the current context"))?))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // SAFETY: the context was current when this began, so it is one, or null: none.
        let _ = unsafe { ctx::set_current(self.0.unwrap_or(std::ptr::null_mut())) };
    }
}

/// Devices in use, by ordinal. They stay for the life of the process, as torch's contexts do.
static DEVICES: Mutex<Vec<(usize, Arc<Device>)>> = Mutex::new(Vec::new());

impl Device {
    /// The device of that ordinal. The first call for it looks for the driver and asks for the device's facts.
    pub fn get(ordinal: usize) -> Result<Arc<Self>> {
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, device)) = devices.iter().find(|(number, _)| *number == ordinal) {
            return Ok(device.clone());
        }
        let driver = library::driver()?;
        let _restore = Restore::new()?;
        let context = CudaContext::new(ordinal).map_err(driver_error(format!("cannot use device {ordinal}")))?;
        let doing = format!("cannot ask for the facts of device {ordinal}");
        let (major, minor) = context.compute_capability().map_err(driver_error(&doing))?;
        let multiprocessors = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(multiprocessors).map_err(driver_error(&doing))?;
        let architecture = Architecture::for_device(10 * major + minor)?;
        let device = Arc::new(Self {
            context,
            architecture,
            multiprocessors: multiprocessors.max(1) as u32,
            // The hardware's since 9.0, if kernels are compiled for that: others do not wait. CUDA graphs record such a launch since 12.3.
            starts_early: architecture.number() >= 90 && driver >= (12, 3),
            kernels: Mutex::default(),
        });
        devices.push((ordinal, device.clone()));
        Ok(device)
    }

    /// The loaded kernel of that variant: compiled, or read from the cache, when it is first asked for.
    pub fn kernel(&self, variant: &Variant) -> Result<Arc<Kernel>> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(variant) {
            return Ok(kernel.clone());
        }
        let _restore = Restore::new()?;
        let kernel = Arc::new(self.load(variant)?);
        kernels.insert(*variant, kernel.clone());
        Ok(kernel)
    }

    fn load(&self, variant: &Variant) -> Result<Kernel> {
        let load = |architecture, fresh| {
            let image = cache::image(variant, architecture, fresh)?;
            Ok(self.context.load_module(Ptx::from_binary(image)))
        };
        let mut module = load(self.architecture, false)?;
        if matches!(&module, Err(error) if REFUSED.contains(&error.0)) {
            // An entry of the cache that is whole but not what this driver takes.
            module = load(self.architecture, true)?;
        }
        if matches!(&module, Err(error) if error.0 == CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU) {
            module = load(self.architecture.ptx(), false)?;
        }
        let module = module.map_err(|error| {
            let help = if CAPTURES.contains(&error.0) { " (call it once before a CUDA graph is captured)" } else { "" };
            driver_error(format!("cannot load {variant:?}{help}"))(error)
        })?;
        let function =
            |name: &&str| module.load_function(name).map_err(driver_error(format!("cannot find the kernel {name}")));
        let functions = variant.source.entries().iter().map(function).collect::<Result<Vec<_>>>()?;
        let resident = functions[0]
            .occupancy_max_active_blocks_per_multiprocessor(variant.threads, 0, None)
            .map_err(driver_error("cannot ask for the occupancy of a kernel"))?;
        Ok(Kernel { functions, threads: variant.threads, resident: resident.max(1) * self.multiprocessors })
    }

    /// Put a kernel on a stream of this device: `entry` counts `Source::entries`.
    ///
    /// # Safety
    /// `arguments` must be what the kernel declares, its pointers valid on the device for all that the kernel reads and writes until
    /// it has run, and `stream` a stream of this device or 0. One that starts early calls `wait_for_kernel_before` before it touches memory.
    pub unsafe fn launch<A: DeviceRepr>(
        &self,
        kernel: &Kernel,
        entry: usize,
        stream: u64,
        blocks: u32,
        arguments: &A,
        start: Start,
    ) -> Result<()> {
        let failed = || driver_error("cannot launch a kernel");
        let _restore = Restore::new()?;
        self.context.bind_to_thread().map_err(failed())?;
        let mut early = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: kernel.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream as CUstream,
            attrs: &raw mut early,
            numAttrs: u32::from(start == Start::Early && self.starts_early && !is_capturing(stream)),
        };
        let mut parameters = [std::ptr::from_ref(arguments).cast_mut().cast()];
        let function = kernel.functions[entry].cu_function();
        // SAFETY: the caller vouches for stream and arguments, which the driver copies; configuration and attribute outlive the call, and the
        // block has the number of threads that the kernel was compiled for.
        unsafe { cuLaunchKernelEx(&raw const config, function, parameters.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(failed())
    }
}

/// Whether launches on the stream become part of a CUDA graph. What walks through one may not know edges of an early start: an allocator of
/// torch's loses the graph over them.
fn is_capturing(stream: u64) -> bool {
    let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the caller's promise of the stream; the driver writes the status.
    let result = unsafe { cuStreamIsCapturing(stream as CUstream, &raw mut status) };
    result != CUresult::CUDA_SUCCESS || status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE
}

/// What the driver says of each device: name and compute capability.
pub fn describe() -> Result<Vec<(String, (i32, i32))>> {
    library::driver()?;
    let count = device::get_count().map_err(driver_error("cannot count the devices"))?;
    (0..count)
        .map(|ordinal| {
            let failed = || driver_error(format!("cannot ask for the facts of device {ordinal}"));
            let device = device::get(ordinal).map_err(failed())?;
            let name = device::get_name(device).map_err(failed())?;
            // SAFETY: the driver has just given the device.
            let attribute = |which| unsafe { device::get_attribute(device, which) }.map_err(failed());
            let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            Ok((name, (major, minor)))
        })
        .collect()
}
