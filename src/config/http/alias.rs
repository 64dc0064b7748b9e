//! Names of headers that some backends cannot tell apart: whoever makes variables of headers, as CGI has it, has one and
//! the same sign for all that are neither letters nor digits.

use http::HeaderName;

/// As what such a backend may read it: with a hyphen for each of these signs.
pub fn folded(name: &HeaderName) -> HeaderName {
    let folded: Vec<u8> = name.as_str().bytes().map(fold).collect();
    HeaderName::from_bytes(&folded).expect("a name with more hyphens is a name")
}

/// Whether such a backend may read one as the other.
pub fn read_alike(one: &HeaderName, other: &HeaderName) -> bool {
    let (one, other) = (one.as_str(), other.as_str());
    one.len() == other.len() && one.bytes().map(fold).eq(other.bytes().map(fold))
}

fn fold(sign: u8) -> u8 {
    if sign.is_ascii_alphanumeric() { sign } else { b'-' }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_signs_of_a_name_but_letters_and_digits_are_one() {
        for (name, expected) in [("x-user", "x-user"), ("X_User", "x-user"), ("x.user|1~", "x-user-1-"), ("_", "-")] {
            let name: HeaderName = name.parse().unwrap();
            assert_eq!(folded(&name), expected);
            assert!(read_alike(&name, &folded(&name)) && read_alike(&folded(&name), &name));
        }
        for (one, other) in [("x-user", "x-use"), ("x-user", "x-users"), ("x_user", "x-uzer"), ("x1", "x-")] {
            assert!(!read_alike(&one.parse().unwrap(), &other.parse().unwrap()), "{one} {other}");
        }
    }
}
