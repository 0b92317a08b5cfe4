//! Measures lbcore beside its peers: `cargo run --release -p compare -- TABLE`.
//!
//! A table has systems, ours first, and cases; every system does every case that it can, in the same run. To add
//! one, write a module with a [`Table`] and name it in [`TABLES`].

mod alloc;
mod arp;
mod counting;
mod failover;
mod figures;
mod matching;
mod memory;
mod report;
mod table;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use lbcore_examples::lab;
use lbcore_examples::netns::{self, Entered};

use crate::report::{Format, Report};
use crate::table::{Bench, Table, select};

const TABLES: &[&Table] = &[&alloc::TABLE, &arp::TABLE, &failover::TABLE, &matching::TABLE];

#[derive(Parser)]
#[command(about = "Measures lbcore beside its peers", after_help = tables())]
struct Args {
    /// What to compare.
    table: String,
    /// One JSON object a line instead of a table for people.
    #[arg(long)]
    json: bool,
    /// Only these systems, separated by commas.
    #[arg(long, value_delimiter = ',')]
    system: Vec<String>,
    /// Only these cases, separated by commas.
    #[arg(long, value_delimiter = ',')]
    case: Vec<String>,
    /// How often each figure is taken; the median is shown [default: 5; of failover 30, which takes one to three minutes a
    /// case and system, and an hour in all]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// For the program itself: measures one figure in this process, and prints only that.
    #[arg(long, hide = true)]
    alone: bool,
}

fn tables() -> String {
    let lines = TABLES.iter().map(|table| format!("  {:8} {}{}", table.name, table.about, table.details));
    format!("Tables:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

fn main() -> ExitCode {
    // A comparison that runs the lab starts this program again on its machines.
    if let Some(code) = lab::play_role().or_else(failover::play_role) {
        return code;
    }
    let args = Args::parse();
    // Who measures alone was started in there.
    let makes_networks = |table: &&&Table| table.name == args.table && table.needs_network && !args.alone;
    if TABLES.iter().find(makes_networks).is_some() {
        match netns::enter_sandbox() {
            Ok(Entered::Inside) => {}
            Ok(Entered::Outside(code) | Entered::Interrupted(code)) => return code,
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => {
            eprintln!("error: {text}");
            ExitCode::from(2)
        }
        Err(Failure::Measuring(count)) => {
            eprintln!("error: {count} failed; see above");
            ExitCode::FAILURE
        }
        // Whoever read the output has gone: there is nobody to tell.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Io(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    /// The command line names something that there is not.
    Usage(String),
    /// The output could not be written, or a process not be run.
    Io(io::Error),
    /// So many figures could not be taken; each was told of.
    Measuring(usize),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let names: Vec<_> = TABLES.iter().map(|table| table.name).collect();
    let name = select("table", &names, std::slice::from_ref(&args.table)).map_err(Failure::Usage)?;
    let Some(table) = TABLES.iter().find(|table| name.contains(&table.name)) else {
        return Err(Failure::Usage("a table is missing".to_owned()));
    };
    let systems = select("system", table.systems, &args.system);
    let cases = select("case", table.cases, &args.case);
    // Both at once, if both are wrong.
    let (systems, cases) = match (systems, cases) {
        (Ok(systems), Ok(cases)) => (systems, cases),
        (Err(one), Err(other)) => return Err(Failure::Usage(format!("{one}\nerror: {other}"))),
        (Err(error), _) | (_, Err(error)) => return Err(Failure::Usage(error)),
    };
    if args.alone {
        if let ([system], [case], Some(alone)) = (&systems[..], &cases[..], table.alone) {
            println!("{}", alone(system, case)?);
        }
        return Ok(());
    }
    let format = if args.json { Format::Json } else { Format::Human };
    let runs = args.runs.unwrap_or(table.runs);
    let mut report = Report::new(io::stdout().lock(), format, table.name, table.systems[0], runs);
    for case in cases {
        (table.measure)(&mut Bench {
            report: &mut report,
            table: table.name,
            systems: &systems,
            case,
            runs,
        })?;
    }
    report.finish()?;
    match report.failures() {
        0 => Ok(()),
        count => Err(Failure::Measuring(count)),
    }
}
