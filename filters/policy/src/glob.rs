//! Globs with one wildcard: `*` stands for any text, slashes included. For branches, paths of files, and the segments of
//! endpoints.

/// Whether `pattern`, in which `*` stands for any text, matches the whole of `text`.
pub fn covers(pattern: &[u8], text: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    // Taking the leftmost match of each part leaves the most text for the parts after it.
    for part in parts.filter(|part| !part.is_empty()) {
        let Some(at) = rest.windows(part.len()).position(|window| window == part) else { return false };
        rest = rest.get(at.saturating_add(part.len())..).unwrap_or_default();
    }
    rest.ends_with(last)
}

/// Whether a text exists that both patterns match. Takes time in proportion to the product of their lengths.
pub fn meet(one: &[u8], other: &[u8]) -> bool {
    // `row` has, for the part of `one` so far and each part of `other` from its start, whether the two parts meet. A star
    // takes any text, so it is passed over, or it takes the next byte of the other pattern.
    let mut row = vec![true];
    for byte in other {
        row.push(*byte == b'*' && row.last() == Some(&true));
    }
    for a in one {
        let mut next = Vec::with_capacity(row.len());
        next.push(*a == b'*' && row.first() == Some(&true));
        for (pair, b) in row.windows(2).zip(other) {
            let (before_both, before_a) = (pair.first() == Some(&true), pair.last() == Some(&true));
            let before_b = next.last() == Some(&true);
            next.push(if *a == b'*' || *b == b'*' { before_a || before_b } else { a == b && before_both });
        }
        row = next;
    }
    row.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All texts over `alphabet` of at most `length` bytes.
    fn texts(alphabet: &[u8], length: usize) -> Vec<Vec<u8>> {
        let mut all = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..length {
            let to = all.len();
            for at in from..to {
                for byte in alphabet {
                    all.push([all[at].as_slice(), &[*byte]].concat());
                }
            }
            from = to;
        }
        all
    }

    /// A text that both patterns match has at most as many bytes as they have together.
    #[test]
    fn patterns_meet_exactly_if_a_text_matches_both() {
        let (patterns, texts) = (texts(b"ab*", 4), texts(b"ab", 8));
        let matched: Vec<Vec<bool>> =
            patterns.iter().map(|pattern| texts.iter().map(|text| covers(pattern, text)).collect()).collect();
        for (one, of_one) in patterns.iter().zip(&matched) {
            for (other, of_other) in patterns.iter().zip(&matched) {
                let both = of_one.iter().zip(of_other).any(|(a, b)| *a && *b);
                assert_eq!(meet(one, other), both, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn globs_of_branches_meet_as_their_names_do() {
        for (one, other, expected) in [
            ("sandbox/*", "sandbox/a/*", true),
            ("sandbox/a/*", "sandbox/b/*", false),
            ("sandbox/a/*", "sandbox/ab/*", false),
            ("sandbox/*/x", "sandbox/a/*", true),
            ("*/x", "sandbox/*", true),
            ("*-a", "*-b", false),
            ("a*b*c", "*c", true),
            ("sandbox/x", "sandbox/x", true),
            ("sandbox/x", "sandbox/y", false),
            ("sandbox/x", "Sandbox/x", false),
        ] {
            assert_eq!(meet(one.as_bytes(), other.as_bytes()), expected, "{one} {other}");
            assert_eq!(meet(other.as_bytes(), one.as_bytes()), expected, "{other} {one}");
        }
    }
}
