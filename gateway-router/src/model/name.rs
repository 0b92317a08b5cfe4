//! Names and values that have a syntax of their own: checked once, when they are made.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// A DNS name (`foo.example.com`) or a wildcard (`*.example.com`), in lower case.
///
/// A wildcard stands for one or more labels: `*.example.com` covers `a.example.com` and `a.b.example.com`, but
/// not `example.com`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Arc<str>);

impl Hostname {
    /// Characters in a name at most.
    pub const MAX_LEN: usize = 253;

    /// Checks `text` by the rules of the CRDs (types `Hostname` and `PreciseHostname`).
    ///
    /// # Errors
    /// What is wrong with it, and how to write it.
    pub fn new(text: &str) -> Result<Self, HostnameError> {
        let error = |kind| Err(HostnameError { text: text.to_owned(), kind });
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return error(HostnameErrorKind::Length);
        }
        if text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv6Addr>().is_ok() {
            return error(HostnameErrorKind::Address);
        }
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return error(HostnameErrorKind::UpperCase);
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        if name.contains('*') {
            return error(HostnameErrorKind::Wildcard);
        }
        for label in name.split('.') {
            let known = label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
            if !known || label.is_empty() || label.starts_with('-') || label.ends_with('-') {
                return error(HostnameErrorKind::Label);
            }
        }
        Ok(Self(text.into()))
    }

    /// The text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it begins with `*.`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// What follows `*.`, if it is a wildcard.
    pub fn suffix(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }

    /// Whether every host that `other` names is named by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.suffix(), other.suffix()) {
            (None, _) => self == other,
            (Some(mine), None) => is_below(&other.0, mine),
            (Some(mine), Some(theirs)) => theirs == mine || is_below(theirs, mine),
        }
    }

    /// Whether some host is named by both.
    pub fn intersects(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

/// Whether `name` is `suffix` with at least one label before it.
pub(crate) fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        Self::new(text)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Why a text is no [`Hostname`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no hostname: {kind}")]
pub struct HostnameError {
    text: String,
    kind: HostnameErrorKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostnameErrorKind {
    Length,
    Address,
    UpperCase,
    Wildcard,
    Label,
}

impl fmt::Display for HostnameErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "write 1 to 253 characters",
            Self::Address => {
                "an IP address names no host; write a DNS name, or leave the field out to match all"
            }
            Self::UpperCase => "write it in lower case",
            Self::Wildcard => "a wildcard is the whole first label, as in *.example.com",
            Self::Label => "write labels of a-z, 0-9 and '-' (not first or last), separated by dots",
        })
    }
}

/// The path of an exact or prefix match: begins with a slash, is in normal form, and has no query.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpPath(Arc<str>);

impl HttpPath {
    /// Characters in a path at most.
    pub const MAX_LEN: usize = 1024;

    /// The path `/`.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Checks `text` by the rules of the CRD (`HTTPPathMatch`).
    ///
    /// # Errors
    /// What is wrong with it, and how to write it.
    pub fn new(text: &str) -> Result<Self, HttpPathError> {
        let error = |kind| Err(HttpPathError { text: text.to_owned(), kind });
        if !text.starts_with('/') {
            return error(HttpPathErrorKind::NoSlash);
        }
        if text.len() > Self::MAX_LEN {
            return error(HttpPathErrorKind::Length);
        }
        for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
            if text.contains(part) {
                return error(HttpPathErrorKind::Contains(part));
            }
        }
        for part in ["/..", "/."] {
            if text.ends_with(part) {
                return error(HttpPathErrorKind::Ends(part));
            }
        }
        let mut rest = text.as_bytes();
        while let [first, tail @ ..] = rest {
            rest = match (first, tail) {
                (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => tail,
                (byte, tail) if is_path_byte(*byte) => tail,
                _ => return error(HttpPathErrorKind::Byte),
            };
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text as a prefix: without a trailing slash, so empty for `/`.
    pub fn as_prefix(&self) -> &str {
        self.0.strip_suffix('/').unwrap_or(&self.0)
    }
}

/// RFC 3986 §3.3: `pchar` without the percent sign, and the slash.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)
}

impl FromStr for HttpPath {
    type Err = HttpPathError;

