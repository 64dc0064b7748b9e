//! Chunks as RFC 9112, 7.1 writes them down: line by line, with everything there. Slow, and nothing of httparse.

/// What bytes are, as a body in chunks.
#[derive(Debug, PartialEq)]
pub enum Reading {
    /// The beginning of one, or one that is not seen to be wrong yet.
    Begins,
    /// None.
    Wrong,
    /// One without trailers; so many bytes are behind it.
    Whole(usize),
    /// One with trailers, or something wrong in their place.
    Trails,
}

/// The data, and what the bytes are.
pub fn read(mut rest: &[u8]) -> (Vec<u8>, Reading) {
    let mut data = Vec::new();
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return (data, Reading::Begins) };
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let Some(size) = size(line) else { return (data, Reading::Wrong) };
        if size == 0 {
            break;
        }
        if size >= rest.len() as u64 {
            data.extend_from_slice(rest);
            return (data, Reading::Begins);
        }
        let (chunk, after) = rest.split_at(size as usize);
        data.extend_from_slice(chunk);
        rest = match after {
            [b'\r', b'\n', more @ ..] => more,
            [b'\r'] => return (data, Reading::Begins),
            _ => return (data, Reading::Wrong),
        };
    }
    let reading = match rest {
        [b'\r', b'\n', behind @ ..] => Reading::Whole(behind.len()),
        [b'\r'] | [] => Reading::Begins,
        [b'\r' | b'\n', ..] => Reading::Wrong,
        _ => Reading::Trails,
    };
    (data, reading)
}

/// The size that a line says, which stands here without its LF.
fn size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r")?;
    if line.contains(&b'\r') {
        return None;
    }
    let digits = line.split(|byte| !byte.is_ascii_hexdigit()).next()?;
    let after = line[digits.len()..].trim_ascii_start();
    let is_extension = after.is_empty() || after[0] == b';';
    // What counts as white space there is less than what Rust takes for it.
    let is_blank = line[digits.len()..line.len() - after.len()].iter().all(|byte| b" \t".contains(byte));
    if digits.len() > 16 || !is_extension || !is_blank {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
