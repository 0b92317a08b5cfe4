//! Labels and label selectors, with the meaning that Kubernetes gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The labels of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(BTreeMap<Arc<str>, Arc<str>>);

impl Labels {
    /// No labels.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| &**value)
    }

    /// Sets `key` to `value`, whatever it was.
    pub fn insert(&mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) {
        self.0.insert(key.into(), value.into());
    }

    /// The pairs, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// A label selector (`metav1.LabelSelector`): all of its requirements must hold. An empty one selects
/// everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector {
    /// Labels that must have exactly these values.
    pub match_labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Further requirements.
    pub match_expressions: Vec<Requirement>,
}

impl LabelSelector {
    /// Selects what has label `key` with value `value`.
    pub fn label(key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        Self { match_labels: BTreeMap::from([(key.into(), value.into())]), match_expressions: Vec::new() }
    }

    /// Whether `labels` satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut comma = |f: &mut fmt::Formatter<'_>| {
            let lead = if first { "" } else { "," };
            first = false;
            f.write_str(lead)
        };
        for (key, value) in &self.match_labels {
            comma(f)?;
            write!(f, "{key}={value}")?;
        }
        for requirement in &self.match_expressions {
            comma(f)?;
            write!(f, "{requirement}")?;
        }
        if first { f.write_str("(everything)") } else { Ok(()) }
    }
}

/// One requirement of a [`LabelSelector`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label that it looks at.
    pub key: Arc<str>,
    /// What it asks of it.
    pub operator: Operator,
}

impl Requirement {
    /// Whether `labels` satisfy it. As in Kubernetes, `NotIn` holds for an object without the label.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<Arc<str>>| values.iter().map(|v| &**v).collect::<Vec<_>>().join(",");
        match &self.operator {
            Operator::In(values) => write!(f, "{} in ({})", self.key, list(values)),
            Operator::NotIn(values) => write!(f, "{} notin ({})", self.key, list(values)),
            Operator::Exists => f.write_str(&self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
        }
    }
}

/// The operators of a [`Requirement`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The label is there with one of these values.
    In(BTreeSet<Arc<str>>),
    /// The label is not there, or has none of these values.
    NotIn(BTreeSet<Arc<str>>),
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(values: &[&str]) -> BTreeSet<Arc<str>> {
        values.iter().map(|value| Arc::from(*value)).collect()
    }

    #[test]
    fn selects_as_kubernetes_does() {
        let labels: Labels = [("zone", "a"), ("gpu", "")].into_iter().collect();
        let case = |operator, key: &str| Requirement { key: key.into(), operator }.matches(&labels);
        assert!(case(Operator::In(values(&["a", "b"])), "zone"));
        assert!(!case(Operator::In(values(&["b"])), "zone"));
        assert!(!case(Operator::In(values(&["b"])), "rack"));
        assert!(case(Operator::NotIn(values(&["b"])), "zone"));
        assert!(!case(Operator::NotIn(values(&["a"])), "zone"));
        assert!(case(Operator::NotIn(values(&["a"])), "rack"));
        assert!(case(Operator::Exists, "gpu"));
        assert!(!case(Operator::Exists, "rack"));
        assert!(case(Operator::DoesNotExist, "rack"));
        assert!(!case(Operator::DoesNotExist, "gpu"));
        assert!(LabelSelector::default().matches(&labels));
        assert!(LabelSelector::label("zone", "a").matches(&labels));
        assert!(!LabelSelector::label("zone", "b").matches(&labels));
    }

    #[test]
    fn a_selector_says_what_it_selects() {
        let mut selector = LabelSelector::label("zone", "a");
        selector
            .match_expressions
            .push(Requirement { key: "gpu".into(), operator: Operator::In(values(&["x", "y"])) });
        assert_eq!(selector.to_string(), "zone=a,gpu in (x,y)");
        assert_eq!(LabelSelector::default().to_string(), "(everything)");
    }
}
