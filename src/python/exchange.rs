//! DLPack's exchange interface: by it newer versions of torch say where a tensor lies, and take memory of ours, without a call of Python.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyType};

use crate::cpu::blocks::Block;
use crate::tensor::DType;

/// The version that the structures below are of; minor ones add at their ends.
const MAJOR: u32 = 1;

/// `DLTensor`: a tensor of somebody else.
#[repr(C)]
struct DLTensor {
    data: *mut c_void,
    device: [i32; 2],
    ndim: i32,
    /// `DLDataType`: the kind of number, its bits, how many stand side by side.
    code: u8,
    bits: u8,
    lanes: u16,
    /// (ndim).
    shape: *const i64,
    /// (ndim), in elements.
    strides: *const i64,
    byte_offset: u64,
}

impl Default for DLTensor {
    fn default() -> Self {
        let (shape, strides) = (std::ptr::null(), std::ptr::null());
        let (data, device) = (std::ptr::null_mut(), [0; 2]);
        Self { data, device, ndim: 0, code: 0, bits: 0, lanes: 0, shape, strides, byte_offset: 0 }
    }
}

/// The numbers that we read, as `code`, `bits` and `lanes`.
const DTYPES: [((u8, u8, u16), DType); 8] = [
    ((2, 32, 1), DType::Float32),
    ((2, 64, 1), DType::Float64),
    ((2, 16, 1), DType::Float16),
    ((4, 16, 1), DType::BFloat16),
    ((1, 8, 1), DType::UInt8),
    ((0, 16, 1), DType::Int16),
    ((0, 32, 1), DType::Int32),
    ((0, 64, 1), DType::Int64),
];
/// `kDLCPU`, and its only device.
const CPU: [i32; 2] = [1, 0];

/// `DLManagedTensorVersioned`: a tensor that is handed over.
#[repr(C)]
struct Managed {
    version: [u32; 2],
    /// For the deleter.
    context: *mut c_void,
    /// Called once by the one who has it, when he needs it no more.
    deleter: extern "C" fn(*mut Managed),
    flags: u64,
    tensor: DLTensor,
}

/// `DLPackExchangeAPIHeader`.
#[repr(C)]
struct Header {
    major: u32,
    minor: u32,
    previous: *const Header,
}

/// `DLPackExchangeAPI`.
#[repr(C)]
struct Exchange {
    header: Header,
    /// Functions that are of no use here.
    others: [*const c_void; 2],
    /// Make a tensor of the library's own on the memory, and write a new reference to it; not 0 with a Python error, and then the memory is
    /// not handed over.
    take_over: unsafe extern "C" fn(*mut Managed, *mut *mut ffi::PyObject) -> c_int,
    /// Fill the structure from a tensor, which stays the owner of all that it points to; not 0 with a Python error.
    describe: Option<unsafe extern "C" fn(*mut c_void, *mut DLTensor) -> c_int>,
}

struct Reader {
    /// What it can read.
    tensor: Py<PyType>,
    describe: unsafe extern "C" fn(*mut c_void, *mut DLTensor) -> c_int,
    take_over: unsafe extern "C" fn(*mut Managed, *mut *mut ffi::PyObject) -> c_int,
}

static READER: OnceLock<Reader> = OnceLock::new();

/// Read tensors of that type by the interface in the capsule, from now on; whether we know the interface.
#[pyfunction]
pub fn read_tensors_by(tensor: Py<PyType>, exchange: &Bound<'_, PyCapsule>) -> PyResult<bool> {
    let pointer: NonNull<c_void> = exchange.pointer_checked(Some(c"dlpack_exchange_api"))?;
    let header: NonNull<Header> = pointer.cast();
    // SAFETY: what a capsule of this name holds begins with this header in every version, and lives as long as the process.
    if unsafe { header.as_ref() }.major != MAJOR {
        return Ok(false);
    }
    // SAFETY: of this version, it is this structure.
    let exchange = unsafe { header.cast::<Exchange>().as_ref() };
    let Some(describe) = exchange.describe else { return Ok(false) };
    READER.get_or_init(|| Reader { tensor, describe, take_over: exchange.take_over });
    Ok(true)
}

