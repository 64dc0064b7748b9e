//! What the names of fields mean to a gateway.

/// What a field's name means to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing: the field is passed on as it is.
    Ordinary,
    /// `Host`.
    Host,
    /// `Date`.
    Date,
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding`, which is of one hop.
    Coding,
    /// `Connection`, which is of one hop and names others that are.
    Connection,
    /// `Upgrade`, which is of one hop.
    Upgrade,
    /// `TE`: of one hop, but it says whether trailers may follow.
    Te,
    /// `Expect`.
    Expect,
    /// Another one of one hop (RFC 9110, 7.6.1), or `Proxy`, which CGI reads as a setting (CVE-2016-5385).
    Hop,
    /// It says who the client is, or what its request is called.
    Client,
}

impl Meaning {
    /// Of this name, in small or large letters.
    pub fn of(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Ordinary };
        // Length and first letter leave one name to be compared, or none, as a rule.
        let (known, meaning): (&[u8], _) = match (name.len(), first.to_ascii_lowercase()) {
            (2, b't') => (b"te", Self::Te),
            (4, b'h') => (b"host", Self::Host),
            (4, b'd') => (b"date", Self::Date),
            (5, b'p') => (b"proxy", Self::Hop),
            (6, b'e') => (b"expect", Self::Expect),
            (7, b'u') => (b"upgrade", Self::Upgrade),
            (9, b'f') => (b"forwarded", Self::Client),
            (9, b'x') => (b"x-real-ip", Self::Client),
            (10, b'c') => (b"connection", Self::Connection),
            (10, b'k') => (b"keep-alive", Self::Hop),
            (12, b'x') if name.eq_ignore_ascii_case(b"x-request-id") => return Self::Client,
            (14, b'c') => (b"content-length", Self::Length),
            (14, b'h') => (b"http2-settings", Self::Hop),
            (16, b'p') => (b"proxy-connection", Self::Hop),
            (17, b't') => (b"transfer-encoding", Self::Coding),
            (18, b'p') => (b"proxy-authenticate", Self::Hop),
            (19, b'p') => (b"proxy-authorization", Self::Hop),
            (12.., b'x') => return if is_forwarded(name) { Self::Client } else { Self::Ordinary },
            _ => return Self::Ordinary,
        };
        if name.eq_ignore_ascii_case(known) { meaning } else { Self::Ordinary }
    }

    /// Whether it is for this hop alone. `TE` is not, nor is `Trailer`.
    pub fn is_of_one_hop(self) -> bool {
        matches!(self, Self::Coding | Self::Connection | Self::Upgrade | Self::Hop)
    }
}

fn is_forwarded(name: &[u8]) -> bool {
    const START: &[u8] = b"x-forwarded-";
    name.get(..START.len()).is_some_and(|start| start.eq_ignore_ascii_case(START))
}

/// Whether a name has other signs than letters, digits and hyphens: some backends may read it as another name.
pub fn is_odd(name: &[u8]) -> bool {
    !name.iter().all(|byte| USUAL[usize::from(*byte)])
}

/// A table is looked up faster than all are compared.
const USUAL: [bool; 256] = {
    let (mut usual, mut byte) = ([false; 256], 0);
    while byte < 256 {
        usual[byte] = (byte as u8).is_ascii_alphanumeric() || byte as u8 == b'-';
        byte += 1;
    }
    usual
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_the_same_in_large_letters() {
        for (name, meaning) in [
            ("accept", Meaning::Ordinary),
            ("x-forwarded", Meaning::Ordinary),
            ("host", Meaning::Host),
            ("hosts", Meaning::Ordinary),
            ("date", Meaning::Date),
            ("content-length", Meaning::Length),
            ("transfer-encoding", Meaning::Coding),
            ("connection", Meaning::Connection),
            ("upgrade", Meaning::Upgrade),
            ("te", Meaning::Te),
            ("expect", Meaning::Expect),
            ("keep-alive", Meaning::Hop),
            ("proxy", Meaning::Hop),
            ("proxy-connection", Meaning::Hop),
            ("proxy-authenticate", Meaning::Hop),
            ("proxy-authorization", Meaning::Hop),
            ("http2-settings", Meaning::Hop),
            ("forwarded", Meaning::Client),
            ("x-real-ip", Meaning::Client),
            ("x-request-id", Meaning::Client),
            ("x-forwarded-", Meaning::Client),
            ("x-forwarded-for", Meaning::Client),
            ("x_forwarded-for", Meaning::Ordinary),
            ("x-powered-by", Meaning::Ordinary),
            ("", Meaning::Ordinary),
        ] {
            assert_eq!(Meaning::of(name.as_bytes()), meaning, "{name}");
            assert_eq!(Meaning::of(name.to_ascii_uppercase().as_bytes()), meaning, "{name}");
        }
    }
    #[test]
    fn letters_digits_and_hyphens_are_usual() {
        for byte in 0..=u8::MAX {
            let is_usual = byte.is_ascii_alphanumeric() || byte == b'-';
            assert_eq!(is_odd(&[b'a', byte]), !is_usual, "{byte}");
        }
    }
}
