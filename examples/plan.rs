//! A dry run of MetalLB and Service YAML: which service gets which address from which pool, on which nodes it
//! would be announced and how, or the reason why not.
//!
//! ```text
//! cargo run --release --example plan -- examples/manifests/lab
//! kubectl get -A -o yaml ipaddresspools,l2advertisements,services,endpointslices,nodes | \
//!     cargo run --release --example plan -- -
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::NonEmptyStringValueParser;
use gateway_router::compile::compile;
use lbcore::allocator::{IpAllocator, PoolAllocator, Usage};
use lbcore::condition::{Condition, Status};
use lbcore::id::{NodeName, OwnerKey, PoolName};
use lbcore::manifest::Printable;
use lbcore::plan::{self, Endpoints, Outlook, World};
use lbcore_examples::{files, routing};
use serde_json::json;

/// Shows which service gets which address, from which pool, and which nodes would announce it how.
///
/// Services that show an address in `status.loadBalancer.ingress` keep it if they can; the rest are served by age
/// (creationTimestamp), then by name. Nothing is changed anywhere.
#[derive(Debug, Parser)]
#[command(
    name = "plan",
    version,
    after_help = "Exit status: 0 all have their addresses, 1 some were refused one, 2 bad input, or the output cannot be written."
)]
pub(crate) struct Args {
    /// YAML or JSON of MetalLB, Kubernetes and the Gateway API: files, folders, or - for the standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Prints a line of JSON for each service of type LoadBalancer; Gateways are in the table alone
    #[arg(long)]
    json: bool,

    /// Serves services with this loadBalancerClass, instead of those without one
    #[arg(long, value_name = "CLASS", value_parser = NonEmptyStringValueParser::new())]
    class: Option<String>,

    /// Lets nodes with the label node.kubernetes.io/exclude-from-external-load-balancers announce
    #[arg(long)]
    ignore_exclude_label: bool,
}

fn main() -> ExitCode {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let ended = run(&Args::parse(), &mut out, &mut err);
    ExitCode::from(code(ended, &mut err))
}

/// The exit status of a [`run`] that ended so.
pub(crate) fn code(ended: io::Result<u8>, err: &mut dyn Write) -> u8 {
    match ended {
        Ok(code) => code,
        // A reader that has seen enough, as `head`, is no error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            // Who cannot read this either has the status.
            let _ = writeln!(err, "error: the output cannot be written: {error}");
            2
        }
    }
}

/// Plans, and returns the exit status.
pub(crate) fn run(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let (files, barren) = files::read_once(&args.paths);
    for folder in barren {
        let (kind, folder) =
            (if files.is_empty() { "error" } else { "notice" }, folder.display().to_string());
        let folder = Printable(&folder);
        writeln!(
            err,
            "{kind}: {folder}: no .yaml, .yml or .json file is there: name a file, or a folder that has some"
        )?;
    }
    if files.is_empty() {
        return Ok(2);
    }
    let mut corpus = files::corpus();
    let report = corpus.load(&files);
    for notice in &report.notices {
        writeln!(err, "notice: {notice}")?;
    }
    for problem in &report.problems {
        writeln!(err, "error: {problem}")?;
    }
    if !report.problems.is_empty() {
        let count = report.problems.len();
        let errors = if count == 1 { "error" } else { "errors" };
        writeln!(err, "{count} {errors} in the input, nothing was planned")?;
        return Ok(2);
    }

    let mut world = files::world(corpus.objects());
    world.class = args.class.as_deref().map(Into::into);
    world.ignore_exclude_label = args.ignore_exclude_label;
    if world.endpoints == Endpoints::Everywhere {
        writeln!(
            err,
            "notice: no EndpointSlice in the input: every service is taken as serving on every node"
        )?;
    }
    if world.nodes.is_empty() {
        writeln!(err, "notice: no Node in the input: no nodes are listed, and nodeSelectors are not judged")?;
    }
    let mut allocator = PoolAllocator::new();
    let allocations = plan::allocate(&mut allocator, &world);
    let outlooks = plan::outlook(&world, &allocations);

    let (resources, backends) = routing::resources(corpus.objects(), &allocations);
    let unmet = routing::unmet(&compile(&resources, &backends));

    let text =
        if args.json { lines(&outlooks) } else { table(&world, &outlooks, &unmet, &allocator.usage()) };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(u8::from(outlooks.values().any(is_refused)))
}

/// Whether it should have an address of ours and has not got what it asks for.
fn is_refused(outlook: &Outlook) -> bool {
    outlook.conditions[0].status != Status::True && !is_of_other_class(outlook)
}