/// Address, dtype, shape and strides in elements; none where the interface does not serve: for another type of object or of number.
pub fn described(object: Borrowed<'_, '_, PyAny>) -> Option<(usize, DType, Vec<usize>, Vec<isize>)> {
    let reader = READER.get()?;
    let mut tensor = DLTensor::default();
    // SAFETY: both are live, and the GIL is held. The function takes objects of this type alone.
    let failed = unsafe {
        if ffi::PyType_IsSubtype(ffi::Py_TYPE(object.as_ptr()), reader.tensor.as_ptr().cast()) == 0 {
            return None;
        }
        (reader.describe)(object.as_ptr().cast(), &raw mut tensor) != 0
    };
    if failed {
        drop(PyErr::take(object.py()));
        return None;
    }
    let (_, dtype) = DTYPES.into_iter().find(|(number, _)| *number == (tensor.code, tensor.bits, tensor.lanes))?;
    let numbers = |from: *const i64| match NonNull::new(from.cast_mut()) {
        // SAFETY: the tensor, which the caller holds, has this many.
        Some(from) => unsafe { std::slice::from_raw_parts(from.as_ptr(), tensor.ndim as usize) },
        None => &[],
    };
    let shape = numbers(tensor.shape).iter().map(|&size| size as usize).collect();
    let strides = numbers(tensor.strides).iter().map(|&stride| stride as isize).collect();
    Some((tensor.data as usize + tensor.byte_offset as usize, dtype, shape, strides))
}

/// A tensor on the CPU for torch to own, in memory that an earlier one has left, of `shape` and with `strides`, in elements, that fill it; what
/// is in it is not known. None where torch has no such interface.
pub fn kept(py: Python<'_>, dtype: DType, shape: Vec<i64>, strides: Vec<i64>) -> PyResult<Option<Py<PyAny>>> {
    let Some(reader) = READER.get() else { return Ok(None) };
    let size = shape.iter().product::<i64>() as usize * dtype.size();
    let Some(block) = Block::of(size) else { return Ok(None) };
    let ((code, bits, lanes), _) = DTYPES.into_iter().find(|(_, one)| *one == dtype).expect("all are there");
    let owned = Box::into_raw(Box::new(Owned {
        managed: Managed {
            version: [MAJOR, 0],
            context: std::ptr::null_mut(),
            deleter: release,
            flags: 0,
            tensor: DLTensor {
                data: block.address().as_ptr().cast(),
                device: CPU,
                ndim: shape.len() as i32,
                code,
                bits,
                lanes,
                shape: shape.as_ptr(),
                strides: strides.as_ptr(),
                byte_offset: 0,
            },
        },
        _block: block,
        _dimensions: [shape, strides],
    }));
    let mut tensor = std::ptr::null_mut();
    // SAFETY: the structure, whose first field this is, and all it points to live until the deleter is called, which is once, if the call
    // succeeds.
    let failed = unsafe { (reader.take_over)(owned.cast(), &raw mut tensor) != 0 };
    if failed {
        release(owned.cast());
        return Err(PyErr::fetch(py));
    }
    // SAFETY: the call succeeded and gave a new reference.
    Ok(Some(unsafe { Bound::from_owned_ptr(py, tensor) }.unbind()))
}

/// What is handed over, and behind it what it lies on.
#[repr(C)]
struct Owned {
    managed: Managed,
    _block: Block,
    _dimensions: [Vec<i64>; 2],
}

/// On any thread, with or without the GIL.
extern "C" fn release(managed: *mut Managed) {
    // SAFETY: only `kept` names this function, for a box of that type whose pointer it gave away; it is called once.
    drop(unsafe { Box::from_raw(managed.cast::<Owned>()) });
}
