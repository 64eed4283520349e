//! Compiled kernels on disk. The name of a file is the digest of everything that its kernels were made from.
//!
//! A file contains the cubin and its SHA-256, so that a damaged file is ignored. If the cache cannot be read or
//! written, the kernels are compiled again, and there is no error.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

const DIGEST: usize = 32;

/// The folder: `$HEX_SSL_CACHE`, else `$XDG_CACHE_HOME/hex_ssl`, else `~/.cache/hex_ssl`. None if HOME is not set
/// either.
pub fn folder() -> Option<PathBuf> {
    // The XDG rules: an empty or relative value counts as none.
    let set = |name: &str| env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    set("HEX_SSL_CACHE").or_else(|| {
        let base = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        base.or_else(|| set("HOME").map(|home| home.join(".cache"))).map(|base| base.join("hex_ssl"))
    })
}

/// The name for something made from `parts`. Different lists of parts have different names.
pub fn key(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The cubin with this name, if it is in the folder and intact.
pub fn read(folder: &Path, key: &str) -> Option<Vec<u8>> {
    let mut content = fs::read(path(folder, key)).ok()?;
    let length = content.len().checked_sub(DIGEST)?;
    let digest = content.split_off(length);
    (Sha256::digest(&content).as_slice() == digest).then_some(content)
}

/// Writes a cubin to a temporary file and renames it, so that other processes see the whole file or none.
pub fn write(folder: &Path, key: &str, cubin: &[u8]) {
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    let serial = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let beside = folder.join(format!("{key}.{}.{serial}.tmp", process::id()));
    let written = fs::create_dir_all(folder).and_then(|()| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&beside)?;
        file.write_all(cubin)?;
        file.write_all(&Sha256::digest(cubin))?;
        fs::rename(&beside, path(folder, key))
    });
    if written.is_err() {
        // The file may not exist.
        let _ = fs::remove_file(&beside);
    }
}

fn path(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.cubin"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn empty_folder(name: &str) -> PathBuf {
        let folder = env::temp_dir().join(format!("hex_ssl-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = empty_folder("written");
        assert_eq!(read(&folder, "a"), None);
        for cubin in [&b"first"[..], b"", b"a longer second"] {
            write(&folder, "a", cubin);
            assert_eq!(read(&folder, "a").as_deref(), Some(cubin));
        }
        assert_eq!(read(&folder, "b"), None);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing but the file stays behind");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let folder = empty_folder("damaged");
        write(&folder, "a", b"a cubin");
        let whole = fs::read(path(&folder, "a")).unwrap();
        for length in 0..whole.len() {
            fs::write(path(&folder, "a"), &whole[..length]).unwrap();
            assert_eq!(read(&folder, "a"), None, "{length} bytes of it");
        }
        let mut turned = whole.clone();
        turned[3] ^= 1;
        fs::write(path(&folder, "a"), &turned).unwrap();
        assert_eq!(read(&folder, "a"), None);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_is_no_error() {
        let folder = empty_folder("file");
        fs::write(&folder, b"not a folder").unwrap();
        write(&folder, "a", b"a cubin");
        assert_eq!(read(&folder, "a"), None);
        fs::remove_file(&folder).unwrap();
    }

    #[test]
    fn keys_keep_parts_apart() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab"]), key(&["ab", ""]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_eq!(key(&[]).len(), 64);
    }
}
