//! How much memory something holds, measured in a process that does nothing else.

use std::io;
use std::process::{Command, Stdio};

/// The resident memory of this process, in bytes; `None` where the system does not tell.
pub(crate) fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// By how much the resident memory grows while `build` makes something that is still held afterwards.
pub(crate) fn growth<T>(build: impl FnOnce() -> T) -> u64 {
    let before = resident().unwrap_or_default();
    let built = build();
    let after = resident().unwrap_or_default();
    drop(built);
    after.saturating_sub(before)
}

/// Has a case of a system measured by a new process of this program; in bytes.
pub(crate) fn measure_alone(table: &str, system: &str, case: &str) -> io::Result<f64> {
    let output = Command::new(std::env::current_exe()?)
        .args([table, "--alone", "--system", system, "--case", case])
        // For what it complains about.
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().parse() {
        Ok(bytes) if output.status.success() => Ok(bytes),
        _ => Err(io::Error::other(format!("{case} of {system} ended with {}", output.status))),
    }
}
