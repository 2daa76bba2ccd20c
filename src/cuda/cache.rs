//! Compiled kernels on disk, so that only the first run of a program compiles.
//!
//! An entry is named by the hash of everything that decides it, and ends with the hash of its content. It is written beside its place
//! and then renamed, so that no process sees half of one. Whatever goes wrong with the cache, the kernel is compiled anew.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::compile::{self, Architecture};
use super::nvrtc::nvrtc;
use super::variant::Variant;
use crate::{Error, Result};

/// Bytes of the hash at the end of an entry.
const DIGEST: usize = 32;

/// Where entries lie: `RAREPIXEL_CACHE_DIR`, or `rarepixel` in the user's cache folder; none where there is no such folder.
pub fn directory() -> Option<PathBuf> {
    match std::env::var_os("RAREPIXEL_CACHE_DIR") {
        Some(path) if !path.is_empty() => Some(path.into()),
        _ => dirs::cache_dir().map(|path| path.join("rarepixel")),
    }
}

/// The entry's file name: a hash of the source, the options (with the architecture) and NVRTC's version.
fn name(variant: &Variant, architecture: Architecture) -> Result<String> {
    let nvrtc @ (major, minor) = nvrtc()?.version;
    let mut hash = Sha256::new();
    for part in compile::options(variant, architecture, nvrtc) {
        hash.update(part);
        hash.update([0]);
    }
    hash.update(format!("NVRTC {major}.{minor}\0"));
    hash.update(compile::source_text(variant));
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let suffix = match architecture {
        Architecture::Cubin(_) => "cubin",
        Architecture::Ptx(_) => "ptx",
    };
    Ok(format!("{digest}.{suffix}"))
}

/// The content of an entry, if it is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let content = bytes.len().checked_sub(DIGEST)?;
    let whole = Sha256::digest(&bytes[..content])[..] == bytes[content..];
    bytes.truncate(content);
    whole.then_some(bytes)
}

/// As far as the umask allows: a cache may be shared, or made for an image by another user.
fn readable_by_others<'a, 'b>(builder: &'a mut tempfile::Builder<'b, 'b>) -> &'a mut tempfile::Builder<'b, 'b> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder
}

/// Put an entry in its place at once.
fn write(path: &Path, image: &[u8]) -> Result<()> {
    let failed = |source| Error::io(path, source);
    let directory = path.parent().expect("an entry lies in a directory");
    fs::create_dir_all(directory).map_err(failed)?;
    let mut file = readable_by_others(&mut tempfile::Builder::new()).tempfile_in(directory).map_err(failed)?;
    file.write_all(image).map_err(failed)?;
    file.write_all(&Sha256::digest(image)).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// A kernel image from the cache, or compiled and put there. `fresh` passes over an entry that the driver would not have.
pub fn image(variant: &Variant, architecture: Architecture, fresh: bool) -> Result<Vec<u8>> {
    let path = match directory() {
        Some(directory) => Some(directory.join(name(variant, architecture)?)),
        None => None,
    };
    if let Some(path) = path.as_deref().filter(|_| !fresh)
        && let Some(image) = read(path)
    {
        return Ok(image);
    }
    let image = compile::compile(variant, architecture)?.image;
    if let Some(path) = path {
        // A full disk or a folder that may not be written costs time on the next run, not this one's result.
        let _ = write(&path, &image);
    }
    Ok(image)
}

/// What the cache holds, and whether it can be written.
pub struct Summary {
    /// Where it is.
    pub directory: PathBuf,
    /// How many entries it has that can be read.
    pub entries: usize,
    /// Their size.
    pub bytes: u64,
    /// Why nothing can be written, if so.
    pub problem: Option<String>,
}

/// Look at the cache; none where there is no folder for it.
pub fn summary() -> Option<Summary> {
    let directory = directory()?;
    let is_entry = |path: &Path| path.extension().is_some_and(|suffix| suffix == "cubin" || suffix == "ptx");
    let sizes: Vec<u64> = fs::read_dir(&directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| is_entry(&entry.path()) && fs::File::open(entry.path()).is_ok())
        .filter_map(|entry| entry.metadata().ok().map(|data| data.len()))
        .collect();
    let probe = fs::create_dir_all(&directory).and_then(|()| tempfile::tempfile_in(&directory));
    let problem = probe.and_then(|mut file| file.write_all(&[0; 4096])).err().map(|error| error.to_string());
    Some(Summary { directory, entries: sizes.len(), bytes: sizes.iter().sum(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deeper").join("entry.cubin");
        assert_eq!(read(&path), None);
        let image = vec![7u8; 1000];
        write(&path, &image).unwrap();
        assert_eq!(read(&path).as_deref(), Some(&image[..]));
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..10], &[], &[&whole[..500], &[8], &whole[501..]].concat()] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(read(&path), None, "{} bytes", damaged.len());
        }
        write(&path, &image).unwrap();
        assert!(read(&path).is_some());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::write(path.with_extension("other"), "").unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&path.with_extension("other")), "whoever may read other files may read it");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_of_write_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "in the way").unwrap();
        assert!(write(&file.join("entry.cubin"), &[1]).is_err());
    }
}
