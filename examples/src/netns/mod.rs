//! Networks of network namespaces, built without being root.
//!
//! A [`Segment`] is a bridge; each [`Host`] on it is a network namespace with a cable (a veth pair) to that bridge.
//! Programs, sockets and whole tokio runtimes run inside a host; cables are cut and plugged in again; a [`Tap`]
//! reads every frame that enters the bridge and knows the cable that it came from.
//!
//! Namespaces need privileges that an ordinary user has inside a user namespace of their own, and a process can
//! move into one only while it has a single thread. So there are two doors:
//!
//! - a program calls [`enter_sandbox`] first thing in `main`;
//! - a test (libtest has threads already) wraps its body in [`test()`].
//!
//! Both put everything into a PID namespace, whose end takes all processes with it: nothing is left behind by a
//! panic, by Ctrl-C or by a SIGKILL. Both mount a tmpfs on [`SCRATCH`] for files that must not outlive the run.
//!
//! ```no_run
//! # // Not run as a doctest: rustdoc's own test binary takes no `--exact NAME`.
//! use std::net::TcpListener;
//! use lbcore_examples::netns;
//!
//! #[test]
//! fn two_hosts_talk() {
//!     netns::test("two_hosts_talk", || {
//!         let segment = netns::Segment::new("lan").unwrap();
//!         let a = segment.host("a", &["192.0.2.1/24".parse().unwrap()]).unwrap();
//!         let b = segment.host("b", &["192.0.2.2/24".parse().unwrap()]).unwrap();
//!         // A socket stays in the namespace that it was made in.
//!         let listener = a.enter(|| TcpListener::bind("192.0.2.1:80")).unwrap();
//!         let ping = b.output(std::process::Command::new("ping").args(["-c1", "192.0.2.1"])).unwrap();
//!         assert!(ping.status.success());
//!         segment.cut(&a).unwrap(); // a sees its carrier go, b hears nothing more
//!         segment.restore(&a).unwrap();
//!         # drop(listener);
//!     });
//! }
//! ```

mod link;
mod raw;
mod sandbox;
mod segment;
mod tap;
mod test;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};

pub use link::{LinkState, Neighbour};
pub use raw::RawSocket;
pub use sandbox::{Entered, SandboxError, enter_sandbox};
pub use segment::{Branch, Host, Segment};
pub use tap::{Frame, Tap, TapFilter};
pub use test::{can_test, find_program, locate, test};

/// The folder for files that must not outlive a sandbox or a [`test()`]: a tmpfs of its own.
pub const SCRATCH: &str = "/run";

/// What went wrong while a network was built or changed.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    what: String,
    source: io::Error,
}

impl Error {
    pub(crate) fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.source.kind(), format!("{error}: {}", error.source))
    }
}

