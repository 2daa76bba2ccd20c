//! Work on many files at once, with news of each on the calling thread.
//!
//! Scoped threads rather than [`crate::cpu::pool`], which takes the calling thread for work: here it stays free to draw
//! progress and to see Ctrl-C, and work that takes milliseconds a piece does not mind the start of a thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::cpu::pool::default_threads;
use crate::{Error, Result};

/// Runs `work` for 0..count on every core and gives each result to `done` on this thread, in the order of finishing.
///
/// The first error seen, of either, ends the run; work already begun is finished first. Where the system refuses threads, those
/// that it has given do the work, or else this thread.
pub fn for_each_index<T: Send, E: From<Error>>(
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
    done: impl FnMut(T) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    for_each_index_on(default_threads().min(count), |_| thread::Builder::new(), count, work, done)
}

fn for_each_index_on<T: Send, E: From<Error>>(
    threads: usize,
    builder: impl Fn(usize) -> thread::Builder,
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
    mut done: impl FnMut(T) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let mut started = 0;
        for index in 0..threads {
            let (sender, next, work) = (sender.clone(), &next, &work);
            let spawned = builder(index).spawn_scoped(scope, move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count || sender.send(work(index)).is_err() {
                        break;
                    }
                }
            });
            if spawned.is_err() {
                break;
            }
            started += 1;
        }
        if started == 0 {
            return (0..count).try_for_each(|index| done(work(index)?));
        }
        drop(sender);
        // Leaving early drops the receiver, which ends every thread at its next result.
        receiver.into_iter().try_for_each(|result| done(result?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_worked_on_once() {
        let mut seen = vec![];
        let note = |index| -> Result<()> {
            seen.push(index);
            Ok(())
        };
        for_each_index(100, Ok, note).unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        for_each_index(0, |_| -> Result<()> { panic!("nothing to do") }, |()| Result::Ok(())).unwrap();
    }

    #[test]
    fn threads_that_the_system_refuses_are_done_without() {
        for given in [0, 1] {
            // No address space has room for such a stack.
            let builder = |index| thread::Builder::new().stack_size(if index < given { 1 << 20 } else { 1 << 60 });
            let mut seen = vec![];
            let note = |index| -> Result<()> {
                seen.push(index);
                Ok(())
            };
            for_each_index_on(4, builder, 100, Ok, note).unwrap();
            seen.sort_unstable();
            assert_eq!(seen, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_ends_the_run_early() {
        let started = AtomicUsize::new(0);
        let fails = |index| {
            started.fetch_add(1, Ordering::Relaxed);
            if index == 3 { Err(Error::value("index", index, "another")) } else { Ok(()) }
        };
        assert!(for_each_index(1_000_000, fails, |()| Result::Ok(())).is_err());
        assert!(started.load(Ordering::Relaxed) < 1_000_000);
        let stop: Result<()> = for_each_index(1_000_000, Ok, |index| Err(Error::value("index", index, "none")));
        assert!(stop.is_err());
    }
}
