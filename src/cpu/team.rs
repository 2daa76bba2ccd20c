//! torch's own OpenMP threads, borrowed.
//!
//! They go on spinning for milliseconds after each of torch's operations, on all cores: threads of our own would have to share the
//! cores with them. On torch's threads there is nothing to share, and those that still spin need no waking.

use std::any::Any;
use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, OnceLock};

/// `GOMP_parallel(fn, data, num_threads, flags)`: call fn(data) on each thread of a team, the caller among them, and wait.
/// GNU's and LLVM's OpenMP libraries both have it: compilers emit calls of it.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

struct Team {
    parallel: Parallel,
    /// OpenMP does not survive a fork: a child would wait for threads that it does not have.
    process: u32,
}

static TEAM: OnceLock<Option<Team>> = OnceLock::new();
/// The process that this library was loaded in.
static LOADED: OnceLock<u32> = OnceLock::new();

/// That process, noted by the first call, which is to be when the library is loaded: torch may have begun its threads by then, and a child
/// that joins it later has none of them.
pub fn loaded() -> u32 {
    *LOADED.get_or_init(std::process::id)
}

/// Use the OpenMP library of the torch that this process has loaded, from now on; whether there is one.
pub fn join_torch() -> bool {
    TEAM.get_or_init(|| Some(Team { parallel: find()?, process: loaded() })).is_some()
}

/// torch's `GOMP_parallel`: looked up by way of torch, since a process may hold several OpenMP libraries.
#[cfg(target_os = "linux")]
fn find() -> Option<Parallel> {
    // SAFETY: both names are C strings. NOLOAD finds only what is loaded, so no initialiser runs; the handle is kept, so the
    // library stays.
    let symbol = unsafe {
        let torch = libc::dlopen(c"libtorch_cpu.so".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if torch.is_null() {
            return None;
        }
        libc::dlsym(torch, c"GOMP_parallel".as_ptr())
    };
    // SAFETY: the name is reserved for the OpenMP runtime, whose binary interface has had this signature since GCC 4.9. A null
    // pointer is `None` of the optional function.
    unsafe { std::mem::transmute::<*mut c_void, Option<Parallel>>(symbol) }
}

#[cfg(not(target_os = "linux"))]
fn find() -> Option<Parallel> {
    None
}

/// Call `work` on up to `threads` of torch's threads, this one among them, and wait; false, and nothing done, where there are none.
pub fn share(threads: usize, work: &(dyn Fn() + Sync)) -> bool {
    let Some(Some(team)) = TEAM.get() else { return false };
    if team.process != std::process::id() {
        return false;
    }
    let call = Call { work, panic: Mutex::new(None) };
    // SAFETY: `member` is called with the address of `call`, on threads that are waited for before this returns, and lets no
    // panic out.
    unsafe { (team.parallel)(member, (&raw const call).cast_mut().cast(), threads as c_uint, 0) };
    if let Some(panic) = call.panic.into_inner().expect("no holder panics") {
        resume_unwind(panic);
    }
    true
}

struct Call<'a> {
    work: &'a (dyn Fn() + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

extern "C" fn member(call: *mut c_void) {
    // SAFETY: `share` passes the address of a `Call`, which outlives the team's work on it.
    let call = unsafe { &*call.cast_const().cast::<Call<'_>>() };
    // A panic must not unwind through C.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call.work)) {
        *call.panic.lock().expect("no holder panics") = Some(panic);
    }
}
