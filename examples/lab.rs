//! A few load-balancing nodes, a client and a web application in namespaces of this machine: `--help` says more.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    lbcore_examples::lab::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("lab: builds its network of Linux network namespaces; run it on Linux");
    ExitCode::from(2)
}
