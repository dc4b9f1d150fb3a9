//! How GitHub's responses about refs and comparisons are read.

use push::Oid;
use serde::Deserialize;

use super::super::client::ApiResponse;

/// A ref of GitHub's.
#[derive(Deserialize)]
struct RawRef {
    r#ref: String,
    object: Object,
}

/// What a ref is at, or a commit.
#[derive(Deserialize)]
struct Object {
    sha: String,
}

/// What GitHub says in place of an answer.
#[derive(Deserialize)]
struct Message {
    message: String,
}

/// The object that the ref `name` is at; `None` if GitHub shows no such ref.
///
/// # Errors
/// If the response is not about the ref `name`, or has another status or shape: why.
pub fn ref_of(name: &str, answer: &ApiResponse) -> Result<Option<Oid>, String> {
    match answer.status {
        200 => {}
        404 => return Ok(None),
        // What GitHub answers all questions below git/ about a repository without commits.
        409 if empty_repository(&answer.body) => return Ok(None),
        status => return Err(format!("status {status} of a ref")),
    }
    // Former versions of the API answer with an array of all refs whose names begin like this one. Whether it exists
    // is not guessed from that.
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

/// A comparison, as far as it is read.
#[derive(Deserialize)]
struct Comparison {
    status: Position,
    merge_base_commit: Object,
}

/// Where the second of two commits is, seen from the first.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Position {
    Ahead,
    Identical,
    Behind,
    Diverged,
}

/// Whether the other commit of the comparison with `ancestor` descends from it.
///
/// # Errors
/// If the response has another status or shape: why.
pub fn ahead(ancestor: &Oid, answer: &ApiResponse) -> Result<bool, String> {
    match answer.status {
        200 => {}
        // One of them is unknown, or they have nothing in common.
        404 => return Ok(false),
        status => return Err(format!("status {status} of a comparison")),
    }
    let raw: Comparison =
        serde_json::from_slice(&answer.body).map_err(|error| format!("its comparison is odd: {error}"))?;
    match raw.status {
        // With another base, GitHub has compared something else than what was named: what a tag's object points to, or
        // a ref that is called like an object.
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
