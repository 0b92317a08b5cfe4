//! The whole program in a sandbox: `enter_sandbox` needs a `main` of its own, so this test has no harness.
#![cfg_attr(target_os = "linux", expect(clippy::unwrap_used, reason = "this is a test"))]

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Child, Command, ExitCode, Stdio};

    use lbcore_examples::netns::{self, Entered, Segment};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    pub(super) fn main() -> ExitCode {
        match std::env::args().nth(1).as_deref() {
            Some("hold") => inside(hold),
            Some("exit-42") => inside(|| ExitCode::from(42)),
            Some("--list") => ExitCode::SUCCESS,
            _ => {
                tests();
                ExitCode::SUCCESS
            }
        }
    }

    fn inside(body: impl FnOnce() -> ExitCode) -> ExitCode {
        match netns::enter_sandbox() {
            Ok(Entered::Inside) => body(),
            Ok(Entered::Outside(code)) => code,
            Ok(Entered::Interrupted(code)) => {
                eprintln!("interrupted");
                code
            }
            Err(error) => {
                println!("no sandbox: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// A host with a program that never ends, and which holds this process's standard output.
    fn hold() -> ExitCode {
        let segment = Segment::new("lan").unwrap();
        let host = segment.host("a", &["192.0.2.1/24".parse().unwrap()]).unwrap();
        let file = std::path::Path::new(netns::SCRATCH).join("left-behind");
        std::fs::write(&file, "no").unwrap();
        let mut child = host.spawn(Command::new("sleep").arg("1000")).unwrap();
        println!("up as {} in process {}", nix::unistd::getuid(), std::process::id());
        child.wait().unwrap();
        ExitCode::SUCCESS
    }

    fn start(argument: &str) -> Child {
        let program = std::env::current_exe().unwrap();
        Command::new(program).arg(argument).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn tests() {
        let mut first = start("exit-42");
        let mut said = String::new();
        first.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        let code = first.wait().unwrap().code();
        if said.starts_with("no sandbox: the kernel forbids") {
            eprintln!("skipped: netns_sandbox: {said}");
            assert!(std::env::var_os("CI").is_none());
            return;
        }
        assert_eq!(code, Some(42), "the inner exit code comes out: {said}");

        for (signal, code) in [
            (Signal::SIGKILL, None),
            (Signal::SIGINT, Some(130)),
            (Signal::SIGTERM, Some(143)),
            (Signal::SIGHUP, Some(129)),
        ] {
            let mut outer = start("hold");
            let mut output = BufReader::new(outer.stdout.take().unwrap());
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            assert_eq!(line, "up as 0 in process 1\n");
            kill(Pid::from_raw(outer.id().cast_signed()), signal).unwrap();
            let status = outer.wait().unwrap();
            assert_eq!(status.code(), code, "{signal}");
            let said = std::io::read_to_string(outer.stderr.take().unwrap()).unwrap();
            assert_eq!(said == "interrupted\n", code.is_some(), "{signal}: {said}");
            // The end of the pipe is the end of the last process that holds it: `sleep` is gone too.
            assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0, "{signal}");
        }
        assert!(!std::path::Path::new(netns::SCRATCH).join("left-behind").exists());
        println!("netns_sandbox: ok");
    }
}
