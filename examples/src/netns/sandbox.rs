//! Moving a whole program into namespaces of its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getgid, getuid};

use super::SCRATCH;

/// Tells the inner process that it is inside, and whose child it must be.
pub(super) const MARKER: &str = "LBCORE_SANDBOX";

/// Where [`enter_sandbox`] returns.
#[derive(Debug)]
pub enum Entered {
    /// In the sandbox: root in it, with a private mount table and as the first process of its PID namespace.
    Inside,
    /// Outside, when all is over: `main` returns this, the exit code of the inner process.
    Outside(ExitCode),
    /// Outside, when SIGINT, SIGTERM or SIGHUP ended everything inside: `main` returns this.
    Interrupted(ExitCode),
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The kernel does not let this user make namespaces.
    #[error("the kernel forbids namespaces here: {reason}; {fix}")]
    Forbidden {
        /// Which rule forbids it.
        reason: String,
        /// What to do.
        fix: String,
    },
    /// A step failed for another reason.
    #[error("cannot {step}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Runs this program again inside user (unless root), network, mount and PID namespaces of its own.
///
/// Call it first in `main`, before any thread is started. In the inner process it returns [`Entered::Inside`];
/// the outer one waits here, and when it is killed, even by SIGKILL, everything inside is killed with it. SIGINT,
/// SIGTERM and SIGHUP to the outer process end everything inside at once.
pub fn enter_sandbox() -> Result<Entered, SandboxError> {
    #[expect(clippy::disallowed_methods, reason = "the mark that the outer process left")]
    let marker = std::env::var(MARKER);
    match marker {
        Ok(outer) => settle(&outer).map(|()| Entered::Inside),
        Err(_) => run_inside(),
    }
}

fn run_inside() -> Result<Entered, SandboxError> {
    isolate()?;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("lbcore"));
    let mut child = Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .env(MARKER, std::process::id().to_string())
        .spawn()
        .map_err(|source| refusal("start this program again", source))?;
    let inner = Pid::from_raw(child.id().cast_signed());

    // From here on these signals wait until `wait` below takes them. One that came earlier has killed this
    // process, and the kernel then kills the inner one.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    let wait_failed = |errno: Errno| refusal("wait for the inner process", errno.into());
    signals.thread_block().map_err(wait_failed)?;
    loop {
        // Looked at first: it may have ended before SIGCHLD was blocked.
        match waitpid(inner, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => {
                return Ok(Entered::Outside(ExitCode::from(u8::try_from(code).unwrap_or(1))));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Entered::Outside(killed_by(signal))),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(wait_failed(errno)),
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(Errno::EINTR) => {}
            Ok(signal) => {
                // The kernel reports the end of a PID namespace's first process when all others are gone.
                let _ = kill(inner, Signal::SIGKILL);
                let _ = child.wait();
                return Ok(Entered::Interrupted(killed_by(signal)));
            }
            Err(errno) => return Err(wait_failed(errno)),
        }
    }
}

/// The exit code that a shell shows for a program killed by `signal`.
fn killed_by(signal: Signal) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(1))
}

/// Makes the namespaces; as root without a user namespace where that is permitted.
fn isolate() -> Result<(), SandboxError> {
    let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let (uid, gid) = (getuid(), getgid());
    if uid.is_root() && unshare(namespaces).is_ok() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER | namespaces)
        .map_err(|errno| refusal("make namespaces", errno.into()))?;
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    for (path, content) in maps {
        std::fs::write(path, content).map_err(|source| refusal("map this user to root", source))?;
    }
    Ok(())
}

/// The inner process's first steps.
fn settle(outer: &str) -> Result<(), SandboxError> {
    set_pdeathsig(Signal::SIGKILL)
        .map_err(|errno| refusal("ask to die with the outer process", errno.into()))?;
    // It may have died before that. `/proc` is still the outer one, and so are its process numbers.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
    if parent.is_some_and(|parent| parent != outer) {
        return Err(SandboxError::Step {
            step: "stay in the sandbox",
            source: io::Error::other(format!("the outer process is gone, or {MARKER} was set by hand")),
        });
    }
    private_mounts().map_err(|source| refusal("set up private mounts", source))
}

/// A mount table of our own, with `/proc` of this PID namespace and an empty [`SCRATCH`].
pub(super) fn private_mounts() -> io::Result<()> {
    const NOTHING: Option<&str> = None;
    let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
    mount(Some("tmpfs"), SCRATCH, Some("tmpfs"), hardened, Some("mode=0755"))?;
    match mount(Some("proc"), "/proc", Some("proc"), hardened | MsFlags::MS_NOEXEC, NOTHING) {
        // In a container that masks parts of /proc; the old one does, but for its process numbers.
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The error for a failed step: with the rule and the way out, where a rule of the kernel is the cause.
fn refusal(step: &'static str, source: io::Error) -> SandboxError {
    let errno = source.raw_os_error().map(Errno::from_raw);
    let refused =
        matches!(errno, Some(Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::EUSERS | Errno::EINVAL));
    match refused.then(|| explain(|path| std::fs::read_to_string(path).ok())).flatten() {
        Some((reason, fix)) => SandboxError::Forbidden { reason, fix },
        None if matches!(errno, Some(Errno::EPERM | Errno::EACCES)) => SandboxError::Forbidden {
            reason: format!("it did not permit to {step} ({source})"),
            fix: "in a container, run it with --privileged, or with a seccomp profile that permits unshare and \
                  mount; elsewhere run this program as root"
                .to_owned(),
        },
        None => SandboxError::Step { step, source },
    }
}

/// The rule of this kernel that forbids namespaces, and what to do. `read` reads a setting's file.
pub(super) fn explain(read: impl Fn(&str) -> Option<String>) -> Option<(String, String)> {
    const RULES: [(&str, &str, &str); 4] = [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "10000"),
        ("user.max_net_namespaces", "0", "10000"),
    ];
    RULES.iter().find_map(|(key, forbids, permits)| {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        (read(&path)?.trim() == *forbids).then(|| {
            (
                format!("{key} is {forbids}"),
                format!("run `sudo sysctl -w {key}={permits}`, or run this program as root"),
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidding_rule_is_named_with_its_remedy() {
        for (path, value, key, remedy) in [
            (
                "/proc/sys/kernel/unprivileged_userns_clone",
                "0\n",
                "kernel.unprivileged_userns_clone is 0",
                "_clone=1",
            ),
            (
                "/proc/sys/user/max_user_namespaces",
                "0\n",
                "user.max_user_namespaces is 0",
                "_namespaces=10000",
            ),
            (
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1\n",
                "kernel.apparmor_restrict_unprivileged_userns is 1",
                "_userns=0",
            ),
        ] {
            let (reason, fix) = explain(|asked| (asked == path).then(|| value.to_owned())).unwrap();
            assert_eq!(reason, key);
            assert!(fix.contains(remedy), "{fix}");
        }
    }

    #[test]
    fn a_permitting_kernel_has_no_rule_to_name() {
        let permits = |path: &str| match path {
            "/proc/sys/kernel/unprivileged_userns_clone" => Some("1\n".to_owned()),
            "/proc/sys/user/max_user_namespaces" => Some("96365\n".to_owned()),
            _ => None,
        };
        assert_eq!(explain(permits), None);
    }

    #[test]
    fn a_refusal_without_a_known_rule_still_says_what_to_do() {
        let error = refusal("make namespaces", Errno::EIO.into());
        assert!(matches!(error, SandboxError::Step { .. }), "{error}");
    }
}
