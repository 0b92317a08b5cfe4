//! The options of the lab, each in a short run with real nodes: what the summary says is asserted.
//!
//! Runs the example program `lab`, which makes its own sandbox.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use lbcore_examples::netns;
use serde_json::Value;

/// `target/debug/examples/lab` beside `target/debug/deps/this`.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples/lab")
}

/// A short run: its JSON lines, the summary last. `None` where there can be no namespaces.
fn lab(test: &str, arguments: &[&str]) -> Option<Vec<Value>> {
    if !netns::can_test(test) {
        return None;
    }
    // One at a time: they measure.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(program())
        // A debug build has no thousand answers a second.
        .args(["--json", "--steady=300ms", "--hold=250ms", "--settle=300ms", "--ask-every=4ms"])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.last().unwrap();
    assert_eq!((&summary["event"], &summary["ok"]), (&"summary".into(), &true.into()), "{summary}");
    assert_eq!(output.status.code(), Some(0));
    Some(lines)
}

fn names(summary: &Value) -> Vec<&str> {
    summary["faults"].as_array().unwrap().iter().map(|fault| fault["fault"].as_str().unwrap()).collect()
}

#[test]
fn an_ipv6_segment_is_recovered_as_fast() {
    let Some(lines) = lab("an_ipv6_segment_is_recovered_as_fast", &["--family=ipv6", "--fault=cable,drain"])
    else {
        return;
    };
    let summary = lines.last().unwrap();
    assert_eq!(names(summary), ["cable", "drain"]);
    let gap = |index: usize| summary["faults"][index]["gap_ms"].as_f64().unwrap();
    // The detection of a lost cable, with room for a busy machine; a drain needs no detection.
    assert!(gap(0) > 50.0 && gap(0) < 1000.0 && gap(1) < 200.0, "{summary}");
    let owners = summary["owners"].as_array().unwrap();
    assert!(owners.iter().all(|owner| owner["address"].as_str().unwrap().starts_with("2001:db8::")));
    assert!(lines.iter().any(|line| line["segment"] == "2001:db8::/64"));
}

#[test]
fn each_part_of_a_network_that_falls_apart_is_judged_alone() {
    let Some(lines) =
        lab("each_part_of_a_network_that_falls_apart_is_judged_alone", &["--nodes=2", "--fault=partition"])
    else {
        return;
    };
    let summary = lines.last().unwrap();
    let fault = &summary["faults"][0];
    let parts = fault["parts"].as_array().unwrap();
    assert_eq!((&parts[0]["nodes"], &parts[1]["nodes"]), (&["n2"][..].into(), &["n1"][..].into()));
    // The one without the owner elects one; the other one notices nothing. Which is which, the election decides.
    let gaps = [0, 1].map(|part: usize| parts[part]["gap_ms"].as_f64().unwrap());
    assert!(gaps.contains(&0.0) && gaps[0].max(gaps[1]) > 50.0 && gaps[0].max(gaps[1]) < 1000.0, "{fault}");
    assert!(parts.iter().all(|part| part["served"] == true && part["two_owners_ms"] == 0.0), "{fault}");
    // There were two owners, so the end of it was seen: one of them spoke last, or never again.
    assert!(fault["heal_ms"].as_f64().unwrap() < 1000.0, "{fault}");
    assert_eq!(summary["nodes"].as_array().unwrap().len(), 2);
}

#[test]
fn of_five_nodes_one_is_enough() {
    let Some(lines) = lab("of_five_nodes_one_is_enough", &["--nodes=5", "--fault=cable"]) else { return };
    let nodes = lines.last().unwrap()["nodes"].as_array().unwrap();
    let names: Vec<&str> = nodes.iter().map(|node| node["node"].as_str().unwrap()).collect();
    assert_eq!(names, ["n1", "n2", "n3", "n4", "n5"]);
    assert!(nodes.iter().all(|node| node["cpu_ms_per_s"].as_f64() > Some(0.0)));
    assert!(nodes.iter().all(|node| node["peak_kib"].as_u64() > Some(1000)));
}

