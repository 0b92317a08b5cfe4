//! The tables that need a network, each in a short run: all rows are there, and their figures make sense. How fast
//! anything is does not matter here.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use lbcore_examples::netns;
use serde_json::Value;

fn compare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command.args(["--json", "--runs=1"]).args(arguments);
    command
}

fn rows(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The rows of a table in which nothing fails.
fn measured(arguments: &[&str]) -> Vec<Value> {
    let output = compare(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    rows(&output)
}

/// The figures of a system in a case, by the names that are expected of it and no others.
fn figures<const N: usize>(rows: &[Value], system: &str, case: &str, metrics: [&str; N]) -> [f64; N] {
    let its: Vec<_> = rows.iter().filter(|row| row["system"] == system && row["case"] == case).collect();
    let names: Vec<_> = its.iter().map(|row| row["metric"].as_str().unwrap()).collect();
    assert_eq!(names, metrics, "of {system} in {case}");
    assert!(its.iter().all(|row| row["event"] == "row" && row["runs"] == 1 && row["unit"].is_string()));
    let values = std::array::from_fn(|at| its[at]["value"].as_f64().unwrap());
    assert!(values.iter().all(|value| *value >= 0.0), "{its:?}");
    values
}

#[test]
fn failover_beside_keepalived() {
    if !netns::can_test("failover_beside_keepalived") || netns::find_program("keepalived").is_none() {
        return;
    }
    let systems = ["lbcore", "keepalived"];
    let rows = measured(&["failover", "--case=process", "--system", &systems.join(",")]);
    for system in systems {
        let [median, worst, failed, outside, cut, two_owners, missed, processor] = figures(
            &rows,
            system,
            "process",
            [
                "gap_ms_p50",
                "gap_ms_worst",
                "failed",
                "failed_outside_gaps",
                "cut",
                "two_owners_ms",
                "not_recovered",
                "cpu_ms_per_s",
            ],
        );
        assert!(median > 0.0 && median.total_cmp(&worst).is_eq(), "of one process that was killed: {rows:?}");
        assert!(failed > outside && cut > 0.0, "{rows:?}");
        // An idle keepalived takes less than is shown.
        assert!(processor > 0.0 || system == "keepalived", "{rows:?}");
        // keepalived's check finds its web server missing.
        assert_eq!((two_owners, missed), (0.0, 0.0), "of {system}");
    }
    let rows = measured(&["failover", "--case=daemon", "--system=lbcore"]);
    assert_eq!((rows.len(), &rows[0]["event"]), (1, &"skip".into()), "{rows:?}");
}

/// A program named keepalived that does nothing but complain, and the `PATH` with which it is found.
fn broken_keepalived() -> std::ffi::OsString {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken");
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("keepalived");
    std::fs::write(&program, "#!/bin/sh\necho this is not it >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path))).unwrap()
}

#[test]
fn what_fails_is_told_and_does_not_keep_the_others() {
    if !netns::can_test("what_fails_is_told_and_does_not_keep_the_others") {
        return;
    }
    let arguments = ["failover", "--case=daemon,drain", "--system=keepalived,keepalived-20ms"];
    let output = compare(&arguments).env("PATH", broken_keepalived()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let rows = rows(&output);
    let of: Vec<_> =
        rows.iter().map(|row| ["event", "case", "system"].map(|key| row[key].as_str().unwrap())).collect();
    assert_eq!(
        of,
        [
            ["failure", "daemon", "keepalived"],
            ["failure", "daemon", "keepalived-20ms"],
            ["failure", "drain", "keepalived"],
            ["failure", "drain", "keepalived-20ms"],
        ]
    );
    // What it said comes with that, unless the lab saw its end first.
    let told = |row: &Value| row["reason"].as_str().unwrap().contains("ended by itself (exit status: 1)");
    assert!(rows.iter().all(told), "{rows:?}");
}

#[test]
fn answers_and_announcements_beside_the_kernel() {
    if !netns::can_test("answers_and_announcements_beside_the_kernel") {
        return;
    }
    let systems = ["lbcore", "kernel"];
    let rows = measured(&["arp", "--case=addresses-100,takeover-1000", "--system", &systems.join(",")]);
    if rows.iter().all(|row| row["reason"] == "it takes two cores") {
        return;
    }
    let ours = figures(&rows, "lbcore", "addresses-100", ["replies_per_s", "answered", "cpu_per_reply"]);
    let kernel = figures(&rows, "kernel", "addresses-100", ["replies_per_s", "answered"]);
    for [replies, answered] in [[ours[0], ours[1]], kernel] {
        // A few frames that answer nobody, such as the kernel's own.
        assert!(replies > 0.0 && answered > 0.0 && answered < 101.0, "{rows:?}");
    }
    let [took, allowed, memory] =
        figures(&rows, "lbcore", "takeover-1000", ["last_first_announcement", "pace_allows", "memory"]);
    assert!(took >= allowed * 0.9 && memory > 0.0, "{rows:?}");
    let skipped = rows.last().unwrap();
    assert_eq!((&skipped["event"], &skipped["system"]), (&"skip".into(), &"kernel".into()));
}
