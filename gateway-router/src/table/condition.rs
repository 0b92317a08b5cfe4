//! Conditions on headers and query parameters, asked without allocation.

use http::{HeaderMap, HeaderName, HeaderValue};
use lbcore::route::RequestHead;

/// All conditions of a table; candidates hold ranges of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Conditions {
    headers: Vec<(HeaderName, HeaderValue)>,
    query_params: Vec<(Box<str>, Box<str>)>,
}

impl Conditions {
    /// Takes the conditions of one candidate, and gives their ranges. `None` if there are too many to number.
    pub(super) fn push(
        &mut self,
        headers: &[(HeaderName, HeaderValue)],
        query_params: &[(std::sync::Arc<str>, std::sync::Arc<str>)],
    ) -> Option<((u32, u32), (u32, u32))> {
        let range = |start: usize, end: usize| Some((u32::try_from(start).ok()?, u32::try_from(end).ok()?));
        let before = (self.headers.len(), self.query_params.len());
        self.headers.extend_from_slice(headers);
        self.query_params
            .extend(query_params.iter().map(|(name, value)| ((&**name).into(), (&**value).into())));
        Some((range(before.0, self.headers.len())?, range(before.1, self.query_params.len())?))
    }

    /// Whether all conditions in these ranges hold for `head`.
    pub(super) fn hold(&self, headers: (u32, u32), query_params: (u32, u32), head: &RequestHead<'_>) -> bool {
        let headers = self.headers.get(headers.0 as usize..headers.1 as usize).unwrap_or_default();
        let params =
            self.query_params.get(query_params.0 as usize..query_params.1 as usize).unwrap_or_default();
        headers.iter().all(|(name, value)| header_is(head.headers, name, value.as_bytes()))
            && params.iter().all(|(name, value)| query_is(head.query, name, value))
    }
}

/// Whether the fields of `name`, joined with commas, are `expected`.
fn header_is(headers: &HeaderMap, name: &HeaderName, expected: &[u8]) -> bool {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return false };
    let Some(mut rest) = expected.strip_prefix(first.as_bytes()) else { return false };
    for value in values {
        match rest.strip_prefix(b",").and_then(|rest| rest.strip_prefix(value.as_bytes())) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// Whether the first parameter of that name has that value.
fn query_is(query: Option<&str>, name: &str, expected: &str) -> bool {
    let mut pairs =
        query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .find(|(key, _)| decoded(key).eq(name.bytes()))
        .is_some_and(|(_, value)| decoded(value).eq(expected.bytes()))
}

/// The bytes of a form-encoded text. An escape that is none stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (byte, tail) = match rest {
            [] => return None,
            [b'+', tail @ ..] => (b' ', tail),
            [b'%', high, low, tail @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, tail),
                _ => (b'%', rest.get(1..).unwrap_or_default()),
            },
            [byte, tail @ ..] => (*byte, tail),
        };
        rest = tail;
        Some(byte)
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_fields_are_one_list() {
        let name = HeaderName::from_static("x");
        let headers = |values: &[&'static str]| -> HeaderMap {
            values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
        };
        for (values, expected, holds) in [
            (&[][..], "", false),
            (&[""], "", true),
            (&["a"], "a", true),
            (&["A"], "a", false),
            (&["a"], "ab", false),
            (&["ab"], "a", false),
            (&["a", "b"], "a,b", true),
            (&["a", "b"], "a", false),
            (&["a", "b"], "b", false),
            (&["a", "b"], "a,b,", false),
            (&["a", ""], "a,", true),
            (&["a,b"], "a,b", true),
        ] {
            assert_eq!(
                header_is(&headers(values), &name, expected.as_bytes()),
                holds,
                "{values:?} {expected:?}"
            );
        }
    }

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        for (query, name, expected, holds) in [
            (None, "a", "", false),
            (Some(""), "a", "", false),
            (Some("a"), "a", "", true),
            (Some("a="), "a", "", true),
            (Some("a=b"), "a", "b", true),
            (Some("a=b=c"), "a", "b=c", true),
            (Some("A=b"), "a", "b", false),
            (Some("a=B"), "a", "b", false),
            (Some("x=y&a=b&z"), "a", "b", true),
            (Some("a=c&a=b"), "a", "b", false),
            (Some("a=b&a=c"), "a", "b", true),
            (Some("%61=%62"), "a", "b", true),
            (Some("a=x+y%20z"), "a", "x y z", true),
            (Some("a=%zz%2"), "a", "%zz%2", true),
            (Some("a=%C3%A9"), "a", "é", true),
            (Some("ab=c"), "a", "c", false),
        ] {
            assert_eq!(query_is(query, name, expected), holds, "{query:?} {name}={expected}");
        }
    }
}
