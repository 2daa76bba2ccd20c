//! Sharing jobs between threads: torch's where there are some, else threads of our own, which survive a fork. Small work wakes nobody.

use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::team;

/// More threads than this are not used.
pub const MAX_THREADS: usize = 256;

/// What is worth several threads is at least this many jobs, or some threads would wait long for others.
pub const JOBS: usize = 16;

struct Pool {
    process: u32,
    threads: ThreadPool,
}

/// One pool for each number of threads, made when it is first asked for and kept for the life of the process.
static POOLS: [AtomicPtr<Pool>; MAX_THREADS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_THREADS];

/// The pool of `count` threads of this process; none where the system refuses them.
///
/// A forked child has the parent's pool but none of its threads, and would wait for them for ever: so a pool belongs to a
/// process id. There is no lock here for a fork to leave locked.
fn pool(count: usize) -> Option<&'static ThreadPool> {
    let slot = &POOLS[count - 1];
    let process = std::process::id();
    let current = slot.load(Ordering::Acquire);
    // SAFETY: a slot holds null or a leaked box, which is never freed.
    if let Some(pool) = unsafe { current.as_ref() }.filter(|pool| pool.process == process) {
        return Some(&pool.threads);
    }
    let threads =
        ThreadPoolBuilder::new().num_threads(count).thread_name(|index| format!("rarepixel-{index}")).build().ok()?;
    let made = Box::into_raw(Box::new(Pool { process, threads }));
    match slot.compare_exchange(current, made, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: `made` was leaked just now.
        Ok(_) => Some(unsafe { &(*made).threads }),
        Err(winner) => {
            // SAFETY: `made` was never published; dropping it ends its threads. The winner is a leaked box of this process.
            unsafe {
                drop(Box::from_raw(made));
                Some(&(*winner).threads)
            }
        }
    }
}

/// Jobs that one thread is to do, from the first to the last; others take over from the end.
///
/// Neighbouring jobs read and write neighbouring memory, which the hardware has begun to fetch.
struct Share(AtomicU64);

impl Share {
    /// The jobs `from..to`.
    fn new(from: usize, to: usize) -> Self {
        Self(AtomicU64::new(Self::pack(from as u64, to as u64)))
    }

    fn pack(from: u64, to: u64) -> u64 {
        from << 32 | to
    }

    /// Take a job: the next one, or the last one for another thread.
    fn take(&self, own: bool) -> Option<usize> {
        let rest = |share: u64| {
            let (from, to) = (share >> 32, share & u64::from(u32::MAX));
            (from < to).then(|| if own { (from, from + 1, to) } else { (to - 1, from, to - 1) })
        };
        let left = |share| rest(share).map(|(_, from, to)| Self::pack(from, to));
        // The jobs carry no data from thread to thread: what they read was there before the threads were called.
        let share = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).ok()?;
        rest(share).map(|(job, ..)| job as usize)
    }
}

/// Do `work(scratch, job)` for every job in 0..jobs on up to `threads` threads, this one among them; the results in job order.
///
/// Each thread makes its own scratch. Which thread does which job varies; the order of the results does not.
pub fn run<S, R: Send>(
    threads: usize,
    jobs: usize,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> R + Sync,
) -> Vec<R> {
    run_on(threads, jobs, scratch, work, pool)
}

/// [`run`], on the pool that there is for a number of threads.
fn run_on<S, R: Send>(
    threads: usize,
    jobs: usize,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> R + Sync,
    pool: impl Fn(usize) -> Option<&'static ThreadPool>,
) -> Vec<R> {
    assert!(u32::try_from(jobs).is_ok(), "jobs are numbered with 32 bits");
    let members = threads.min(jobs).min(MAX_THREADS + 1);
    if members <= 1 {
        let mut scratch = scratch();
        return (0..jobs).map(|job| work(&mut scratch, job)).collect();
    }
    let shares: Vec<Share> = (0..members).map(|i| Share::new(i * jobs / members, (i + 1) * jobs / members)).collect();
    let arrived = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(jobs));
    let participate = || {
        let first = arrived.fetch_add(1, Ordering::Relaxed);
        let next = || (first..first + members).find_map(|i| shares[i % members].take(i == first && first < members));
        let Some(mut job) = next() else { return };
        let mut scratch = scratch();
        let mut results = Vec::new();
        loop {
            results.push((job, work(&mut scratch, job)));
            match next() {
                Some(following) => job = following,
                None => break,
            }
        }
        done.lock().expect("no holder panics").append(&mut results);
    };
    // As many as torch uses, though fewer may have work: a team of another size would be a new one.
    if !team::share(threads.min(MAX_THREADS + 1), &participate) {
        match pool(threads.min(MAX_THREADS + 1) - 1) {
            Some(pool) => pool.in_place_scope(|scope| {
                for _ in 1..members {
                    scope.spawn(|_| participate());
                }
                participate();
            }),
            // Alone: whoever has no share of its own left takes those of others.
            None => participate(),
        }
    }
    let mut done = done.into_inner().expect("no holder panics");
    done.sort_unstable_by_key(|(job, _)| *job);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The threads to use where the caller does not say: `RAREPIXEL_NUM_THREADS`, else the machine's.
pub fn default_threads() -> usize {
    std::env::var("RAREPIXEL_NUM_THREADS")
        .ok()
        .and_then(|value| value.parse().ok())
        .filter(|&count| count > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_job_order() {
        for threads in [1, 2, 3, 7] {
            for jobs in [0, 1, 2, 100] {
                let squares = run(threads, jobs, || (), |(), job| job * job);
                assert_eq!(squares, (0..jobs).map(|job| job * job).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn every_job_of_a_share_is_taken_once_from_either_end() {
        let share = Share::new(3, 8);
        let taken = [true, false, true, false, false, true, false].map(|own| share.take(own));
        assert_eq!(taken, [Some(3), Some(7), Some(4), Some(6), Some(5), None, None]);
    }

    #[test]
    fn each_job_is_done_once_where_threads_differ_in_speed() {
        let times: Vec<_> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
        run(
            4,
            times.len(),
            || (),
            |(), job| {
                if job < 10 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                times[job].fetch_add(1, Ordering::Relaxed);
            },
        );
        assert!(times.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let result = std::panic::catch_unwind(|| run(2, 10, || (), |(), job| assert!(job != 5)));
        assert!(result.is_err());
        assert_eq!(run(2, 3, || (), |(), job| job), [0, 1, 2]);
    }

    #[test]
    fn without_threads_of_its_own_the_caller_does_all() {
        let squares = run_on(3, 50, || (), |(), job| job * job, |_| None);
        assert_eq!(squares, (0..50).map(|job| job * job).collect::<Vec<_>>());
    }

    #[test]
    fn many_callers_at_once() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(run(3, 50, || (), |(), job| job).len(), 50));
            }
        });
    }
}
