//! Nodes that elect by leases in an etcd, on one segment with it: at no time do two of them say that they have an address.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "programs take real time")]

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use lbcore::time::Instant;
use lbcore_examples::lab::owners::{Claim, claimed, owner, two_owners};
use lbcore_examples::netns::{self, Host, RawSocket, Segment, Tap, TapFilter};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ETCD: &str = "http://192.0.2.50:2379";
/// Nobody has this one.
const GONE: &str = "http://192.0.2.51:2379";
const VIPS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 200), Ipv4Addr::new(192, 0, 2, 201)];
const LEASE: Duration = Duration::from_millis(1500);
/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that ends with the test.
struct Program(Child);

impl Program {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    /// SIGTERM, and whether it ended well.
    fn stop(mut self) -> bool {
        self.signal(Signal::SIGTERM);
        self.0.wait().unwrap().success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn host(segment: &Segment, name: &str, last: u8) -> Host {
    segment.host(name, &[format!("192.0.2.{last}/24").parse().unwrap()]).unwrap()
}

fn start_etcd(host: &Host, program: &Path) -> Program {
    let peer = "http://192.0.2.50:2380";
    let mut command = Command::new(program);
    command
        .args(["--name", "one", "--unsafe-no-fsync", "--logger", "zap", "--log-outputs", "/dev/null"])
        .args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("one={peer}"), "--data-dir"])
        .arg(Path::new(netns::SCRATCH).join("etcd"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Program(host.spawn(&mut command).unwrap())
}

/// The `node` example, which cargo has built beside this test, and the addresses that it owns from time to time.
fn start_node(host: &Host) -> (Program, mpsc::Receiver<String>) {
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new(test.ancestors().nth(2).unwrap().join("examples/node"));
    command
        .args(["--node", host.name(), "--json", "--forward", "none", "--manifests"])
        .arg(std::env::current_dir().unwrap().join("manifests/lab"))
        .args(["--elector", "lease-etcd", "--etcd", GONE, "--etcd", ETCD])
        .args(["--etcd-prefix", "test", "--lease", &format!("{}ms", LEASE.as_millis())])
        .stdout(Stdio::piped());
    let mut child = host.spawn(&mut command).unwrap();
    let told = BufReader::new(child.stdout.take().unwrap()).lines();
    let (tell, events) = mpsc::channel();
    std::thread::spawn(move || told.map_while(Result::ok).try_for_each(|line| tell.send(line)));
    (Program(child), events)
}

/// Waits until a node has told something with all these words.
fn await_told(events: &mpsc::Receiver<String>, words: &[&str]) {
    let end = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    while !told.last().is_some_and(|line: &String| words.iter().all(|word| line.contains(word))) {
        let line = events.recv_timeout(end.saturating_since(Instant::now()));
        told.push(line.unwrap_or_else(|_| panic!("{words:?} was not told, but {told:#?}")));
    }
}

/// Asks for both addresses by ARP, to all, forty times a second: who thinks that it has one says so.
fn keep_asking(client: &Host, end: &AtomicBool) {
    let mac = client.mac();
    let socket = RawSocket::open(client, "eth0").unwrap();
    while !end.load(Ordering::Relaxed) {
        for vip in VIPS {
            // RFC 826, a request.
            let head = [0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01];
            let frame =
                [&[0xff; 6], &mac[..], &head, &mac, &[192, 0, 2, 100], &[0; 6], &vip.octets()].concat();
            socket.send(&frame).unwrap();
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// What the segment hears of the two addresses.
struct Watch {
    tap: Tap,
    claims: Vec<Claim>,
    /// Where the present stretch begins, and who owned what before.
    since: usize,
    before: [Option<String>; 2],
}

impl Watch {
    fn new(tap: Tap) -> Self {
        Self { tap, claims: Vec::new(), since: 0, before: [None, None] }
    }

    fn owner(&self, vip: Ipv4Addr) -> Option<&str> {
        owner(&self.claims, vip.into())
    }

    fn owners(&self) -> [Option<String>; 2] {
        VIPS.map(|vip| self.owner(vip).map(str::to_owned))
    }

    /// Hears all that is said for so long.
    fn listen(&mut self, span: Duration) {
        let end = Instant::now() + span;
        while let Some(frame) = self.tap.next(end.saturating_since(Instant::now())).unwrap() {
            let Some((address, announcement)) = claimed(&frame.bytes) else { continue };
            if VIPS.iter().any(|vip| IpAddr::V4(*vip) == address) {
                self.claims.push(Claim { at: frame.at, address, node: frame.host, announcement });
            }
        }
    }

    fn until(&mut self, what: &str, fits: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !fits(self) {
            assert!(Instant::now() < end, "{what} did not happen: {:?}", self.owners());
            self.listen(Duration::from_millis(20));
        }
    }

    /// Each address is owned, by one of `nodes`, and was claimed lately.
    fn until_owned_by(&mut self, what: &str, nodes: &[&str]) {
        self.until(what, |watch| {
            VIPS.iter().all(|vip| watch.owner(*vip).is_some_and(|owner| nodes.contains(&owner)))
        });
    }

    /// Who says anything from now on, for so long.
    fn speakers(&mut self, span: Duration) -> Vec<String> {
        let heard = self.claims.len();
        self.listen(span);
        let mut speakers: Vec<_> = self.claims[heard..].iter().map(|claim| claim.node.clone()).collect();
        speakers.sort();
        speakers.dedup();
        speakers
    }

    /// Ends a stretch with one fault in it, in which no address had two owners at once, and begins the next.
    fn judge(&mut self, fault: &str) {
        let claims = &self.claims[self.since..];
        for (vip, before) in VIPS.into_iter().zip(&self.before) {
            let both = two_owners(claims, vip.into(), before.as_deref());
            assert!(both.is_zero(), "{fault}: {vip} had two owners for {both:?}");
            // For whoever reads this.
            let mut last: Option<&Claim> = None;
            for (index, claim) in self.claims.iter().enumerate().filter(|(_, claim)| claim.address == vip) {
                if let Some(last) = last.filter(|last| last.node != claim.node && index >= self.since) {
                    let silence = claim.at.saturating_since(last.at);
                    eprintln!("{fault}: {vip} from {} to {}, silent for {silence:?}", last.node, claim.node);
                }
                last = Some(claim);
            }
        }
        self.since = self.claims.len();
        self.before = self.owners();
    }
}

#[test]
fn owners_stand_still_are_cut_off_and_lose_etcd_without_a_second_owner() {
    netns::test("owners_stand_still_are_cut_off_and_lose_etcd_without_a_second_owner", || {
        let Some(program) = netns::find_program("etcd") else { return };
        let lan = Segment::new("lan").unwrap();
        let nodes = [host(&lan, "n1", 11), host(&lan, "n2", 12), host(&lan, "n3", 13)];
        let (store, client) = (host(&lan, "store", 50), host(&lan, "client", 100));
        let mut watch = Watch::new(lan.tap(TapFilter::Neighbour).unwrap());
        let etcd = start_etcd(&store, &program);
        let running = nodes.each_ref().map(start_node);
        let end = AtomicBool::new(false);
        let names = ["n1", "n2", "n3"];
        let number = |name: Option<&str>| names.iter().position(|node| Some(*node) == name).unwrap();
        let others = |of: usize| names.map(|name| if name == names[of] { "" } else { name });
        std::thread::scope(|scope| {
            scope.spawn(|| keep_asking(&client, &end));
            // Whatever fails below, the one who asks ends too.
            let _end = EndAtDrop(&end);
            watch.until_owned_by("that all are owned", &names);
            watch.listen(LEASE * 2);
            watch.judge("the start");

            // The kernel queues the questions for the process that stands still, and it reads them later.
            let still = number(watch.owner(VIPS[0]));
            running[still].0.signal(Signal::SIGSTOP);
            watch.until_owned_by("a takeover", &others(still));
            watch.listen(LEASE);
            running[still].0.signal(Signal::SIGCONT);
            watch.listen(LEASE * 2);
            watch.judge("an owner that stood still");

            // It reaches the clients, and not etcd: silent before another speaks.
            let cut = number(watch.owner(VIPS[0]));
            route(&nodes[cut], "add");
            await_told(&running[cut].1, &["StoreAvailable", "condition"]);
            watch.until_owned_by("a takeover", &others(cut));
            assert!(!watch.speakers(LEASE).contains(&names[cut].to_owned()), "it goes on speaking");
            watch.judge("an owner that etcd is lost to");
            route(&nodes[cut], "delete");
            watch.listen(LEASE * 2);
            watch.judge("etcd is back");

            let cut = number(watch.owner(VIPS[0]));
            lan.cut(&nodes[cut]).unwrap();
            watch.until_owned_by("a takeover", &others(cut));
            watch.listen(LEASE);
            lan.restore(&nodes[cut]).unwrap();
            watch.listen(LEASE * 2);
            watch.judge("a cable");

            // Nobody owns anything without etcd, and all is as before when it is back.
            etcd.signal(Signal::SIGSTOP);
            watch.listen(LEASE * 2);
            assert_eq!(watch.speakers(LEASE), [] as [&str; 0], "etcd answers nobody");
            let heard = watch.claims.len();
            etcd.signal(Signal::SIGCONT);
            watch.until("that all are owned again", |watch| {
                VIPS.iter()
                    .all(|vip| watch.claims[heard..].iter().any(|claim| claim.address == IpAddr::V4(*vip)))
            });
            watch.listen(LEASE * 2);
            watch.judge("etcd stood still");

            for (node, _) in running {
                assert!(node.stop(), "an orderly end");
            }
            // What was said until then.
            watch.listen(Duration::from_millis(100));
            assert_eq!(watch.speakers(LEASE), [] as [&str; 0], "they are gone");
        });
    });
}

struct EndAtDrop<'a>(&'a AtomicBool);

impl Drop for EndAtDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes a node's way to etcd, or gives it back.
fn route(node: &Host, what: &str) {
    let line = ["route", what, "blackhole", "192.0.2.50/32"];
    let output = node.output(Command::new("ip").args(line)).unwrap();
    assert!(output.status.success(), "{output:?}");
}
