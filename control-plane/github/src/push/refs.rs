//! The query for the current objects of all refs of a push, and GitHub's answer.
//!
//! The query costs one point of GraphQL's quota, for any number of refs (docs.github.com, "Rate limits and query limits
//! for the GraphQL API": it reads no connection). Names are variables, so no name can change the document.
//!
//! **Invariant:** a ref counts as absent only in an answer without errors that shows its repository.

use policy::Repo;
use push::Oid;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::client::ApiResponse;

/// The query for the refs `names` of `repo`, as JSON. The ref at index 0 has the alias `r0`, and so on.
pub fn query(repo: &Repo, names: &[&str]) -> Vec<u8> {
    let declared: String = (0..names.len()).map(|at| format!(",$r{at}:String!")).collect();
    let refs: String =
        (0..names.len()).map(|at| format!(" r{at}:ref(qualifiedName:$r{at}){{name prefix target{{oid}}}}")).collect();
    let document = format!(
        "query($owner:String!,$name:String!{declared}){{repository(owner:$owner,name:$name){{nameWithOwner{refs}}}}}"
    );
    let repo = [("owner".to_owned(), json!(repo.owner())), ("name".to_owned(), json!(repo.name()))];
    let names = names.iter().enumerate().map(|(at, name)| (format!("r{at}"), json!(name)));
    let variables: Map<String, Value> = repo.into_iter().chain(names).collect();
    json!({ "query": document, "variables": variables }).to_string().into_bytes()
}

#[derive(Deserialize)]
struct Raw {
    data: Option<Data>,
    #[serde(default)]
    errors: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

#[derive(Deserialize)]
struct Data {
    repository: Option<Repository>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Repository {
    name_with_owner: String,
    /// By their aliases.
    #[serde(flatten)]
    refs: Map<String, Value>,
}

#[derive(Deserialize)]
struct RawRef {
    name: String,
    prefix: String,
    /// The object that the ref points to; for an annotated tag the tag object.
    target: Object,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
}

/// The objects that the refs `names` point to, in their order; for an annotated tag the tag object. `None` for a ref
/// that does not exist.
///
/// # Errors
/// If the answer is not about each of these refs of `repo`, or has errors; the error says why.
pub fn read(repo: &Repo, names: &[&str], answer: &ApiResponse) -> Result<Vec<Option<Oid>>, String> {
    if answer.status != 200 {
        return Err(format!("status {} of the refs", answer.status));
    }
    let raw: Raw = serde_json::from_slice(&answer.body).map_err(|error| format!("its refs are odd: {error}"))?;
    // A ref with an error is null, like a ref that does not exist.
    if let Some(Message { message }) = raw.errors.first() {
        return Err(format!("its answer has errors: {message:?}"));
    }
    let found = raw.data.and_then(|data| data.repository).ok_or("it shows no such repository")?;
    // GitHub follows the former name of a repository.
    if !found.name_with_owner.eq_ignore_ascii_case(&repo.to_string()) {
        return Err(format!("it answers with {:?} for {repo}", found.name_with_owner));
    }
    let object = |(at, name): (usize, &&str)| {
        let shown = found.refs.get(&format!("r{at}")).ok_or_else(|| format!("its answer has no {name}"))?;
        let Some(raw) = Option::<RawRef>::deserialize(shown).map_err(|error| format!("its {name} is odd: {error}"))?
        else {
            return Ok(None);
        };
        // "Fully qualified matches are checked in order (refs/heads/master) before falling back onto checks for short
        // name matches (master)" (GitHub's description of `qualifiedName`): the answer may be about another ref.
        let full = raw.prefix + &raw.name;
        if full != **name {
            return Err(format!("it answers with {full:?} for {name}"));
        }
        let oid = Oid::from_hex(raw.target.oid.as_bytes());
        oid.map(Some).ok_or_else(|| format!("{:?} is no object's name", raw.target.oid))
    };
    names.iter().enumerate().map(object).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn no_name_changes_the_document() {
        let repo = Repo::parse("acme/app").unwrap();
        let document = |names: &[&str]| {
            let body: Value = serde_json::from_slice(&query(&repo, names)).unwrap();
            for (at, name) in names.iter().enumerate() {
                assert_eq!(body["variables"][format!("r{at}")], **name);
            }
            assert_eq!((&body["variables"]["owner"], &body["variables"]["name"]), (&json!("acme"), &json!("app")));
            body["query"].as_str().unwrap().to_owned()
        };
        let odd = ["refs/heads/a\"){id}}#", "refs/heads/$r0", "refs/heads/{r1}"];
        assert_eq!(document(&odd), document(&["refs/heads/a", "refs/heads/b", "refs/tags/c"]));
        assert_eq!(
            document(&["refs/heads/a", "refs/heads/b"]),
            "query($owner:String!,$name:String!,$r0:String!,$r1:String!)\
             {repository(owner:$owner,name:$name){nameWithOwner \
             r0:ref(qualifiedName:$r0){name prefix target{oid}} r1:ref(qualifiedName:$r1){name prefix target{oid}}}}"
        );
    }
}
