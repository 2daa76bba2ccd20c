//! New memory, asked for in larger pieces than the pages that it comes in.

use crate::tensor::View;

/// Blocks of at least this size are new to the process each time they are allocated: glibc's allocator keeps smaller ones.
#[cfg(target_os = "linux")]
const NEW_BYTES: usize = 32 << 20;

/// A request for one page is slower than its page fault: jobs of many classes have few pixels.
#[cfg(target_os = "linux")]
const WORTH_A_REQUEST: usize = 2 * 4096;

/// Have the system put memory behind `len` pixels of a large tensor that is about to be written.
///
/// Else each page of 4 KiB is an interruption of its own, and they take longer than all else that is done for the pixels.
#[cfg(target_os = "linux")]
pub fn populate(view: &View<'_>, sample: usize, pixel: usize, len: usize) {
    let size = view.dtype().size();
    if view.samples * view.channels * view.pixels * size < NEW_BYTES || len * size < WORTH_A_REQUEST {
        return;
    }
    let offset = |channel: usize, pixel: usize| {
        let [n, c, s] = view.strides;
        (sample as isize * n + channel as isize * c + pixel as isize * s) * size as isize
    };
    // SAFETY: no memory is touched.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    // Memory that was used before is there, and each request would look at all of its pages. One in the middle has no pixels of others.
    let middle = view.address().wrapping_add_signed(offset(0, pixel + len / 2));
    if is_resident(middle / page * page) {
        return;
    }
    for channel in 0..view.channels {
        let (first, last) = (offset(channel, pixel), offset(channel, pixel + len - 1));
        let start = view.address().wrapping_add_signed(first.min(last)) / page * page;
        let end = view.address().wrapping_add_signed(first.max(last)) + size;
        // SAFETY: every page of the range holds an element of the view or lies between two, in the same block of memory. What is
        // in the pages stays as it is. A system that does not know the request refuses it, and nothing is lost.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_POPULATE_WRITE) };
    }
}

/// Whether there is memory behind the page at `start`.
#[cfg(target_os = "linux")]
fn is_resident(start: usize) -> bool {
    let mut page = 0u8;
    // SAFETY: of the page nothing is touched, and the byte is there for the answer.
    let status = unsafe { libc::mincore(start as *mut libc::c_void, 1, &mut page) };
    status == 0 && page & 1 == 1
}

/// As the system's page faults do.
#[cfg(not(target_os = "linux"))]
pub fn populate(_: &View<'_>, _: usize, _: usize, _: usize) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::tensor::DType;

    /// How many of the pages from `start` on are backed with memory.
    fn resident(start: usize, bytes: usize) -> usize {
        let mut pages = vec![0u8; bytes.div_ceil(4096)];
        // SAFETY: the vector has a byte for each page.
        let status = unsafe { libc::mincore(start as *mut libc::c_void, bytes, pages.as_mut_ptr()) };
        assert_eq!(status, 0);
        pages.iter().map(|page| usize::from(page & 1)).sum()
    }

    /// Linux 5.14 and later know the request.
    fn requests_are_known() -> bool {
        let mut page = vec![0u8; 8192];
        let start = (page.as_mut_ptr() as usize).next_multiple_of(4096);
        // SAFETY: the vector holds the page.
        unsafe { libc::madvise(start as *mut libc::c_void, 4096, libc::MADV_POPULATE_WRITE) == 0 }
    }

    #[test]
    fn the_pixels_are_backed_and_unchanged() {
        let (channels, pixels) = (2, 5 << 20);
        for (shape, strides) in [
            ([1, channels, pixels], [(channels * pixels) as isize, pixels as isize, 1]),
            ([1, channels, pixels], [(channels * pixels) as isize, 1, channels as isize]),
        ] {
            let mut memory = vec![0f32; channels * pixels]; // zeroed by the system, so not there yet
            memory[channels * pixels / 2] = 7.0;
            // SAFETY: the vector has this shape and outlives the view.
            let view = unsafe { View::new(memory.as_mut_ptr().cast(), DType::Float32, &shape, &strides, true) };
            let view = view.expect("one stride");
            let first = view.address().next_multiple_of(4096);
            let before = resident(first, 1 << 20);
            populate(&view, 0, 0, 1 << 20);
            // The first MiB belongs to these pixels in either layout.
            let known = if requests_are_known() { 256 } else { 0 };
            assert_eq!((before, resident(first, 1 << 20)), (0, known));
            populate(&view, 0, pixels - 5, 5);
            populate(&view, 0, pixels, 0);
            assert!(memory.iter().enumerate().all(|(i, &x)| x == if i == channels * pixels / 2 { 7.0 } else { 0.0 }));
        }
    }
}
