//! Memory of large gradients, kept from one step to the next.
//!
//! The C library gives large blocks back to the system when they are freed, always from 32 MiB on and now and then below that, and the
//! next one comes page by page, each cleared by the system first: several times the work of the loss itself.

use std::alloc::{Layout, alloc, dealloc};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Mutex;

/// A block begins at a page.
const PAGE: usize = 4096;
/// Large ones at a huge page, of which they consist where the system has them: each page of a block is looked up once a pass.
const HUGE_PAGE: usize = 2 << 20;
/// How many lie idle at most: gradients and labels of the maps of a multi-scale loss.
const IDLE_BLOCKS: usize = 16;
/// How much lies idle at most.
const IDLE_BYTES: usize = 1 << 30;

/// Memory of its own; what is in it is not known. When it is dropped, it lies idle until the next one who asks for such a size.
pub struct Block(ManuallyDrop<Memory>);

impl Block {
    /// A block of `size` bytes or somewhat more; none where there is not as much memory.
    pub fn of(size: usize) -> Option<Self> {
        IDLE.take(size).or_else(|| Memory::new(size)).map(|memory| Self(ManuallyDrop::new(memory)))
    }

    /// Where it begins.
    pub fn address(&self) -> NonNull<u8> {
        self.0.address
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it is not used after this.
        IDLE.give(unsafe { ManuallyDrop::take(&mut self.0) });
    }
}

/// The sizes of the blocks that lie idle, those that have waited longest first.
pub fn idle() -> Vec<usize> {
    IDLE.sizes()
}

/// Give those back to the system.
pub fn free_idle() {
    IDLE.clear();
}

struct Memory {
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: nobody else has the memory, and any thread may free it.
unsafe impl Send for Memory {}
// SAFETY: a shared one tells its address and no more.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(size: usize) -> Option<Self> {
        let large = size >= 2 * HUGE_PAGE;
        let layout = Layout::from_size_align(size.max(1), if large { HUGE_PAGE } else { PAGE }).ok()?;
        // SAFETY: the size is not 0.
        let address = NonNull::new(unsafe { alloc(layout) })?;
        #[cfg(target_os = "linux")]
        if large {
            // SAFETY: it is advice about memory of our own. A system without huge pages refuses it, and nothing is lost.
            unsafe { libc::madvise(address.as_ptr().cast(), size / HUGE_PAGE * HUGE_PAGE, libc::MADV_HUGEPAGE) };
        }
        Some(Self { address, layout })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated like this.
        unsafe { dealloc(self.address.as_ptr(), self.layout) };
    }
}

static IDLE: Idle = Idle(Mutex::new(Vec::new()));

/// The one that came last is the last, and the first to go out again: it may still be in the cache.
///
/// Nobody waits for the lock: in a forked child it may be held for ever.
struct Idle(Mutex<Vec<Memory>>);

impl Idle {
    fn take(&self, size: usize) -> Option<Memory> {
        let fits = |memory: &Memory| (size..=size + size / 4).contains(&memory.layout.size());
        let mut idle = self.0.try_lock().ok()?;
        let at = idle.iter().rposition(fits)?;
        Some(idle.remove(at))
    }

    fn give(&self, memory: Memory) {
        let Ok(mut idle) = self.0.try_lock() else { return };
        idle.push(memory);
        let mut bytes: usize = idle.iter().map(|memory| memory.layout.size()).sum();
        while idle.len() > IDLE_BLOCKS || bytes > IDLE_BYTES {
            bytes -= idle.remove(0).layout.size();
        }
    }

    fn sizes(&self) -> Vec<usize> {
        self.0.try_lock().map_or_else(|_| Vec::new(), |idle| idle.iter().map(|memory| memory.layout.size()).collect())
    }

    fn clear(&self) {
        if let Ok(mut idle) = self.0.try_lock() {
            idle.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back() {
        let idle = Idle(Mutex::new(Vec::new()));
        let sizes: Vec<usize> = (0..IDLE_BLOCKS + 2).map(|i| (1 << 20) + (i << 19)).collect();
        let blocks: Vec<Memory> = sizes.iter().map(|&size| Memory::new(size).expect("memory")).collect();
        let address = blocks.last().expect("some").address;
        blocks.into_iter().for_each(|memory| idle.give(memory));
        assert_eq!(idle.sizes(), sizes[2..], "the first ones made room");
        let largest = idle.take(sizes[IDLE_BLOCKS + 1] - 1000).expect("it is there");
        assert_eq!((largest.address, idle.sizes()), (address, sizes[2..=IDLE_BLOCKS].to_vec()));
        assert!(idle.take(1 << 19).is_none(), "the others are too large for it");
        assert!(idle.take(1 << 30).is_none(), "or too small");
        idle.clear();
        assert!(idle.sizes().is_empty());
    }

    #[test]
    fn what_is_idle_has_bounds() {
        let idle = Idle(Mutex::new(Vec::new()));
        // Not touched, so the system has nothing to give.
        let half = || Memory::new(IDLE_BYTES / 2).expect("addresses");
        (0..3).for_each(|_| idle.give(half()));
        assert_eq!(idle.sizes(), [IDLE_BYTES / 2; 2]);
        idle.give(Memory::new(IDLE_BYTES + 1).expect("addresses"));
        assert!(idle.sizes().is_empty(), "too much by itself");
    }

    #[test]
    fn large_memory_begins_at_a_huge_page() {
        let begins = |size| Memory::new(size).expect("memory").address.as_ptr() as usize;
        assert!(begins(2 * HUGE_PAGE).is_multiple_of(HUGE_PAGE) && begins(1).is_multiple_of(PAGE));
        assert!(Memory::new(isize::MAX as usize).is_none());
    }
}
