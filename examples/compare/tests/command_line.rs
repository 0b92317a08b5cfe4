//! The program from its user's end.

use std::process::{Command, Output};

fn compare(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compare")).args(arguments).output().expect("it runs")
}

fn complaint(arguments: &[&str]) -> String {
    let output = compare(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn what_there_is_not_is_answered_with_what_there_is() {
    assert!(
        complaint(&["nothing"])
            .contains("there is no table \"nothing\"; there are: alloc, arp, failover, match")
    );
    let both = complaint(&["alloc", "--system", "lbcore,cilium", "--case", "v4"]);
    assert!(both.contains("there is no system \"cilium\"; there are: lbcore, metallb-scan"), "{both}");
    assert!(both.contains("there is no case \"v4\"; there are: v4-16-fill-0,"), "{both}");
    complaint(&[]);
    complaint(&["alloc", "--runs", "0"]);
}

#[test]
fn a_narrowed_table_has_just_its_rows() {
    let arguments =
        ["alloc", "--json", "--case", "v6-64-held-0,v4-16-fill-0", "--system", "lbcore", "--runs", "1"];
    let output = compare(&arguments);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys: Vec<_> = rows
        .iter()
        .map(|row| {
            ["event", "table", "system", "case", "metric", "unit"].map(|key| row[key].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        keys,
        [
            ["row", "alloc", "lbcore", "v4-16-fill-0", "allocate", "ns"],
            ["row", "alloc", "lbcore", "v4-16-fill-0", "allocate-p99", "ns"],
            ["row", "alloc", "lbcore", "v6-64-held-0", "allocate", "ns"],
            ["row", "alloc", "lbcore", "v6-64-held-0", "allocate-p99", "ns"],
        ]
    );
    assert!(rows.iter().all(|row| row["value"].as_f64().unwrap() > 0.0 && row["runs"] == 1));
}

#[test]
fn routes_are_matched_without_allocation() {
    let arguments =
        ["match", "--json", "--case", "prefixes-100", "--system", "lbcore,hashmap", "--runs", "1"];
    let output = compare(&arguments);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys: Vec<_> =
        rows.iter().map(|row| ["system", "metric", "unit"].map(|key| row[key].as_str().unwrap())).collect();
    assert_eq!(
        keys,
        [
            ["lbcore", "look-up", "ns"],
            ["lbcore", "allocations", "each"],
            ["lbcore", "memory", "KiB"],
            ["hashmap", "look-up", "ns"],
            ["hashmap", "allocations", "each"],
            ["hashmap", "memory", "KiB"],
        ]
    );
    assert_eq!(rows[1]["value"], 0.0);
    assert!([0, 2, 3, 5].iter().all(|at| rows[*at]["value"].as_f64().unwrap() > 0.0));
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_measured_in_a_process_of_its_own() {
    let output = compare(&["alloc", "--case", "services-65536", "--system", "lbcore", "--runs", "1"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("memory") && text.contains("MiB"), "{text}");
}
