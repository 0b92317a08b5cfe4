//! Which interfaces to work on.

use lbcore::id::InterfaceName;

/// Interfaces that container runtimes and network plugins make for themselves; the list is MetalLB's
/// (`metallb-excludel2`).
const PLUMBING: [&str; 14] = [
    "docker*",
    "cbr*",
    "dummy*",
    "virbr*",
    "lxcbr*",
    "veth*",
    "lo",
    "cali*",
    "tunl*",
    "flannel*",
    "kube-ipvs*",
    "cni*",
    "nodelocaldns*",
    "lxc*",
];

/// Selects interfaces by name. In a pattern `*` stands for any text and `?` for any character.
///
/// A name that is included word for word is selected whatever is excluded. The default includes `*` and excludes the
/// interfaces that container runtimes and network plugins make for themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceFilter {
    /// Patterns of names to work on.
    pub include: Vec<String>,
    /// Patterns of names to leave alone.
    pub exclude: Vec<String>,
}

impl Default for InterfaceFilter {
    fn default() -> Self {
        Self { include: vec!["*".to_owned()], exclude: PLUMBING.map(str::to_owned).to_vec() }
    }
}

impl InterfaceFilter {
    /// Only these, by name or pattern; those that the default leaves alone are still left alone unless they are named
    /// word for word.
    pub fn only<T: Into<String>>(include: impl IntoIterator<Item = T>) -> Self {
        Self { include: include.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Whether `name` is selected.
    pub fn selects(&self, name: &InterfaceName) -> bool {
        let name = name.as_str();
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        self.include.iter().any(|pattern| pattern == name) || (any(&self.include) && !any(&self.exclude))
    }

    /// The names that are included word for word.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.include.iter().map(String::as_str).filter(|pattern| !pattern.contains(['*', '?']))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return name.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    if first == '*' {
        return name.char_indices().any(|(at, _)| matches(rest, &name[at..])) || matches(rest, "");
    }
    name.chars()
        .next()
        .is_some_and(|next| (first == '?' || first == next) && matches(rest, &name[next.len_utf8()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns() {
        let default = InterfaceFilter::default();
        let some = InterfaceFilter::only(["eth?", "bond*.5", "veth-lb"]);
        for (name, by_default, by_some) in [
            ("eth0", true, true),
            ("eth10", true, false),
            ("bond0.5", true, true),
            ("bond0.6", true, false),
            ("veth-lb", false, true),
            ("veth1234", false, false),
            ("lo", false, false),
            ("kube-ipvs0", false, false),
            ("docker0", false, false),
            ("ens1f0", true, false),
        ] {
            assert_eq!(default.selects(&name.into()), by_default, "{name} by default");
            assert_eq!(some.selects(&name.into()), by_some, "{name} by choice");
        }
        assert_eq!(some.named().collect::<Vec<_>>(), ["veth-lb"]);
        assert!(matches("*", "") && matches("a*c*", "abcd") && !matches("a*c", "abcd") && !matches("", "a"));
    }
}
