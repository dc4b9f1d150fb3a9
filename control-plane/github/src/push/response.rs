//! Parses GitHub's responses about refs and comparisons.

use push::Oid;
use serde::Deserialize;

use super::super::client::ApiResponse;

/// A ref, as GitHub sends it.
#[derive(Deserialize)]
struct RawRef {
    r#ref: String,
    object: Object,
}

/// The object that a ref points to, or a commit.
#[derive(Deserialize)]
struct Object {
    sha: String,
}

/// An error message of GitHub.
#[derive(Deserialize)]
struct Message {
    message: String,
}

/// The object that the ref `name` points to. Returns `None` if GitHub shows no such ref.
///
/// # Errors
/// If the response is not about the ref `name`, or has another status or structure; the error says why.
pub fn ref_of(name: &str, answer: &ApiResponse) -> Result<Option<Oid>, String> {
    match answer.status {
        200 => {}
        404 => return Ok(None),
        // GitHub's response to every request below git/ for a repository without commits.
        409 if empty_repository(&answer.body) => return Ok(None),
        status => return Err(format!("status {status} of a ref")),
    }
    // Former versions of the API return an array of all refs whose names begin with this one. No attempt is made to
    // find the ref in such an array.
    let raw: RawRef = serde_json::from_slice(&answer.body).map_err(|error| format!("its ref is odd: {error}"))?;
    if raw.r#ref != name {
        return Err(format!("it answers with {:?} for {name}", raw.r#ref));
    }
    Oid::from_hex(raw.object.sha.as_bytes())
        .map(Some)
        .ok_or_else(|| format!("{:?} is no object's name", raw.object.sha))
}

fn empty_repository(body: &[u8]) -> bool {
    serde_json::from_slice::<Message>(body).is_ok_and(|raw| raw.message == "Git Repository is empty.")
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

#[cfg(test)]
mod tests {
    use base::percent::encode_path;

    #[test]
    fn a_name_in_a_path_is_that_name() {
        assert_eq!(encode_path("heads/a-b_c.d~/E1"), "heads/a-b_c.d~/E1");
        assert_eq!(encode_path("heads/#1%41&\"<>{|}?"), "heads/%231%2541%26%22%3C%3E%7B%7C%7D%3F");
    }
}
