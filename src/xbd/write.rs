//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Writes beside `path` and renames, so that an interrupted run leaves no half file under the real name.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = partial_path(path);
    let mut file = File::create_new(&partial).map_err(|source| Error::io(path, source))?;
    file.write_all(bytes).and_then(|()| fs::rename(&partial, path)).map_err(|source| {
        // What is left of it is of no use; that it cannot be removed either is not news.
        let _ = fs::remove_file(&partial);
        Error::io(path, source)
    })
}

/// A hidden name that no other writer of `path` has: not on this machine, and not in a container where process numbers recur.
fn partial_path(path: &Path) -> PathBuf {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let random = RandomState::new().build_hasher().finish();
    name.push(format!(".{random:016x}.{}", WRITTEN.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn writers_of_one_file_do_not_disturb_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.safetensors");
        thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        write_whole(path, &vec![writer; 100_000]).unwrap();
                        let bytes = fs::read(path).unwrap();
                        assert_eq!(bytes.len(), 100_000);
                        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let name = partial_path(&path).file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.starts_with(".file.safetensors."), "{name}: what a kill leaves is removed by this beginning");
    }
}