    fn from_str(text: &str) -> Result<Self, HttpPathError> {
        Self::new(text)
    }
}

impl fmt::Display for HttpPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HttpPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Why a text is no [`HttpPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no path to match: {kind}")]
pub struct HttpPathError {
    text: String,
    kind: HttpPathErrorKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HttpPathErrorKind {
    NoSlash,
    Length,
    Contains(&'static str),
    Ends(&'static str),
    Byte,
}

impl fmt::Display for HttpPathErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlash => f.write_str("it must begin with '/'"),
            Self::Length => f.write_str("write at most 1024 characters"),
            Self::Contains(part) => write!(f, "it must not contain {part:?}"),
            Self::Ends(part) => write!(f, "it must not end with {part:?}"),
            Self::Byte => {
                f.write_str("write letters, digits, -._~!$&'()*+,;=:@ and '/', and anything else as %XX")
            }
        }
    }
}

/// The host without its port. An IPv6 literal keeps its brackets.
pub(crate) fn strip_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_are_those_of_the_crd() {
        for text in ["a", "example.com", "*.example.com", "*.com", "a-b.c0", "1.example", &"a".repeat(253)] {
            assert_eq!(Hostname::new(text).unwrap().as_str(), text);
        }
        for (text, fix) in [
            ("", "1 to 253"),
            (&*"a".repeat(254), "1 to 253"),
            ("10.0.0.1", "IP address"),
            ("fd00::1", "IP address"),
            ("Example.com", "lower case"),
            ("*", "first label"),
            ("a.*.com", "first label"),
            ("*a.com", "first label"),
            ("*.", "labels"),
            ("a..b", "labels"),
            ("a.", "labels"),
            ("-a.com", "labels"),
            ("a-.com", "labels"),
            ("a_b.com", "labels"),
            ("a.com:80", "labels"),
        ] {
            let error = Hostname::new(text).unwrap_err().to_string();
            assert!(error.contains(fix), "{error}");
        }
    }

    #[test]
    fn a_wildcard_covers_one_or_more_labels() {
        let cases = [
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "aexample.com", false),
            ("*.example.com", "*.example.com", true),
            ("*.example.com", "*.a.example.com", true),
            ("*.a.example.com", "*.example.com", false),
            ("*.example.com", "*.xexample.com", false),
            ("a.example.com", "a.example.com", true),
            ("a.example.com", "*.example.com", false),
        ];
        for (left, right, covers) in cases {
            let (left, right) = (Hostname::new(left).unwrap(), Hostname::new(right).unwrap());
            assert_eq!(left.covers(&right), covers, "{left} {right}");
            assert_eq!(left.intersects(&right), covers || right.covers(&left));
        }
    }

    #[test]
    fn paths_are_those_of_the_crd() {
        for text in
            ["/", "/a", "/a/", "/a.b/..c/%20", "/.a", "/a;b=c,d:e@f", &format!("/{}", "a".repeat(1023))]
        {
            assert_eq!(HttpPath::new(text).unwrap().as_str(), text);
        }
        for (text, fix) in [
            ("", "begin with"),
            ("a", "begin with"),
            (&*format!("/{}", "a".repeat(1024)), "1024"),
            ("/a//b", "\"//\""),
            ("/a/./b", "\"/./\""),
            ("/a/../b", "\"/../\""),
            ("/a%2fb", "\"%2f\""),
            ("/a%2Fb", "\"%2F\""),
            ("/a#b", "\"#\""),
            ("/a/..", "\"/..\""),
            ("/a/.", "\"/.\""),
            ("/a?b", "%XX"),
            ("/a b", "%XX"),
            ("/a%2", "%XX"),
            ("/a%zz", "%XX"),
            ("/é", "%XX"),
        ] {
            let error = HttpPath::new(text).unwrap_err().to_string();
            assert!(error.contains(fix), "{error}");
        }
        assert_eq!(HttpPath::root().as_prefix(), "");
        assert_eq!(HttpPath::new("/a/").unwrap().as_prefix(), "/a");
    }
}
