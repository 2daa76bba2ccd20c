//! Panics of decoders, whose files may be anything: an error of the file, so that others can be read.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::{Error, Result};

/// `read`, whose panic becomes an error of the file. What it had begun to write is to be used no more, as with any error.
pub(super) fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| Err(Error::file(path, fault(&*panic))))
}

/// What is told of a panic.
pub(super) fn fault(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    format!("a fault of rarepixel, please report it: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_the_file() {
        let path = Path::new("a.png");
        assert_eq!(guarded(path, || Ok(1)).unwrap(), 1);
        for read in [|| panic!("no {}", "room"), || panic!("no room")] {
            let error = guarded::<()>(path, read).unwrap_err().to_string();
            assert_eq!(error, "a.png: a fault of rarepixel, please report it: no room");
        }
    }
}
