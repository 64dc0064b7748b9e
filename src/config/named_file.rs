//! Files that the configuration names: certificates, keys, secrets. They are read with it, so that a missing or broken one
//! is a problem at its place.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use toml::de::DeValue;

use super::raw::{Fault, fault, text};

/// The bytes of a regular file, and what is known of it: a reload reads it again.
pub(super) fn read_file(value: &DeValue, bytes_max: u64) -> Result<(PathBuf, Vec<u8>, Metadata), Fault> {
    let name = text(value)?;
    if name.is_empty() || name.contains('\0') {
        return Err(fault("it is the name of a file", "not a name"));
    }
    let refuse = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => fault("there is no such file", "not found")
            .help("write the whole path; a relative one begins where evener was started"),
        ErrorKind::PermissionDenied => fault("the file may not be read", "no permission")
            .help("let the user that runs evener read it and enter its folders"),
        _ => fault(format!("the file cannot be read: {error}"), "not readable"),
    };
    let path = PathBuf::from(name);
    // Asked before it is opened: opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(&path).map_err(refuse)?;
    if !metadata.is_file() {
        return Err(fault("this is not a regular file", "not a file"));
    }
    let mut bytes = Vec::new();
    File::open(&path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes)).map_err(refuse)?;
    if bytes.len() as u64 > bytes_max {
        return Err(fault(format!("the file is larger than {} MiB", bytes_max / (1024 * 1024)), "too large"));
    }
    Ok((path, bytes, metadata))
}
