//! The options of the lab, each in a short run with real nodes: what the summary says is asserted.
//!
//! Runs the example program `lab`, which makes its own sandbox.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

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
    let output = Command::new(program())
        .args(["--json", "--steady=300ms", "--hold=250ms", "--settle=300ms"])
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