#[test]
fn electing_by_etcd_leaves_the_lesser_part_without_an_owner() {
    let test = "electing_by_etcd_leaves_the_lesser_part_without_an_owner";
    if netns::find_program("etcd").is_none() {
        return;
    }
    let Some(lines) = lab(test, &["--elector=lease-etcd", "--fault=partition,drain"]) else { return };
    let summary = lines.last().unwrap();
    let (partition, drain) = (&summary["faults"][0], &summary["faults"][1]);
    let served = [0, 1].map(|part: usize| partition["parts"][part]["served"].as_bool().unwrap());
    assert_eq!(served, [true, false]);
    // Whoever is cut off from its owner waits: those who can elect another one until the lease has ended, the lesser part
    // for good. The owner's own clients go on as long as they do not ask who it is; over the whole segment nobody else
    // answers before it has fallen silent.
    let gaps = [0, 1].map(|part: usize| partition["parts"][part]["gap_ms"].as_f64().unwrap());
    match gaps {
        [0.0, lesser] => assert!(lesser > 5000.0, "{partition}"),
        [waited, lesser] => assert!((1000.0..5000.0).contains(&waited) && lesser == 0.0, "{partition}"),
    }
    assert_eq!((&partition["two_owners_ms"], &drain["two_owners_ms"]), (&0.0.into(), &0.0.into()));
    assert!(drain["gap_ms"].as_f64().unwrap() < 1000.0, "{drain}");
}

#[test]
fn hundreds_of_addresses_are_taken_over_together() {
    let arguments = ["--nodes=2", "--address-count=300", "--fault=node"];
    let Some(lines) = lab("hundreds_of_addresses_are_taken_over_together", &arguments) else { return };
    let summary = lines.last().unwrap();
    // The summary is not `ok` unless all of them were claimed by the other node; 151 are announced by 500 in a second.
    let takeover = summary["faults"][0]["takeover_ms"].as_f64().unwrap();
    assert!(takeover > 100.0 && takeover < 5000.0, "{summary}");
    let owners = summary["owners"].as_array().unwrap();
    assert!(owners.iter().any(|owner| owner["address"].as_str().unwrap().starts_with("198.18.")));
    assert!(lines.iter().any(|line| line["event"] == "allocated-more" && line["count"] == 302 - 32));
}

#[test]
fn a_paused_owner_is_replaced_and_a_long_answer_outlives_a_drain() {
    let test = "a_paused_owner_is_replaced_and_a_long_answer_outlives_a_drain";
    let Some(lines) = lab(test, &["--downloads=40", "--fault=drain,drain,pause,process"]) else {
        return;
    };
    let faults = lines.last().unwrap()["faults"].as_array().unwrap();
    let cut = |index: usize| faults[index]["cut"].as_u64().unwrap();
    // Some answers begin before the first drain and end after the second: they are passed on by way of both nodes.
    for index in [0, 1] {
        let fault = &faults[index];
        assert_eq!((&fault["fault"], &fault["failed"], cut(index)), (&"drain".into(), &0.into(), 0));
    }
    assert_eq!((&faults[2]["fault"], &faults[2]["two_owners_ms"]), (&"pause".into(), &0.0.into()));
    // What a killed process was in the middle of is cut: the instrument sees it.
    assert!(cut(3) >= 20, "{:?}", faults[3]);
}

/// What is planned costs nothing: a summary is not `ok` if a request failed or a connection was cut. Many clients are in
/// the middle of an answer all the time.
fn costs_nothing(test: &str, arguments: &[&str]) -> Option<Value> {
    let lines = lab(test, &[&["--downloads=40", "--keep-going"], arguments].concat())?;
    let summary = lines.last().unwrap().clone();
    assert_eq!((&summary["failed"], &summary["cut"]), (&0.into(), &0.into()), "{summary}");
    Some(summary)
}

#[test]
fn a_rolling_restart_costs_nothing() {
    for (nodes, option) in [(3, "--nodes=3"), (2, "--nodes=2")] {
        let arguments = [option, "--fault=rolling"];
        let Some(summary) = costs_nothing("a_rolling_restart_costs_nothing", &arguments) else { return };
        let restarts = summary["faults"][0]["restarts"].as_array().unwrap();
        let names: Vec<&str> = restarts.iter().map(|restart| restart["node"].as_str().unwrap()).collect();
        assert_eq!(names, ["n1", "n2", "n3"][..nodes]);
    }
}

#[test]
fn a_rolling_restart_by_leases_costs_nothing() {
    if netns::find_program("etcd").is_some() {
        let arguments = ["--elector=lease-etcd", "--fault=rolling"];
        costs_nothing("a_rolling_restart_by_leases_costs_nothing", &arguments);
    }
}

#[test]
fn connections_that_the_kernel_redirects_outlive_a_drain_there_and_back() {
    // Without the Gateway the clients' address is that of a plain service.
    let folder = tempfile::tempdir().unwrap();
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/lab"));
    for file in std::fs::read_dir(own).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "30-gateway.yaml" {
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
    }
    let manifests = format!("--manifests={}", folder.path().display());
    let test = "connections_that_the_kernel_redirects_outlive_a_drain_there_and_back";
    costs_nothing(test, &[&manifests, "--fault=drain,drain"]);
}
