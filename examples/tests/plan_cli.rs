//! The dry run as a user meets it: its lines, its words, its exit status.

#![expect(clippy::unwrap_used, reason = "a test may fail where it likes")]

#[path = "../plan.rs"]
#[expect(dead_code, reason = "main is for the example")]
mod plan;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;

struct Outcome {
    code: u8,
    out: String,
    err: String,
}

fn run(args: &[&str], paths: &[&Path]) -> Outcome {
    let args = ["plan"].iter().copied().chain(args.iter().copied());
    let args = args.chain(paths.iter().map(|path| path.to_str().unwrap()));
    let args = plan::Args::parse_from(args);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = plan::run(&args, &mut out, &mut err).unwrap();
    Outcome { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn in_folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn a_realistic_cluster_is_planned_as_recorded() {
    let outcome = run(&["--json"], &[&data().join("plan")]);
    let expected = fs::read_to_string(data().join("plan.jsonl")).unwrap();
    for (line, expected) in outcome.out.lines().zip(expected.lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(outcome.out, expected);
    assert_eq!(outcome.code, 1, "some were refused");
    for line in outcome.out.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in ["service", "addresses", "pool", "nodes", "via", "error"] {
            assert!(value.get(field).is_some(), "{field}: {line}");
        }
    }
    assert!(outcome.err.contains("Deployment (apps) is passed over"), "{}", outcome.err);
    assert!(!outcome.err.contains("EndpointSlice"), "{}", outcome.err);
}

#[test]
fn files_in_any_order_give_the_same_plan() {
    let file = |name: &str| data().join("plan").join(name);
    let names = ["services.yaml", "endpoints.yaml", "metallb.yaml", "cluster.yaml"].map(file);
    let paths: Vec<&Path> = names.iter().map(PathBuf::as_path).collect();
    let backwards: Vec<&Path> = paths.iter().rev().copied().collect();
    let folder = data().join("plan");
    let expected = run(&["--json"], &[&folder]).out;
    assert_eq!(run(&["--json"], &paths).out, expected);
    assert_eq!(run(&["--json"], &backwards).out, expected);
}

#[test]
fn the_table_says_the_same_to_a_person() {
    let outcome = run(&[], &[&data().join("plan")]);
    assert_eq!(outcome.code, 1);
    for line in [
        "web/game     203.0.113.17,2001:db8:0:1::100  public    bgp     edge-b",
        "    PoolExhausted: pool red: all 2 IPv4 addresses are taken: add a range, or release one",
        "pool old (drains): IPv4 1 in use, 0 free",
        "10 of 15 have their addresses, 4 were refused one, 1 of another class; 3 with an address are announced by \
         nobody",
    ] {
        assert!(outcome.out.lines().any(|found| found == line), "{line}\n{}", outcome.out);
    }
}

#[test]
fn the_labs_manifests_are_fine() {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let outcome = run(&["--json"], &[&manifests.join("lab")]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert!(
        outcome.out.contains("\"nodes\":[\"n1\",\"n2\",\"n3\"],\"via\":[\"l2\"],\"error\":null"),
        "{}",
        outcome.out
    );
    let outcome = run(&["--json"], &[&manifests.join("lab"), &manifests.join("bgp")]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert!(outcome.out.contains("\"via\":[\"l2\",\"bgp\"]"), "{}", outcome.out);
    let outcome = run(&["--json"], &[&manifests.join("lab-ipv6")]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
}

const POOL: &str = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: p, namespace: metallb-system}\nspec: {addresses: [192.0.2.0/32]}\n";
const AD: &str =
    "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: a, namespace: metallb-system}\n";

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n"
    )
}

#[test]
fn exit_0_all_have_their_addresses_even_if_nobody_announces_one() {
    let folder = in_folder(&[("pool.yaml", POOL), ("service.yaml", &service("s"))]);
    let outcome = run(&["--json"], &[folder.path()]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert_eq!(
        outcome.out,
        "{\"service\":\"default/s\",\"addresses\":[\"192.0.2.0\"],\"pool\":\"p\",\"nodes\":[],\"via\":[],\"error\":\
         {\"reason\":\"NoAdvertisement\",\"message\":\"no L2Advertisement and no BGPAdvertisement selects the pool p: \
         add one that names it\"}}\n"
    );
    assert!(
        outcome
            .err
            .contains("no EndpointSlice in the input: every service is taken as serving on every node")
    );
    assert!(outcome.err.contains("no Node in the input"));
}

#[test]
fn exit_1_some_were_refused_an_address() {
    let folder =
        in_folder(&[("a.yaml", POOL), ("b.yaml", AD), ("c.yaml", &service("s")), ("d.yaml", &service("t"))]);
    let outcome = run(&["--json"], &[folder.path()]);
    assert_eq!(outcome.code, 1, "{}", outcome.err);
    let lines: Vec<_> = outcome.out.lines().collect();
    assert!(lines[0].ends_with("\"nodes\":[],\"via\":[\"l2\"],\"error\":null}"), "{}", lines[0]);
    assert!(lines[1].contains(
        "\"addresses\":[],\"pool\":null,\"nodes\":[],\"via\":[],\"error\":{\"reason\":\"PoolExhausted\""
    ));
}

#[test]
fn another_controllers_service_is_not_refused() {
    let theirs = service("s").replace("ports", "loadBalancerClass: theirs, ports");
    let folder = in_folder(&[("a.yaml", POOL), ("b.yaml", AD), ("c.yaml", &theirs)]);
    let outcome = run(&["--json"], &[folder.path()]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert!(outcome.out.contains("\"reason\":\"OtherClass\""), "{}", outcome.out);
    let outcome = run(&["--json", "--class", "theirs"], &[folder.path()]);
    assert!(outcome.out.contains("\"addresses\":[\"192.0.2.0\"]"), "{}", outcome.out);
}

#[test]
fn exit_2_bad_input_and_all_of_it_at_once() {
    let bad = POOL.replace("addresses", "adresses") + "---\n" + &AD.replace("L2Adv", "L3Adv") + "---\n[\n";
    let folder = in_folder(&[("a.yaml", &bad), ("b.yaml", "kind: [\n"), ("c.yaml", &service("s"))]);
    let outcome = run(&["--json"], &[folder.path(), &folder.path().join("none.yaml")]);
    assert_eq!((outcome.code, outcome.out.as_str()), (2, ""));
    let path = folder.path().display();
    let errors: Vec<_> = outcome.err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 6, "{errors:#?}");
    for (error, start) in errors.iter().zip([
        format!("error: {path}/a.yaml:4 (document 1): IPAddressPool metallb-system/p: spec.addresses: is missing: add it"),
        format!(
            "error: {path}/a.yaml:4 (document 1): IPAddressPool metallb-system/p: spec.adresses: unknown field: did you mean \
             `addresses`?"
        ),
        format!("error: {path}/a.yaml:7 (document 2): kind: metallb.io has no kind L3Advertisement: did you mean"),
        format!("error: {path}/a.yaml:10 (document 3): this is not YAML: "),
        format!("error: {path}/b.yaml:1 (document 1): this is not YAML: "),
        format!("error: {path}/none.yaml: cannot be read: there is no such file or folder"),
    ]) {
        assert!(error.starts_with(&start), "{error}\nis not\n{start}");
    }
    assert!(outcome.err.contains("6 errors in the input, nothing was planned"));

    let empty = in_folder(&[("notes.txt", "hello")]);
    let outcome = run(&[], &[empty.path()]);
    assert_eq!(outcome.code, 2);
    let none_there = format!("{}: no .yaml, .yml or .json file is there", empty.path().display());
    assert!(outcome.err.starts_with(&format!("error: {none_there}")), "{}", outcome.err);
    let outcome = run(&[], &[empty.path(), &data().join("plan")]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.err.starts_with(&format!("notice: {none_there}")), "{}", outcome.err);
}

#[test]
fn output_that_cannot_be_written_is_an_error_unless_nobody_wants_it() {
    struct Failing(std::io::ErrorKind);
    impl std::io::Write for Failing {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Err(self.0.into())
        }
    }
    let folder = data().join("plan");
    for (kind, code) in [(std::io::ErrorKind::StorageFull, 2), (std::io::ErrorKind::BrokenPipe, 0)] {
        for options in [&[][..], &["--json"]] {
            let args = ["plan", folder.to_str().unwrap()].into_iter().chain(options.iter().copied());
            let ended = plan::run(&plan::Args::parse_from(args), &mut Failing(kind), &mut Vec::new());
            let mut err = Vec::new();
            assert_eq!(plan::code(ended, &mut err), code);
            assert_eq!(err.starts_with(b"error: the output cannot be written: "), code == 2);
            assert_eq!(err.is_empty(), code == 0);
        }
    }
}

#[test]
fn the_table_sends_no_commands_to_a_terminal() {
    let service = service("s")
        .replace("name: s", "name: s, annotations: {metallb.io/address-pool: \"\\e[31m\"}")
        .replace("ports:", "loadBalancerClass: \"\\e[32m\", ports:");
    let folder = in_folder(&[("a.yaml", POOL), ("b\u{1b}[33m.yaml", &service)]);
    for args in [&[][..], &["--class", "\u{1b}[32m"]] {
        let outcome = run(args, &[folder.path()]);
        let said = outcome.out + &outcome.err;
        assert!(said.contains("\\u{1b}[3"), "{said}");
        assert!(!said.contains('\u{1b}'), "{said}");
    }
}

#[test]
fn an_empty_class_is_refused() {
    let refused = plan::Args::try_parse_from(["plan", "--class", "", "x"]).unwrap_err().to_string();
    assert!(refused.contains("--class <CLASS>"), "{refused}");
    let version = plan::Args::try_parse_from(["plan", "--version"]).unwrap_err().to_string();
    assert_eq!(version, format!("plan {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_table_says_what_gateways_and_routes_lack() {
    let text = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: lbcore}
spec: {controllerName: lbcore.io/gateway-controller}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: p, namespace: metallb-system}
spec: {addresses: [192.0.2.0/28]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: p, namespace: metallb-system}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: www}
spec:
  gatewayClassName: lbcore
  listeners:
    - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: cert}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: www}
spec:
  parentRefs: [{name: www}, {name: nope}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
";
    let folder = in_folder(&[("a.yaml", text)]);
    let Outcome { code, out, err } = run(&[], &[folder.path()]);
    assert_eq!(code, 0, "it has its address: {err}");
    for said in [
        "gateway default/www listener https: Accepted=False (UnsupportedProtocol)",
        "httproute default/www: Accepted=False (NotAllowedByListeners): no listener of Gateway default/www among https takes \
         HTTPRoutes: see its protocol",
    ] {
        assert!(out.contains(said), "{out}");
    }
    assert!(err.contains("spec.parentRefs[1].name: there is no Gateway default/nope"), "{err}");
}
