//! The agent as its users run it: the program on hosts of a segment, with the lab's manifests.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use lbcore::time::Instant;
use lbcore_examples::netns::{self, Host, Segment};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A running agent and what it tells.
struct Agent {
    child: Child,
    events: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Agent {
    fn start(host: &Host, manifests: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(program());
        command
            .args(["--node", host.name(), "--json", "--manifests"])
            .arg(manifests)
            .args(more)
            .stdout(Stdio::piped());
        let mut child = host.spawn(&mut command).unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, events }
    }

    /// Reads events until one fits; the test's own time limit ends a wait in vain.
    fn wait_for(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        for line in &mut self.events {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if fits(&event) {
                return event;
            }
        }
        panic!("the agent ended before it told {what}");
    }

    fn stop(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

/// The `node` example, which cargo has built beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples/node")
}

/// Tests run in the folder of their package.
fn manifests() -> PathBuf {
    std::env::current_dir().unwrap().join("manifests/lab")
}

fn host(segment: &Segment, name: &str, address: &str) -> Host {
    segment.host(name, &[address.parse().unwrap()]).unwrap()
}

/// A web server whose every page is the name of its host.
fn serve(host: &Host, address: &str) {
    let listener = host.enter(|| TcpListener::bind(address).unwrap());
    let name = host.name().to_owned();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let name = name.clone();
            std::thread::spawn(move || answer(stream, &name));
        }
    });
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
    while requests.by_ref().map_while(Result::ok).any(|line| line.is_empty()) {
        let page = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
        if stream.write_all(page.as_bytes()).is_err() {
            return;
        }
    }
}

/// Status and body of `GET /` at `address` for `host`.
fn ask(client: &Host, address: &str, host: &str) -> std::io::Result<(u16, String)> {
    let address: SocketAddr = address.parse().unwrap();
    client.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")?;
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        answer.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            answer.read_line(&mut line)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body).unwrap()))
    })
}

/// The bodies of so many answers, sorted; each of them is a success.
fn bodies(client: &Host, address: &str, host: &str, count: usize) -> Vec<String> {
    let one = |_| {
        let (status, body) = ask(client, address, host).unwrap();
        assert_eq!(status, 200, "{body}");
        body
    };
    let mut bodies: Vec<_> = (0..count).map(one).collect();
    bodies.sort();
    bodies
}

#[test]
fn a_plain_service_is_reached_and_everything_is_undone() {
    netns::test("a_plain_service_is_reached_and_everything_is_undone", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "n1", "192.0.2.11/24");
        let client = host(&lan, "client", "192.0.2.100/24");
        let (app1, app2) = (host(&lan, "appv1", "192.0.2.21/24"), host(&lan, "appv2", "192.0.2.22/24"));
        serve(&app1, "192.0.2.21:8080");
        serve(&app2, "192.0.2.22:8080");
        for forward in ["relay", "auto"] {
            let mut agent = Agent::start(&node, &manifests(), &["--forward", forward]);
            let event = agent.wait_for("the address of the echo service", |event| {
                event["event"] == "allocated" && event["owner"] == "service default/echo"
            });
            assert_eq!(event["addresses"][0], "192.0.2.200");
            agent.wait_for("who owns it", |event| event["event"] == "owner" && event["owner"] == "n1");
            let answers = bodies(&client, "192.0.2.200:8080", "echo", 4);
            assert_eq!(answers, ["appv1", "appv1", "appv2", "appv2"], "with --forward {forward}");
            assert!(agent.stop(Signal::SIGTERM).success());
            assert!(ask(&client, "192.0.2.200:8080", "echo").is_err(), "nobody answers any more");
            let left = node.output(Command::new("ip").args(["-o", "address", "show", "dev", "lo"])).unwrap();
            assert!(!String::from_utf8_lossy(&left.stdout).contains("192.0.2.2"), "{left:?}");
        }
    });
}

