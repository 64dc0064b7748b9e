//! Names of headers that some backends cannot tell apart: whoever makes variables of headers, as CGI has it, has one and
//! the same sign for all that are neither letters nor digits.

use http::HeaderName;

/// As what such a backend may read it: with a hyphen for each of these signs.
pub fn folded(name: &HeaderName) -> HeaderName {
    let fold = |sign: char| if sign.is_ascii_alphanumeric() { sign } else { '-' };
    let folded = name.as_str().chars().map(fold).collect::<String>();
    HeaderName::try_from(folded).expect("a name with more hyphens is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_signs_of_a_name_but_letters_and_digits_are_one() {
        for (name, expected) in [("x-user", "x-user"), ("X_User", "x-user"), ("x.user|1~", "x-user-1-"), ("_", "-")] {
            assert_eq!(folded(&name.parse().unwrap()), expected);
        }
    }
}
