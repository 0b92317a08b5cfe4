//! What a comparison consists of.

use std::io;

use crate::report::Report;

/// A comparison. Names are hyphenated; the first system is ours.
pub(crate) struct Table {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// One line for the help.
    pub(crate) about: &'static str,
    /// More lines for the help: what the names of the cases do not tell.
    pub(crate) details: &'static str,
    /// Everyone who takes part.
    pub(crate) systems: &'static [&'static str],
    /// Everything that is measured.
    pub(crate) cases: &'static [&'static str],
    /// How often each figure is taken if nothing else is asked for.
    pub(crate) runs: u32,
    /// Whether it makes networks, so that all of it runs in namespaces of its own.
    pub(crate) needs_network: bool,
    /// Measures one case, and reports the figures of each system or why there are none.
    pub(crate) measure: fn(&mut Bench<'_>) -> io::Result<()>,
    /// Takes the figure that needs a process of its own, if there is one: the memory, in bytes, that a case of a
    /// system holds.
    pub(crate) alone: Option<fn(system: &str, case: &str) -> io::Result<u64>>,
}

/// One case, being measured.
pub(crate) struct Bench<'a> {
    pub(crate) report: &'a mut Report<io::StdoutLock<'static>>,
    pub(crate) table: &'static str,
    /// Those asked for.
    pub(crate) systems: &'a [&'static str],
    pub(crate) case: &'static str,
    pub(crate) runs: u32,
}

impl Bench<'_> {
    /// Reports the median of `values` of `system`, one a run.
    pub(crate) fn row(
        &mut self,
        system: &'static str,
        metric: &'static str,
        mut values: Vec<f64>,
        unit: &'static str,
    ) -> io::Result<()> {
        values.sort_by(f64::total_cmp);
        let Some(median) = values.get(values.len() / 2) else { return Ok(()) };
        self.report.row(system, self.case, metric, *median, unit)
    }

    /// Reports that there is no figure of `system`, and why.
    pub(crate) fn skip(&mut self, system: &'static str, reason: &str) -> io::Result<()> {
        self.report.skip(system, self.case, reason)
    }

    /// Reports that something went wrong with `system`, which makes the program fail when all else is measured.
    pub(crate) fn fail(&mut self, system: &'static str, reason: &str) -> io::Result<()> {
        self.report.fail(system, self.case, reason)
    }
}

/// Those of `known` that are `asked` for, all if none is; or an error that lists what there is.
pub(crate) fn select(
    what: &str,
    known: &[&'static str],
    asked: &[String],
) -> Result<Vec<&'static str>, String> {
    let unknown: Vec<_> = asked.iter().filter(|name| !known.contains(&name.as_str())).collect();
    if !unknown.is_empty() {
        let unknown = unknown.into_iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        return Err(format!("there is no {what} {unknown}; there are: {}", known.join(", ")));
    }
    Ok(known.iter().copied().filter(|name| asked.is_empty() || asked.iter().any(|one| one == name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_in_the_order_of_the_table() {
        let known = ["a", "b", "c"];
        let asked = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(select("case", &known, &asked(&["c", "a"])), Ok(vec!["a", "c"]));
        assert_eq!(select("case", &known, &[]), Ok(vec!["a", "b", "c"]));
        assert_eq!(
            select("case", &known, &asked(&["x", "a", "y"])),
            Err("there is no case \"x\", \"y\"; there are: a, b, c".to_owned())
        );
    }
}