fn is_of_other_class(outlook: &Outlook) -> bool {
    outlook.conditions[0].reason == "OtherClass"
}

fn via(outlook: &Outlook) -> Vec<&'static str> {
    [("l2", outlook.via_l2), ("bgp", outlook.via_bgp)]
        .iter()
        .filter(|(_, can)| *can)
        .map(|(name, _)| *name)
        .collect()
}

/// A line of JSON for each service.
fn lines(outlooks: &BTreeMap<OwnerKey, Outlook>) -> String {
    let mut text = String::new();
    for (owner, outlook) in outlooks {
        let OwnerKey::Service(name) = owner else { continue };
        let error = outlook.obstacle().map_or_else(
            || "null".to_owned(),
            |why| {
                object(&[
                    ("reason", json!(why.reason).to_string()),
                    ("message", json!(why.message).to_string()),
                ])
            },
        );
        let nodes: Vec<_> = outlook.nodes().into_iter().map(NodeName::as_str).collect();
        let line = object(&[
            ("service", json!(name.to_string()).to_string()),
            ("addresses", json!(outlook.addresses).to_string()),
            ("pool", json!(outlook.pool.as_ref().map(PoolName::as_str)).to_string()),
            ("nodes", json!(nodes).to_string()),
            ("via", json!(via(outlook)).to_string()),
            ("error", error),
        ]);
        let _ = writeln!(text, "{line}");
    }
    text
}

/// A JSON object whose fields stay in the order in which they are read.
fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// The same for a person, with Gateways, what is not as wished of them and their routes, and pools.
fn table(
    world: &World,
    outlooks: &BTreeMap<OwnerKey, Outlook>,
    unmet: &[(String, Condition)],
    usage: &BTreeMap<PoolName, Usage>,
) -> String {
    let mut text = String::new();
    for (title, gateways) in [("SERVICE", false), ("GATEWAY", true)] {
        let is_of_kind = |owner: &OwnerKey| matches!(owner, OwnerKey::Gateway(_)) == gateways;
        let mut rows = vec![[title, "ADDRESS", "POOL", "VIA", "NODES"].map(str::to_owned)];
        let mut whys = vec![None];
        for (owner, outlook) in outlooks.iter().filter(|(owner, _)| is_of_kind(owner)) {
            let row = [
                owner.object().to_string(),
                or_dash(&outlook.addresses),
                outlook.pool.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                or_dash(&via(outlook)),
                or_dash(&outlook.nodes().into_iter().collect::<Vec<_>>()),
            ];
            rows.push(row.map(|cell| Printable(&cell).to_string()));
            whys.push(outlook.obstacle());
        }
        if rows.len() == 1 {
            if !gateways {
                text.push_str("no service of type LoadBalancer\n");
            }
            continue;
        }
        let widths: [usize; 5] =
            std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
        for (row, why) in rows.iter().zip(whys) {
            let cells: Vec<_> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let _ = writeln!(text, "{}", cells.join("  ").trim_end());
            if let Some(why) = why {
                let _ = writeln!(text, "    {}: {}", why.reason, Printable(&why.message));
            }
        }
        text.push('\n');
    }
    for (about, condition) in unmet {
        let condition = condition.to_string();
        let _ = writeln!(text, "{}: {}", Printable(about), Printable(&condition));
    }
    if !unmet.is_empty() {
        text.push('\n');
    }
    for pool in world.pools.iter() {
        let usage = usage.get(&pool.name).copied().unwrap_or_default();
        let families = [
            ("IPv4", usage.assigned_v4, usage.available_v4),
            ("IPv6", usage.assigned_v6, usage.available_v6),
        ];
        let parts: Vec<_> = families
            .iter()
            .filter(|(_, assigned, available)| assigned.get() > 0 || available.get() > 0)
            .map(|(family, assigned, available)| format!("{family} {assigned} in use, {available} free"))
            .collect();
        let draining = if pool.draining { " (drains)" } else { "" };
        let _ = writeln!(text, "pool {}{draining}: {}", Printable(pool.name.as_str()), parts.join("; "));
    }
    let count = |counts: &dyn Fn(&Outlook) -> bool| outlooks.values().filter(|o| counts(o)).count();
    let (all, refused, others) = (outlooks.len(), count(&is_refused), count(&is_of_other_class));
    let unannounced = count(&|outlook| !outlook.addresses.is_empty() && via(outlook).is_empty());
    let _ = writeln!(
        text,
        "{} of {all} have their addresses, {refused} were refused one, {others} of another class; \
         {unannounced} with an address are announced by nobody",
        all - refused - others
    );
    text
}

fn or_dash<T: fmt::Display>(items: &[T]) -> String {
    match items {
        [] => "-".to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}
