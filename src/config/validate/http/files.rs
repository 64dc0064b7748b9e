//! Files that hold keys and secrets: read with the configuration, so that a missing or broken one is a problem of it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use toml::de::DeValue;

use crate::config::raw::{Fault, fault, text};

/// A larger file is no set of keys and no secret.
const FILE_BYTES_MAX: usize = 1 << 20;

/// The bytes of a regular file: a reload reads it again.
pub(super) fn read(value: &DeValue) -> Result<(PathBuf, Vec<u8>), Fault> {
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
    if !std::fs::metadata(&path).map_err(refuse)?.is_file() {
        return Err(fault("this is not a regular file", "not a file"));
    }
    let mut bytes = Vec::new();
    // One byte more than is allowed, to see whether there is more.
    let limit = FILE_BYTES_MAX as u64 + 1;
    File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(refuse)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(fault("the file is larger than 1 MiB", "too large").help("name the file that holds the keys"));
    }
    Ok((path, bytes))
}
