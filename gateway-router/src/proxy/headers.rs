//! The headers that a gateway removes and adds.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::model::RedirectScheme;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Removes what is meant for one connection (RFC 9110 §7.6.1): what `Connection` names and what is known to be.
/// hyper frames the body anew; a length that the sender gave stays, unless the body came in chunks.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
            // What routes and frames the message is for everyone, whatever the sender says.
            .filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    // RFC 9112 §6.3: a length beside a transfer coding must not be forwarded.
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TE, UPGRADE] {
        headers.remove(name);
    }
}

/// Whether the body comes in a transfer coding other than `chunked`. hyper takes chunks off alone, and what the others
/// made of the body would be passed on without their names.
pub(super) fn has_foreign_coding(headers: &HeaderMap) -> bool {
    let codings =
        headers.get_all(TRANSFER_ENCODING).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty());
    codings.next().is_some_and(|first| !first.eq_ignore_ascii_case(b"chunked")) || codings.next().is_some()
}

/// Prepares the headers of a request: see the module's documentation.
pub(super) fn prepare_request(headers: &mut HeaderMap, client: IpAddr, scheme: RedirectScheme) {
    remove_hop_by_hop(headers);
    // The server side of hyper has answered it, or does when the body is asked for.
    headers.remove(EXPECT);
    let mut forwarded = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        forwarded.extend_from_slice(value.as_bytes());
        forwarded.extend_from_slice(b", ");
    }
    forwarded.extend_from_slice(client.to_canonical().to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&forwarded) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        list.iter().map(field).collect()
    }

    #[test]
    fn what_is_for_one_connection_ends_here() {
        let mut map = headers(&[
            ("host", "a"),
            ("connection", "close, X-One"),
            ("connection", "x-two,host, content-length,keep-alive,@"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("content-length", "3"),
        ]);
        remove_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("host", "a"), ("x-three", "3"), ("content-length", "3")]));
    }

    #[test]
    fn a_length_beside_chunks_is_not_believed() {
        let mut map = headers(&[("transfer-encoding", "chunked"), ("content-length", "3")]);
        remove_hop_by_hop(&mut map);
        assert!(map.is_empty());
    }

    #[test]
    fn chunks_are_the_one_coding() {
        for (values, foreign) in [
            (&[][..], false),
            (&["chunked"], false),
            (&["Chunked , "], false),
            (&["gzip, chunked"], true),
            (&["gzip", "chunked"], true),
            (&["chunked", "chunked"], true),
            (&["chunked;q=1"], true),
        ] {
            let fields: Vec<_> = values.iter().map(|value| ("transfer-encoding", *value)).collect();
            assert_eq!(has_foreign_coding(&headers(&fields)), foreign, "{values:?}");
        }
    }

    #[test]
    fn the_client_is_appended() {
        let mut map = headers(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2, 192.0.2.3"),
            ("x-forwarded-proto", "https"),
            ("connection", "x-forwarded-for"),
            ("expect", "100-continue"),
        ]);
        map.remove("connection");
        prepare_request(&mut map, "::ffff:10.0.0.9".parse().unwrap(), RedirectScheme::Http);
        let expected = headers(&[
            ("x-forwarded-for", "192.0.2.1, 192.0.2.2, 192.0.2.3, 10.0.0.9"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(map, expected);

        let mut map = headers(&[("x-forwarded-for", "192.0.2.1"), ("connection", "x-forwarded-for")]);
        prepare_request(&mut map, "fd00::1".parse().unwrap(), RedirectScheme::Http);
        assert_eq!(map["x-forwarded-for"], "fd00::1");
    }
}
