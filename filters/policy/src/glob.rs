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