/// A network namespace. It lives as long as this value, a socket or a process in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes a namespace with nothing in it but `lo`, which is up, and the settings of a freshly booted kernel,
    /// whatever this machine's are; IPv6 addresses are usable at once (no duplicate address detection).
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        // A thread of its own: unsharing moves only the calling thread.
        let made = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.map_err(|source| no_namespace(&name, source))?;
        let netns = Self { name, file };
        netns.defaults()?;
        netns.set_link("lo", LinkState::Up)?;
        Ok(netns)
    }

    /// The name that it was given; the kernel does not know it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `body` in this namespace, on a thread of its own, and returns what it returns.
    ///
    /// What `body` opens or starts stays here: sockets, child processes, threads, a tokio runtime. Child processes
    /// must not ask for `PR_SET_PDEATHSIG`: their parent is that thread, which ends with `body`.
    ///
    /// # Panics
    ///
    /// If the kernel refuses the thread or the namespace, as [`std::thread::scope`] does; and when `body` panics.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        in_thread(|| {
            if let Err(error) = setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET) {
                panic!("cannot enter the network namespace of {}: {error}", self.name);
            }
            body()
        })
    }

    /// Starts `command` in this namespace.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        command.env_remove(sandbox::MARKER).env_remove(test::MARKER);
        self.enter(|| command.spawn())
    }

    /// Runs `command` in this namespace to its end and collects its output. Its standard input is empty.
    pub fn output(&self, command: &mut Command) -> io::Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(command)?.wait_with_output()
    }

    /// Writes a setting such as `net.ipv4.ip_forward`, or `net/ipv4/conf/eth0.5/arp_ignore` where a name has dots.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        self.enter(|| std::fs::write(sysctl_path(key), value))
            .map_err(|source| Error::new(format!("set {key}={value} in {}", self.name), source))
    }

    /// Reads a setting, without the line's end.
    pub fn sysctl(&self, key: &str) -> Result<String, Error> {
        self.enter(|| std::fs::read_to_string(sysctl_path(key)))
            .map(|text| text.trim_end().to_owned())
            .map_err(|source| Error::new(format!("read {key} in {}", self.name), source))
    }

    /// Brings an interface up or down.
    pub fn set_link(&self, link: &str, state: LinkState) -> Result<(), Error> {
        self.netlink(&format!("set {link} {state}"), async |handle| link::set(handle, link, state).await)
    }

    /// The index and the MAC address of an interface.
    pub fn link(&self, link: &str) -> Result<(u32, [u8; 6]), Error> {
        self.netlink(&format!("look at {link}"), async |handle| link::get(handle, link).await)
    }

    /// Adds an address to an interface.
    pub fn add_address(&self, link: &str, address: IpNet) -> Result<(), Error> {
        self.netlink(&format!("add {address} to {link}"), async |handle| {
            link::add_address(handle, link, address).await
        })
    }

    /// Takes an address from an interface.
    pub fn remove_address(&self, link: &str, address: IpNet) -> Result<(), Error> {
        self.netlink(&format!("remove {address} from {link}"), async |handle| {
            link::remove_address(handle, link, address).await
        })
    }

    /// Takes all addresses away but `kept` and those that the kernel gives by itself, as the loss of power does.
    pub fn keep_addresses(&self, kept: &[IpAddr]) -> Result<(), Error> {
        self.netlink("take addresses away", async |handle| link::keep_addresses(handle, kept).await)
    }

    /// Adds a route to `destination` by the router `via` (both of one family).
    pub fn add_route(&self, destination: IpNet, via: IpAddr) -> Result<(), Error> {
        self.netlink(&format!("add the route to {destination} via {via}"), async |handle| {
            link::add_route(handle, destination, via).await
        })
    }

    /// The kernel's neighbour table (ARP and NDP), without its own multicast and loopback entries.
    pub fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        self.netlink("list the neighbours", async |handle| link::neighbours(handle).await)
    }

    fn netlink<T: Send>(
        &self,
        what: &str,
        work: impl AsyncFnOnce(&rtnetlink::Handle) -> io::Result<T> + Send,
    ) -> Result<T, Error> {
        self.enter(|| link::with_handle(work))
            .map_err(|source| Error::new(format!("{what} in {}", self.name), source))
    }

    /// A new namespace inherits some settings from this machine's first one: not here.
    fn defaults(&self) -> Result<(), Error> {
        const SETTINGS: [(&str, &str); 9] = [
            ("net.ipv4.ip_forward", "0"), // first: writing it resets others
            ("net.ipv4.conf.*.rp_filter", "0"),
            ("net.ipv4.conf.*.arp_ignore", "0"),
            ("net.ipv4.conf.*.arp_announce", "0"),
            ("net.ipv4.conf.*.arp_notify", "0"),
            ("net.ipv4.conf.*.arp_accept", "0"),
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("net.ipv6.conf.*.disable_ipv6", "0"),
            ("net.ipv6.conf.*.accept_dad", "0"),
        ];
        for (key, value) in SETTINGS {
            for scope in ["all", "default"] {
                match self.set_sysctl(&key.replace('*', scope), value) {
                    // A kernel without IPv6.
                    Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                    done => done?,
                }
            }
        }
        Ok(())
    }
}

fn no_namespace(name: &str, source: io::Error) -> Error {
    let fix = match source.kind() {
        // unshare(2): the user has as many as there may be, or one of the user namespaces around.
        io::ErrorKind::StorageFull => {
            " (the kernel allows no more of them: raise the limit, `sudo sysctl -w user.max_net_namespaces=10000`)"
        }
        _ => "",
    };
    Error::new(format!("make the network namespace of {name}{fix}"), source)
}

/// `/proc/sys/net` shows the namespace of the thread that looks.
fn sysctl_path(key: &str) -> PathBuf {
    let relative = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    PathBuf::from("/proc/sys").join(relative)
}

/// Runs `body` on a thread of its own; a panic in it goes on here.
fn in_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(body).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_namespaces_is_told_with_the_remedy() {
        let full = no_namespace("n2", nix::errno::Errno::ENOSPC.into()).to_string();
        assert!(full.contains("n2") && full.contains("sysctl -w user.max_net_namespaces="), "{full}");
        let other = no_namespace("n2", nix::errno::Errno::EPERM.into()).to_string();
        assert_eq!(other, "make the network namespace of n2");
    }
}