#[test]
fn a_gateway_splits_and_knows_its_hosts() {
    netns::test("a_gateway_splits_and_knows_its_hosts", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "n1", "192.0.2.11/24");
        let client = host(&lan, "client", "192.0.2.100/24");
        let (app1, app2) = (host(&lan, "appv1", "192.0.2.21/24"), host(&lan, "appv2", "192.0.2.22/24"));
        serve(&app1, "192.0.2.21:8080");
        serve(&app2, "192.0.2.22:8080");
        let mut agent = Agent::start(&node, &manifests(), &[]);
        let event = agent.wait_for("the address of the gateway", |event| {
            event["event"] == "allocated" && event["owner"] == "gateway default/www"
        });
        let address = format!("{}:80", event["addresses"][0].as_str().unwrap());
        agent.wait_for("who owns it", |event| {
            event["event"] == "owner"
                && event["owner"] == "n1"
                && address.starts_with(event["address"].as_str().unwrap())
        });
        let answers = bodies(&client, &address, "www.example.com", 100);
        let first = answers.iter().filter(|body| *body == "appv1").count();
        assert!((45..=55).contains(&first), "{first} of 100 went to appv1");
        assert_eq!(ask(&client, &address, "www.example.org").unwrap().0, 404);
        assert!(agent.stop(Signal::SIGTERM).success());
    });
}

/// BIRD's routes from the node, by their prefixes, once it has as many as that.
fn bird_has(router: &Host, socket: &Path, count: usize) -> Vec<String> {
    let birdc = netns::find_program("birdc").unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut ask = Command::new(&birdc);
        ask.arg("-s").arg(socket).args(["show", "route", "protocol", "node"]);
        let said = String::from_utf8(router.output(&mut ask).unwrap().stdout).unwrap();
        let mut routes: Vec<_> = said
            .lines()
            .filter_map(|line| line.split(' ').next().filter(|word| word.contains('/')).map(str::to_owned))
            .collect();
        if routes.len() == count {
            routes.sort();
            return routes;
        }
        assert!(Instant::now() < deadline, "{count} routes are expected, BIRD says: {said}");
    }
}

#[test]
fn a_router_is_told_by_bgp_and_the_segment_by_arp() {
    netns::test("a_router_is_told_by_bgp_and_the_segment_by_arp", || {
        let Some(bird) = netns::find_program("bird") else { return };
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "n1", "192.0.2.11/24");
        let router = host(&lan, "router", "192.0.2.1/24");
        let app = host(&lan, "appv1", "192.0.2.21/24");
        serve(&app, "192.0.2.21:8080");
        let folder = Path::new(netns::SCRATCH);
        let (conf, socket) = (folder.join("bird.conf"), folder.join("bird.ctl"));
        let text = "router id 192.0.2.1;\nprotocol device {}\nprotocol bgp node {\n\
                    local 192.0.2.1 as 64513; neighbor 192.0.2.11 as 64512; passive yes;\n\
                    ipv4 { import all; export none; };\n}\n";
        std::fs::write(&conf, text).unwrap();
        let mut command = Command::new(bird);
        command.arg("-f").arg("-c").arg(&conf).arg("-s").arg(&socket);
        let mut bird = router.spawn(&mut command).unwrap();

        let bgp = manifests().with_file_name("bgp");
        let bgp = bgp.to_str().unwrap();
        let agent = Agent::start(&node, &manifests(), &[bgp, "--announce", "both", "--forward", "relay"]);
        assert_eq!(bird_has(&router, &socket, 2), ["192.0.2.200/32", "192.0.2.201/32"]);
        // The same addresses are answered for on the segment.
        assert_eq!(bodies(&router, "192.0.2.200:8080", "echo", 1), ["appv1"]);
        assert!(agent.stop(Signal::SIGTERM).success());
        assert_eq!(bird_has(&router, &socket, 0), [] as [&str; 0]);
        bird.kill().unwrap();
        bird.wait().unwrap();
    });
}

