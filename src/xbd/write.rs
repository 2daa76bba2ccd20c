//! Files that appear whole or not at all.

use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// Writes beside `path` and renames, so that an interrupted run leaves no half file under the real name.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let partial = path.with_file_name(name);
    fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path)).map_err(|source| {
        // What is left of it is of no use; that it cannot be removed either is not news.
        let _ = fs::remove_file(&partial);
        Error::io(path, source)
    })
}
