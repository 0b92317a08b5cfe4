//! The lab's instruments, tried on a cluster whose behaviour is known: stand-ins that follow a script instead of
//! the node agent. One kind behaves; the others are broken each in its way, and the lab must say so.
//!
//! Without a harness: the lab starts this program again in its roles, and the sandbox needs a single thread.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "linux")]
#[expect(clippy::unwrap_used, reason = "this is a test")]
mod linux {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::process::{Command, ExitCode, Stdio};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use clap::Parser;
    use lbcore::time::Instant;
    use lbcore_examples::lab::{self, Node, Options, Scenario};
    use lbcore_examples::netns::{self, Entered};
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::signal::{SigSet, Signal};
    use serde_json::Value;
    use socket2::{Domain, Socket, Type};

    const ADDRESS: &str = "192.0.2.201";

    const REMOVE: [&str; 5] = ["address", "delete", "192.0.2.201/32", "dev", "eth0"];

    /// How long a stand-in waits for the owner's next word before it takes over.
    const TAKEOVER: Duration = Duration::from_millis(300);

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    pub(super) fn main() -> ExitCode {
        if let Some(code) = lab::play_role() {
            return code;
        }
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        match arguments.first().map(String::as_str) {
            Some("stand-in") => StandIn::new(&arguments).run(),
            Some("run") => run(&arguments[1..]),
            Some("--list") => ExitCode::SUCCESS,
            _ => tests(),
        }
    }