#[test]
fn a_typo_on_reload_revokes_nothing() {
    netns::test("a_typo_on_reload_revokes_nothing", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "n1", "192.0.2.11/24");
        let client = host(&lan, "client", "192.0.2.100/24");
        let app = host(&lan, "appv1", "192.0.2.21/24");
        serve(&app, "192.0.2.21:8080");
        let folder = own_manifests();
        let mut agent = Agent::start(&node, &folder, &["--forward", "relay"]);
        agent.wait_for("that it runs", |event| event["event"] == "ready");
        std::fs::write(folder.join("10-pool.yaml"), "apiVersion: metallb.io/v1beta1\nkind: [").unwrap();
        let problem = agent.wait_for("the problem", |event| event["event"] == "problem");
        assert!(problem["message"].as_str().unwrap().contains("10-pool.yaml"), "{problem}");
        assert_eq!(bodies(&client, "192.0.2.200:8080", "echo", 1), ["appv1"]);
        std::fs::remove_file(folder.join("10-pool.yaml")).unwrap();
        agent.wait_for("that the address is gone", |event| {
            event["event"] == "allocated" && event["addresses"].as_array().is_some_and(Vec::is_empty)
        });
        assert!(agent.stop(Signal::SIGTERM).success());
    });
}

#[test]
fn an_address_that_a_reload_moves_is_told_with_the_way_to_pin_it() {
    netns::test("an_address_that_a_reload_moves_is_told_with_the_way_to_pin_it", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "n1", "192.0.2.11/24");
        let folder = own_manifests();
        let mut agent = Agent::start(&node, &folder, &["--forward", "none"]);
        agent.wait_for("that it runs", |event| event["event"] == "ready");
        let earlier = "apiVersion: v1\nkind: Service\nmetadata: {name: an-earlier-one, namespace: default}\n\
                       spec: {type: LoadBalancer, ports: [{port: 80}]}\n";
        std::fs::write(folder.join("50-more.yaml"), earlier).unwrap();
        let notice = agent.wait_for("the move", |event| {
            event["event"] == "notice"
                && event["message"].as_str().is_some_and(|text| text.contains("moved from"))
        });
        let said = notice["message"].as_str().unwrap();
        assert!(said.starts_with("service default/echo moved from 192.0.2.200 to 192.0.2.20"), "{said}");
        assert!(said.contains("metallb.io/loadBalancerIPs"), "{said}");
        assert!(agent.stop(Signal::SIGTERM).success());
    });
}

/// A file with the key that the nodes of a test share.
fn cluster_key() -> String {
    let key = Path::new(netns::SCRATCH).join("key");
    std::fs::write(&key, "07".repeat(32)).unwrap();
    key.to_str().unwrap().to_owned()
}

/// The lab's manifests, to be changed by a test.
fn own_manifests() -> PathBuf {
    let folder = Path::new(netns::SCRATCH).join("manifests");
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(manifests()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    folder
}

#[test]
fn who_starts_with_a_typo_takes_no_part_until_it_is_mended() {
    netns::test("who_starts_with_a_typo_takes_no_part_until_it_is_mended", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "n1", "192.0.2.11/24");
        let client = host(&lan, "client", "192.0.2.100/24");
        let app = host(&lan, "appv1", "192.0.2.21/24");
        serve(&app, "192.0.2.21:8080");
        let folder = own_manifests();
        let key = cluster_key();
        let service = folder.join("50-more.yaml");
        std::fs::write(&service, "apiVersion: v1\nkind: Service\nmetadata: {name: more}\nspec: {type: 5}\n")
            .unwrap();
        let gossip = ["--listen-gossip", "192.0.2.11:7946", "--key-file", &key];
        let more = [gossip.as_slice(), &["--forward", "relay"]].concat();
        let mut agent = Agent::start(&node, &folder, &more);
        agent.wait_for("that it takes no part", |event| event["reason"] == "InvalidDocuments");
        agent.wait_for("that it runs", |event| event["event"] == "ready");
        std::fs::remove_file(&service).unwrap();
        agent
            .wait_for("that it owns", |event| event["event"] == "owner" && event["address"] == "192.0.2.200");
        assert_eq!(bodies(&client, "192.0.2.200:8080", "echo", 1), ["appv1"]);
        assert!(agent.stop(Signal::SIGTERM).success());
    });
}

