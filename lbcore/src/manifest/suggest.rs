//! "Did you mean…?"

/// The one of `known` that `text` was probably meant to be.
pub(super) fn closest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    if text.len() > 64 {
        return None;
    }
    let allowed = if text.len() <= 4 { 1 } else { 2 };
    let distance = |name: &str| {
        if name.eq_ignore_ascii_case(text) {
            0
        } else {
            distance(&text.to_ascii_lowercase(), &name.to_ascii_lowercase())
        }
    };
    known
        .iter()
        .map(|name| (distance(name), *name))
        .filter(|(distance, name)| {
            // A plural, or a word that is cut short, is meant whatever its length.
            *distance <= allowed
                || (text.len() >= 4 && name.to_ascii_lowercase().starts_with(&text.to_ascii_lowercase()))
        })
        .min()
        .map(|(_, name)| name)
}

/// How many letters must be added, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["addresses", "autoAssign", "avoidBuggyIPs", "peers"];
        for (text, expected) in [
            ("adresses", Some("addresses")),
            ("autoassign", Some("autoAssign")),
            ("avoidBuggyIps", Some("avoidBuggyIPs")),
            ("perrs", Some("peers")),
            ("epers", Some("peers")),
            ("address", Some("addresses")),
            ("nodeSelectors", None),
            ("x", None),
        ] {
            assert_eq!(closest(text, &known), expected, "{text}");
        }
    }
}