    /// One run of the lab with stand-ins.
    fn run(arguments: &[String]) -> ExitCode {
        let begin = Instant::now();
        match netns::enter_sandbox() {
            Ok(Entered::Inside) => {}
            Ok(Entered::Outside(code) | Entered::Interrupted(code)) => return code,
            Err(error) => {
                eprintln!("no sandbox: {error}");
                return ExitCode::from(2);
            }
        }
        let node =
            |name: &str, last| Node { name: name.to_owned(), address: IpAddr::from([192, 0, 2, last]) };
        let scenario = Scenario {
            manifests: vec!["unused".into()],
            segment: "192.0.2.0/24".parse().unwrap(),
            nodes: vec![node("n1", 11), node("n2", 12), node("n3", 13)],
            apps: Vec::new(),
            extra: [100, 101, 102, 103].map(|last| IpAddr::from([192, 0, 2, last])),
            target: SocketAddr::new(ADDRESS.parse().unwrap(), 80),
            host: "www.example.com".to_owned(),
            allocations: vec![("default/www".to_owned(), ADDRESS.parse().unwrap())],
        };
        let line = ["lab", "--json", "--steady=300ms", "--hold=1s", "--settle=1500ms"].map(str::to_owned);
        let options = Line::parse_from(line.iter().chain(arguments)).options;
        let ok = lab::run(begin, &scenario, &options, &|_, arguments| {
            let mut command = Command::new("/proc/self/exe");
            command.arg("stand-in").args(arguments);
            command
        });
        match ok {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error}: {error:?}");
                ExitCode::from(2)
            }
        }
    }

    /// A node by script: who has not heard an owner for a while, each a while longer than the one before, takes the
    /// address and says so to the others; who hears a later owner, or nobody at all, gives it up.
    struct StandIn {
        name: String,
        rank: u32,
        broken: Option<String>,
        socket: UdpSocket,
        peers: Vec<SocketAddr>,
        drained: Arc<Mutex<bool>>,
        term: u64,
        owner: bool,
    }

    impl StandIn {
        fn new(arguments: &[String]) -> Self {
            let values = |option: &str| -> Vec<String> {
                arguments.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
            };
            let name = values("--node").remove(0);
            let socket = UdpSocket::bind(values("--listen-gossip")[0].as_str()).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
            Self {
                rank: name[1..].parse().unwrap(),
                name,
                broken: arguments
                    .iter()
                    .find_map(|option| option.strip_prefix("--broken="))
                    .map(str::to_owned),
                socket,
                peers: values("--seed").iter().map(|peer| peer.parse().unwrap()).collect(),
                drained: Arc::default(),
                term: 0,
                owner: false,
            }
        }

        fn is_broken(&self, how: &str) -> bool {
            self.broken.as_deref() == Some(how)
        }

        fn run(mut self) -> ExitCode {
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            assert_eq!(soft, hard, "the lab lets its programs open as many files as they may");
            let mut signals = SigSet::empty();
            signals.add(Signal::SIGUSR1);
            signals.add(Signal::SIGUSR2);
            signals.thread_block().unwrap();
            let drained = self.drained.clone();
            std::thread::spawn(move || {
                while let Ok(signal) = signals.wait() {
                    *drained.lock().unwrap() = signal == Signal::SIGUSR1;
                }
            });
            std::thread::spawn(serve);
            // What a killed forerunner left.
            remove();
            println!("{{\"event\":\"ready\"}}");
            let mut owner_heard = Instant::now();
            let mut anyone_heard = Instant::now();
            let mut spoken = Instant::ZERO;
            let mut turn = 0;
            loop {
                let mut buffer = [0; 64];
                if let Ok(length) = self.socket.recv(&mut buffer) {
                    anyone_heard = Instant::now();
                    let text = std::str::from_utf8(&buffer[..length]).unwrap();
                    let (kind, term) = text.split_once(' ').unwrap();
                    let term: u64 = term.parse().unwrap();
                    if kind == "owner" {
                        owner_heard = Instant::now();
                        if term > self.term && !self.is_broken("never-yields") {
                            self.term = term;
                            self.give_up();
                        }
                    }
                }
                let now = Instant::now();
                let drained = *self.drained.lock().unwrap() && !self.is_broken("ignores-drain");
                let alone =
                    now.saturating_since(anyone_heard) > TAKEOVER / 2 && !self.is_broken("never-yields");
                if alone {
                    // Back among the others, it listens first.
                    owner_heard = now;
                }
                if self.owner && (drained || alone) {
                    self.give_up();
                }
                let vacant = now.saturating_since(owner_heard) > TAKEOVER * self.rank;
                if !self.owner && vacant && !drained && !alone && !self.is_broken("never-takes-over") {
                    self.take();
                }
                if self.is_broken("never-takes-over") && self.rank == 1 && self.term == 0 {
                    self.take();
                }
                if now.saturating_since(spoken) > Duration::from_millis(20) {
                    spoken = now;
                    turn += 1;
                    if self.owner && turn % 10 == 0 {
                        self.hold();
                        announce();
                    }
                    let word = format!("{} {}", if self.owner { "owner" } else { "member" }, self.term);
                    for peer in &self.peers {
                        let _ = self.socket.send_to(word.as_bytes(), peer);
                    }
                }
            }
        }

        fn take(&mut self) {
            self.owner = true;
            self.term += u64::from(self.rank);
            self.hold();
            announce();
        }

        /// The kernel takes the address back when this process does not say it again in time.
        fn hold(&self) {
            let lifetime = ["valid_lft", "1", "preferred_lft", "1"];
            ip(&[["address", "replace", &format!("{ADDRESS}/32"), "dev", "eth0"].as_slice(), &lifetime]
                .concat());
        }

        fn give_up(&mut self) {
            if std::mem::take(&mut self.owner) {
                if self.is_broken("last-word") {
                    // As one that woke up late: it speaks when the other one has long been owner.
                    std::thread::spawn(|| {
                        let (_keep, never) = std::sync::mpsc::channel::<()>();
                        let _ = never.recv_timeout(TAKEOVER * 3);
                        announce();
                    });
                    return self.hold();
                }
                remove();
                eprintln!("{} gives up", self.name);
            }
        }
    }

    /// The kernel may have taken it back already: from one that stood still.
    fn remove() {
        let output = Command::new("ip").args(REMOVE).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        // Kernels before and after extended error messages.
        let gone = ["Cannot assign requested address", "Address not found"];
        assert!(output.status.success() || gone.iter().any(|words| said.contains(words)), "{said}");
    }

    fn ip(arguments: &[&str]) {
        assert!(Command::new("ip").args(arguments).status().unwrap().success());
    }

    /// `arping` goes on listening after its frame; nobody waits for that.
    fn announce() {
        let arping = ["-q", "-U", "-c", "1", "-w", "1", "-I", "eth0", ADDRESS];
        let mut child = Command::new("arping").args(arping).stdin(Stdio::null()).spawn().unwrap();
        std::thread::spawn(move || child.wait());
    }

    /// Answers every other connection as `appv1`, the others as `appv2`.
    fn serve() {
        // Room for all who were waiting while nobody had the address.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&"0.0.0.0:80".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(1024).unwrap();
        let listener = TcpListener::from(socket);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for stream in listener.incoming() {
                let version = 1 + count.fetch_add(1, Ordering::Relaxed) % 2;
                scope.spawn(move || answer(stream.unwrap(), version));
            }
        });
    }

    fn answer(stream: TcpStream, version: usize) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut stream = stream;
        while lines.by_ref().map_while(Result::ok).any(|line| line.is_empty()) {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nappv{version}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// A run in a process of its own: its exit code and its JSON lines.
    fn observe(arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
        let program = std::env::current_exe().unwrap();
        let output =
            Command::new(program).arg("run").args(arguments).stderr(Stdio::inherit()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let code = output.status.code();
        println!("{}: {}", arguments.join(" "), lines.last().map(ToString::to_string).unwrap_or_default());
        (code, lines)
    }

    fn tests() -> ExitCode {
        if !netns::can_test("lab_harness")
            || !["ip", "arping"].iter().all(|name| netns::find_program(name).is_some())
        {
            return ExitCode::SUCCESS;
        }
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(512), hard).unwrap();
        all_four_faults_are_measured();
        // These need no quiet machine.
        std::thread::scope(|scope| {
            scope.spawn(a_fault_that_nobody_recovers_from_fails_the_run);
            scope.spawn(a_former_owner_that_speaks_again_fails_the_run);
            scope.spawn(a_drain_that_moves_nothing_fails_the_run);
            scope.spawn(a_process_that_stands_still_is_seen_by_both_instruments);
            scope.spawn(output_that_cannot_be_written_ends_the_run);
            scope.spawn(owners_that_do_not_settle_after_a_partition_fail_the_run);
        });
        ExitCode::SUCCESS
    }

    fn all_four_faults_are_measured() {
        let (_, lines) = observe(&[]);
        let summary = lines.last().unwrap();
        assert_eq!(summary["event"], "summary");
        let faults = summary["faults"].as_array().unwrap();
        let names: Vec<&str> = faults.iter().map(|fault| fault["fault"].as_str().unwrap()).collect();
        assert_eq!(names, ["process", "node", "cable", "drain"]);
        for fault in faults {
            // The kernel of a killed one goes on answering for the address, which is on its interface.
            let has_two = fault["two_owners_ms"].as_f64().unwrap() > 0.0;
            assert_eq!(has_two, fault["fault"] == "process", "{fault}");
            // No stand-in hands over: each fault costs at least the time that they wait, less the owner's last word.
            assert!(fault["gap_ms"].as_f64().unwrap() > 200.0, "{fault}");
            assert!(fault["failed"].as_u64().unwrap() > 100, "{fault}");
        }
        // The owner that was hit is not the next one.
        let owners: Vec<&str> =
            summary["owners"].as_array().unwrap().iter().map(|o| o["node"].as_str().unwrap()).collect();
        assert!(owners.len() >= 5 && owners.windows(2).all(|pair| pair[0] != pair[1]), "{owners:?}");
        assert_eq!(owners[0], "n1");
        for version in ["appv1", "appv2"] {
            assert!(summary["split"][version].as_u64().unwrap() > 500);
        }
        let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        for event in ["built", "allocated", "first-answer", "fault", "owner", "recovery", "repair"] {
            assert!(events.contains(&event), "{event}");
        }
    }

    fn a_fault_that_nobody_recovers_from_fails_the_run() {
        let (code, lines) = observe(&["--fault=cable,drain", "--node-option=--broken=never-takes-over"]);
        assert_eq!(code, Some(1));
        let summary = lines.last().unwrap();
        assert_eq!(summary["ok"], false);
        // Without `--keep-going` the first fault is the last.
        assert_eq!(summary["faults"].as_array().unwrap().len(), 1);
        assert!(lines.iter().any(|line| line["event"] == "recovery" && line["recovered"] == false));
    }

    fn a_former_owner_that_speaks_again_fails_the_run() {
        let (code, lines) = observe(&["--fault=drain", "--node-option=--broken=last-word"]);
        assert_eq!(code, Some(1));
        let summary = lines.last().unwrap();
        assert_eq!(summary["ok"], false);
        assert!(summary["faults"][0]["two_owners_ms"].as_f64().unwrap() > 0.0, "{summary}");
    }

    /// A stand-in has no term of its own to lose: it goes on where it stood, as the owner that it no longer is, until
    /// it hears of the later one. Its kernel takes connections meanwhile, which nobody answers.
    fn a_process_that_stands_still_is_seen_by_both_instruments() {
        let (_, lines) = observe(&["--fault=pause"]);
        let summary = lines.last().unwrap();
        let fault = &summary["faults"][0];
        assert_eq!(fault["fault"], "pause");
        assert!(fault["gap_ms"].as_f64().unwrap() > 200.0, "{fault}");
        assert!(fault["failed"].as_u64().unwrap() > 100, "{fault}");
        let owners: Vec<&str> =
            summary["owners"].as_array().unwrap().iter().map(|o| o["node"].as_str().unwrap()).collect();
        assert_eq!(owners[..2], ["n1", "n2"], "{summary}");
        let event = |name: &str| lines.iter().find(|line| line["event"] == name).unwrap();
        assert_eq!((&event("fault")["node"], &event("repair")["node"]), (&"n1".into(), &"n1".into()));
        assert_eq!(event("recovery")["recovered"], true);
    }

    /// A stand-in that hears of an owner under its own term does not give way.
    fn owners_that_do_not_settle_after_a_partition_fail_the_run() {
        let options = ["--fault=partition", "--node-option=--broken=never-yields"];
        let (code, lines) = observe(&options);
        assert_eq!(code, Some(1));
        let summary = lines.last().unwrap();
        assert_eq!(summary["ok"], false, "{summary}");
        let fault = &summary["faults"][0];
        assert_eq!(fault["parts"].as_array().unwrap().len(), 2, "{summary}");
        assert!(fault["heal_ms"].as_f64().unwrap() > 1000.0, "{summary}");
    }

    fn output_that_cannot_be_written_ends_the_run() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).arg("run").stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("cannot write to standard output"), "{said}");
    }

    fn a_drain_that_moves_nothing_fails_the_run() {
        let (code, lines) =
            observe(&["--fault=drain", "--keep-going", "--node-option=--broken=ignores-drain"]);
        assert_eq!(code, Some(1));
        let summary = lines.last().unwrap();
        assert_eq!(summary["ok"], false, "{summary}");
        assert!(lines.iter().any(|line| line["event"] == "recovery" && line["recovered"] == false));
    }
}