#[test]
fn what_would_not_be_served_is_not_announced() {
    netns::test("what_would_not_be_served_is_not_announced", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "n1", "192.0.2.11/24");
        let client = host(&lan, "client", "192.0.2.100/24");
        let app = host(&lan, "appv1", "192.0.2.21/24");
        serve(&app, "192.0.2.21:8080");
        let occupant = node.enter(|| TcpListener::bind("0.0.0.0:8080").unwrap());
        let mut agent = Agent::start(&node, &manifests(), &["--forward", "relay"]);
        let refused = agent.wait_for("the refusal", |event| event["type"] == "Forwarded");
        assert!(refused["message"].as_str().unwrap().contains("192.0.2.200:8080"), "{refused}");
        agent.wait_for("that it runs", |event| event["event"] == "ready");
        let address: SocketAddr = "192.0.2.200:8080".parse().unwrap();
        let connected = client.enter(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)));
        assert!(connected.is_err(), "the occupant would have answered");
        drop(occupant);
        agent.wait_for("that it can", |event| event["event"] == "owner" && event["address"] == "192.0.2.200");
        assert_eq!(bodies(&client, "192.0.2.200:8080", "echo", 1), ["appv1"]);
        assert!(agent.stop(Signal::SIGTERM).success());
    });
}

#[test]
fn a_second_node_on_the_same_machine_is_refused() {
    netns::test("a_second_node_on_the_same_machine_is_refused", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "n1", "192.0.2.11/24");
        let mut agent = Agent::start(&node, &manifests(), &["--forward", "relay"]);
        agent.wait_for("that it runs", |event| event["event"] == "ready");
        let mut second = Command::new(program());
        second.args(["--node", "n2", "--manifests"]).arg(manifests());
        let output = node.output(&mut second).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains("another node runs here already"), "{said}");
        assert!(agent.stop(Signal::SIGTERM).success());
    });
}

