//! No text panics the reader of Gateway API documents, and what it lets through compiles, in any order to the same.

#![no_main]

use std::collections::BTreeMap;

use gateway_router::compile::compile;
use gateway_router::manifest;
use http::{HeaderMap, Method};
use lbcore::manifest::{Corpus, Kinds, SourceFile};
use lbcore::route::{RequestHead, RouteMatcher};
use libfuzzer_sys::fuzz_target;

const CONTROLLER: &str = "lbcore.io/gateway-controller";

fuzz_target!(|text: &str| {
    let mut corpus = Corpus::new(manifest::kinds(lbcore::manifest::kinds(Kinds::new())));
    corpus.load(&[SourceFile::new("fuzzed.yaml", text)]);
    manifest::demands(corpus.objects(), CONTROLLER);
    let backends = manifest::backends(corpus.objects());
    let mut resources = manifest::resources(corpus.objects(), CONTROLLER, BTreeMap::new());
    let compiled = compile(&resources, &backends);
    let (method, headers) = (Method::GET, HeaderMap::new());
    let (host, path) = ("www.example.com", "/a/b");
    let head = RequestHead {
        port: 80,
        server_name: None,
        host,
        path,
        query: None,
        method: &method,
        headers: &headers,
    };
    for table in compiled.tables.values() {
        table.find(&head);
    }
    resources.gateways.reverse();
    resources.routes.reverse();
    resources.grants.reverse();
    let reversed = compile(&resources, &backends);
    assert_eq!(reversed.tables, compiled.tables);
    assert_eq!(reversed.statuses, compiled.statuses);
});
