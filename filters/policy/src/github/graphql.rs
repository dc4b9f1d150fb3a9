//! GraphQL: judges the one operation of a document by every field that it reads and every value that it writes.
//!
//! The document is parsed and its variables are evaluated. Each selection is then followed through the part of
//! GitHub's schema that may be read (`reads`). A mutation has a class, as a REST operation has, and each value of its
//! input is judged by its place (`writes`). A field or value that neither the schema's tables nor this code lists is
//! refused. The request that is sent consists of the document, written anew, and the variables that it uses.

mod document;
mod reads;
mod schema;
mod variables;
mod writes;

use super::json::Json;
use super::{Class, Operation, Question, Refused, Scope};
use crate::Rule;
use document::Document;
use reads::Reader;
use variables::Variables;

/// A request that may pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The first mutation, or the operation `query` if the document is a query.
    pub operation: Operation,
    /// The rule that allowed it.
    pub rule: Rule,
    /// The body to send instead of the received one.
    pub body: Json,
    /// The questions to GitHub that have to be answered before the request passes. Each occurs once.
    pub ask: Vec<Question>,
}

/// Whether `name` is a mutation.
pub fn is_mutation(name: &str) -> bool {
    schema::Mutation::named(name).is_some()
}

/// Judges the body of POST /graphql.
///
/// # Errors
/// If the request is refused.
pub fn judge(body: &Json, scope: &Scope<'_>) -> Result<Judged, Refused> {
    let envelope = Envelope::read(body).map_err(malformed)?;
    let document =
        Document::parse(envelope.query).map_err(|why| malformed(format!("invalid GraphQL document: {why}")))?;
    if envelope.operation.is_some_and(|name| document.name != Some(name)) {
        return Err(malformed("operationName is not the name of the document's operation"));
    }
    let mut reader = Reader::new(*scope, &document, Variables::new(&document, envelope.variables));
    let roots = reader.roots()?;
    let (operation, rule) =
        if document.mutation { writes::judge(&mut reader, &roots)? } else { reads::judge(&mut reader, &roots)? };
    let Reader { variables, ask, fragments, .. } = reader;
    let is_used = |name: &str| variables.is_used(name);
    let sent = Document {
        mutation: document.mutation,
        name: document.name,
        variables: document.variables.iter().filter(|variable| is_used(variable.name)).cloned().collect(),
        selections: document.selections.clone(),
        fragments: document.fragments.iter().filter(|fragment| fragments.contains(fragment.name)).cloned().collect(),
    };
    let mut members = vec![("query".to_owned(), Json::String(sent.write()))];
    let given: Vec<_> = envelope.variables.iter().filter(|(name, _)| is_used(name)).cloned().collect();
    if !given.is_empty() {
        members.push(("variables".to_owned(), Json::Object(given)));
    }
    if let Some(name) = document.name {
        members.push(("operationName".to_owned(), Json::String(name.to_owned())));
    }
    Ok(Judged { operation, rule, body: Json::Object(members), ask })
}

/// The refusal of a malformed request.
fn malformed(reason: impl Into<String>) -> Refused {
    Refused::unknown(Class::Graphql.rule(), reason)
}

/// The members of the request's body.
struct Envelope<'a> {
    query: &'a str,
    variables: &'a [(String, Json)],
    operation: Option<&'a str>,
}

impl<'a> Envelope<'a> {
    fn read(body: &'a Json) -> Result<Self, &'static str> {
        let Json::Object(members) = body else { return Err("the body has to be one JSON object") };
        let mut query = None;
        let mut variables: &[_] = &[];
        let mut operation = None;
        for (name, value) in members {
            match (name.as_str(), value) {
                ("query", Json::String(text)) => query = Some(text.as_str()),
                ("variables", Json::Object(members)) => variables = members,
                ("operationName", Json::String(name)) => {
                    operation = Some(name.as_str()).filter(|name| !name.is_empty())
                }
                ("extensions", Json::Object(members)) if members.is_empty() => {}
                ("variables" | "operationName" | "extensions", Json::Null) => {}
                ("query" | "variables" | "operationName" | "extensions", _) => {
                    return Err("a member of the body has the wrong type");
                }
                _ => return Err("the body may have only the members query, variables and operationName"),
            }
        }
        Ok(Self { query: query.ok_or("the body has no query")?, variables, operation })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests;