#[test]
fn a_second_signal_ends_the_grace_period() {
    netns::test("a_second_signal_ends_the_grace_period", || {
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "n1", "192.0.2.11/24");
        let client = host(&lan, "client", "192.0.2.100/24");
        serve(&host(&lan, "appv1", "192.0.2.21/24"), "192.0.2.21:8080");
        serve(&host(&lan, "appv2", "192.0.2.22/24"), "192.0.2.22:8080");
        let mut agent = Agent::start(&node, &manifests(), &["--forward", "relay", "--grace", "1h"]);
        agent.wait_for("who owns it", |event| event["event"] == "owner" && event["address"] == "192.0.2.200");
        let mut open = client.enter(|| TcpStream::connect("192.0.2.200:8080").unwrap());
        open.write_all(b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n").unwrap();
        open.read_exact(&mut [0; 17]).unwrap();
        let pid = Pid::from_raw(agent.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        agent.wait_for("that it stops", |event| event["event"] == "stopping");
        kill(pid, Signal::SIGINT).unwrap();
        agent.wait_for("why it waits no longer", |event| {
            event["event"] == "notice" && event["message"].as_str().unwrap().contains("asked to stop again")
        });
        agent.wait_for("that all is undone", |event| event["event"] == "stopped");
        assert!(agent.child.wait().unwrap().success());
    });
}

#[test]
fn what_a_killed_process_left_in_force_goes_with_the_next_one() {
    netns::test("what_a_killed_process_left_in_force_goes_with_the_next_one", || {
        if netns::find_program("nft").is_none() {
            return;
        }
        let lan = Segment::new("lan").unwrap();
        let node = host(&lan, "n1", "192.0.2.11/24");
        let tables = || {
            let output = node.output(Command::new("nft").args(["list", "tables"])).unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let key = &cluster_key();
        let elects = ["--key-file", key, "--listen-gossip", "192.0.2.11:7946"];
        let mut first = Agent::start(&node, &manifests(), &elects);
        first.wait_for("that it runs", |event| event["event"] == "ready");
        assert!(tables().contains("lbcore_node") && tables().contains("lbcore_handover"), "{}", tables());
        first.stop(Signal::SIGKILL);
        let mut second = Agent::start(&node, &manifests(), &["--forward", "relay", "--hand-over", "none"]);
        second.wait_for("that it runs", |event| event["event"] == "ready");
        assert_eq!(tables(), "");
        assert!(second.stop(Signal::SIGTERM).success());
    });
}

#[test]
fn who_only_speaks_bgp_owns_nothing_on_the_segment() {
    netns::test("who_only_speaks_bgp_owns_nothing_on_the_segment", || {
        let lan = Segment::new("lan").unwrap();
        let (first, second) = (host(&lan, "n1", "192.0.2.11/24"), host(&lan, "n2", "192.0.2.12/24"));
        let key = &cluster_key();
        let common = ["--forward", "none", "--key-file", key];
        let speaker = ["--announce", "bgp", "--listen-gossip", "192.0.2.11:7946"];
        let answerer = ["--listen-gossip", "192.0.2.12:7946", "--seed", "192.0.2.11:7946"];
        let mut speaker = Agent::start(&first, &manifests(), &[common.as_slice(), &speaker].concat());
        let answerer = Agent::start(&second, &manifests(), &[common.as_slice(), &answerer].concat());
        let mut owners = std::collections::BTreeMap::new();
        while owners.len() < 2 {
            let event = speaker.wait_for("an owner", |event| event["event"] == "owner");
            owners.insert(event["address"].to_string(), event["owner"].clone());
        }
        assert!(owners.values().all(|owner| owner == "n2"), "{owners:?}");
        assert!(speaker.stop(Signal::SIGTERM).success() && answerer.stop(Signal::SIGTERM).success());
    });
}

#[test]
fn nodes_whose_documents_differ_say_so_and_what_a_node_lacks_is_told() {
    netns::test("nodes_whose_documents_differ_say_so_and_what_a_node_lacks_is_told", || {
        let lan = Segment::new("lan").unwrap();
        let (first, second) = (host(&lan, "n1", "192.0.2.11/24"), host(&lan, "n9", "192.0.2.12/24"));
        let key = &cluster_key();
        let common = ["--forward", "none", "--key-file", key];
        let gossip = ["--listen-gossip", "192.0.2.11:7946"];
        let mut agent = Agent::start(&first, &manifests(), &[common.as_slice(), &gossip].concat());
        let folder = own_manifests();
        let earlier = "apiVersion: v1\nkind: Service\nmetadata: {name: an-earlier-one, namespace: default}\n\
                       spec: {type: LoadBalancer, ports: [{port: 80}]}\n";
        std::fs::write(folder.join("60-earlier.yaml"), earlier).unwrap();
        let more = ["--announce", "both", "--router-id", "192.0.2.12", "--interface", "none*"];
        let gossip =
            ["--listen-gossip", "192.0.2.12:7946", "--seed", "192.0.2.11:7946", "--seed", "192.0.2.77:1"];
        let mut other = Agent::start(&second, &folder, &[common.as_slice(), &more, &gossip].concat());
        let mut expected = std::collections::BTreeSet::from([
            "NoSuchNode",
            "NoPeers",
            "NoInterface",
            "NoAnswer",
            "DocumentsDiffer",
        ]);
        while !expected.is_empty() {
            let told = other.wait_for("what is missing", |event| event["event"] == "condition");
            expected.remove(told["reason"].as_str().unwrap());
        }
        let differs = agent.wait_for("that they differ", |event| event["reason"] == "DocumentsDiffer");
        assert!(differs["message"].as_str().unwrap().contains("of n9 other"), "{differs}");
        std::fs::remove_file(folder.join("60-earlier.yaml")).unwrap();
        agent.wait_for("that they agree", |event| {
            event["event"] == "cleared" && event["reason"] == "DocumentsDiffer"
        });
        assert!(other.stop(Signal::SIGTERM).success() && agent.stop(Signal::SIGTERM).success());
    });
}

#[test]
fn what_it_lacks_is_said_with_the_remedy() {
    netns::test("what_it_lacks_is_said_with_the_remedy", || {
        let manifests = manifests();
        let run = |arguments: &[&str]| {
            let output = Command::new(program())
                .args(["--node", "n1", "--manifests"])
                .arg(&manifests)
                .args(arguments)
                .output()
                .unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, said) = run(&["--listen-gossip", "127.0.0.1:0", "--key-file", "/nowhere"]);
        assert_eq!(code, Some(1));
        assert!(said.contains("--key-file /nowhere") && said.contains("No such file"), "{said}");
        let (code, said) = run(&["/nowhere"]);
        assert_eq!(code, Some(1));
        assert!(said.contains("there is no file or folder /nowhere"), "{said}");
        let (code, said) = run(&["--listen-gossip", "127.0.0.1:0"]);
        assert_eq!(code, Some(2));
        assert!(said.contains("--key-file"), "{said}");
    });
}
