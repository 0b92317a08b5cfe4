//! Tests inside namespaces.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::sandbox::{explain, private_mounts};

/// How long a test may take: one that waits for what never comes must not keep the others.
const LIMIT: Duration = Duration::from_secs(120);

/// Holds the name of the test that the inner process runs.
pub(super) const MARKER: &str = "LBCORE_NETNS_TEST";

/// Set by whoever must not miss a test: makes one fail that would be skipped because something is missing here.
const REQUIRED: &str = "CI";

/// Runs `body` as the test `name` in namespaces of its own: user (unless root), network, mount and PID.
///
/// `name` is the test's own name as `cargo test` prints it, such as `module::my_test`. The test binary is started
/// again for this test alone under `unshare` of util-linux; its output and its failure become this test's. Tests
/// run beside each other without seeing each other's namespaces. When this process dies in whatever way, all
/// processes of the test die.
///
/// Where the kernel forbids namespaces the test is skipped with a message that says why, or fails if the
/// environment has `CI`.
///
/// # Panics
///
/// If the test fails inside or takes longer than two minutes, or if there is no test of that name.
pub fn test(name: &str, body: impl FnOnce()) {
    if variable(MARKER).as_deref() == Some(name) {
        die_with_the_outer_process();
        private_mounts().expect("mounts of our own");
        return body();
    }
    let Some(unshare) = permitted(name) else { return };
    let mut child = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().expect("the test binary's path"))
        .args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(MARKER, name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare runs");
    // Held open to the end, or to the limit: see `die_with_the_outer_process`.
    let lifeline = child.stdin.take();
    let (ended, waiting) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let in_time = waiting.recv_timeout(LIMIT) == Err(RecvTimeoutError::Disconnected);
        drop(lifeline);
        in_time
    });
    let mut error_pipe = child.stderr.take().expect("a pipe");
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = error_pipe.read_to_end(&mut text);
        text
    });
    let mut output = Vec::new();
    let _ = child.stdout.take().expect("a pipe").read_to_end(&mut output);
    let errors = errors.join().expect("the reader of stderr");
    let status = child.wait().expect("unshare ends");
    drop(ended);
    let in_time = watch.join().expect("the watch");
    let output = String::from_utf8_lossy(&output);
    print!("{output}");
    eprint!("{}", String::from_utf8_lossy(&errors));
    assert!(in_time, "{name} was still running after {LIMIT:?}; its output is above");
    assert!(status.success(), "{name} failed in its namespaces ({status}); its output is above");
    assert!(output.contains("1 passed"), "there is no test named {name}");
}

/// Whether [`test()`] can run here; if not, says on standard error that `name` is skipped, and why (with
/// `CI` in the environment that is a failure).
pub fn can_test(name: &str) -> bool {
    permitted(name).is_some()
}

fn permitted(name: &str) -> Option<&'static [&'static str]> {
    access().map_err(|reason| skip(name, reason)).ok()
}

/// The path of a program that a test needs, as of [`locate`].
///
/// `None`, with a message that names it, if it is not installed: the test returns then. With
/// `CI` in the environment that is a failure instead.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let found = locate(program);
    if found.is_none() {
        skip(program, "this program is not installed");
    }
    found
}

/// The path of a program, looked for in `PATH` and the usual places of daemons.
pub fn locate(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/frr"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn skip(name: &str, reason: &str) {
    assert!(variable(REQUIRED).is_none(), "{name}: {reason}");
    // Not `eprintln!`: libtest hides that of a test which passes.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {reason}");
}

/// The inner process is the first of its PID namespace: when it exits, the kernel kills all others in it.
fn die_with_the_outer_process() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
}

/// The options for `unshare` here, or why there are none. Found out once.
fn access() -> Result<&'static [&'static str], &'static str> {
    const ROOT: &[&str] = &["--net", "--mount", "--pid", "--fork", "--kill-child"];
    const USER: &[&str] =
        &["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"];
    static ACCESS: OnceLock<Result<&'static [&'static str], String>> = OnceLock::new();
    let access = ACCESS.get_or_init(|| {
        let mut reason = String::new();
        let candidates = if nix::unistd::geteuid().is_root() { [ROOT, USER].as_slice() } else { &[USER] };
        for options in candidates {
            match Command::new("unshare").args(*options).arg("true").stdin(Stdio::null()).output() {
                Ok(done) if done.status.success() => return Ok(*options),
                Ok(done) => reason = String::from_utf8_lossy(&done.stderr).trim_end().to_owned(),
                Err(error) => reason = format!("cannot run unshare of util-linux: {error}"),
            }
        }
        Err(match explain(|path| std::fs::read_to_string(path).ok()) {
            Some((rule, fix)) => format!("{rule}; {fix}"),
            None => format!("no namespaces here: {reason}"),
        })
    });
    access.as_ref().map(|options| *options).map_err(String::as_str)
}

#[expect(
    clippy::disallowed_methods,
    reason = "how the test binary learns that it is the inner one, and CI's switch"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
