//! Parses GitHub's response about a comparison of two commits.

use push::Oid;
use serde::Deserialize;

use super::super::client::ApiResponse;

/// A commit.
#[derive(Deserialize)]
struct Object {
    sha: String,
}

/// The parsed fields of a comparison.
#[derive(Deserialize)]
struct Comparison {
    status: Position,
    merge_base_commit: Object,
}

/// The position of the second of two commits, relative to the first.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Position {
    Ahead,
    Identical,
    Behind,
    Diverged,
}

/// Whether the other commit of the comparison descends from `ancestor`.
///
/// # Errors
/// If the response has another status or structure; the error says why.
pub fn ahead(ancestor: &Oid, answer: &ApiResponse) -> Result<bool, String> {
    match answer.status {
        200 => {}
        // One of the commits is unknown, or they have no common history.
        404 => return Ok(false),
        status => return Err(format!("status {status} of a comparison")),
    }
    let raw: Comparison =
        serde_json::from_slice(&answer.body).map_err(|error| format!("its comparison is odd: {error}"))?;
    match raw.status {
        // If the base differs, GitHub has compared other commits than requested: the target of a tag object, or a ref
        // whose name looks like an object id.
        Position::Ahead | Position::Identical => {
            Ok(Oid::from_hex(raw.merge_base_commit.sha.as_bytes()).as_ref() == Some(ancestor))
        }
        Position::Behind | Position::Diverged => Ok(false),
    }
}
