//! Judges the fields that a document reads: from the few fields that are allowed at the root down through the types
//! that may be read, fragments included.

use super::super::node_id::{Home, NodeId};
use super::super::{Class, MAX_ASK, Operation, Purpose, Question, Refused, Scope, search};
use super::document::{Condition, Document, Field, MAX_DEPTH, Selection};
use super::malformed;
use super::schema::Type;
use super::variables::{Given, Variables};
use crate::Rule;
use std::collections::BTreeSet;

/// The most fields that are followed. The fields of a fragment count each time that the fragment is spread. Fragments
/// that each spread the next one twice double the count at each step, so the document's length does not limit it.
const MAX_VISITED: usize = 5_000;
/// The most levels of nested selections, including those in spread fragments. This also ends cycles of fragments.
const MAX_NESTED: usize = 2 * MAX_DEPTH;
/// The most fields at the root. Each may be a write.
const MAX_ROOTS: usize = 256;
/// The most node ids in a document. [`MAX_ASK`] limits those that have to be confirmed with GitHub.
const MAX_IDS: usize = 500;

/// Follows the selections of a document.
pub struct Reader<'a> {
    pub scope: Scope<'a>,
    document: &'a Document<'a>,
    pub variables: Variables<'a>,
    visited: usize,
    ids: usize,
    /// The fragments that were spread so far.
    pub fragments: BTreeSet<&'a str>,
    /// The questions to GitHub.
    pub ask: Vec<Question>,
}

/// Judges a query. The policy allows it by its class, or by the operation's name `query`.
pub fn judge<'a>(reader: &mut Reader<'a>, roots: &[&'a Field<'a>]) -> Result<(Operation, Rule), Refused> {
    let in_repo = |field: &&&Field<'_>| matches!(field.name, "repository" | "node" | "nodes" | "search");
    let class = if roots.iter().any(|field| in_repo(&field)) { Class::ReadRepo } else { Class::ReadGlobal };
    let operation = Operation { name: "query".into(), class };
    let by_name = reader.scope.operation(&operation)?;
    for field in roots {
        reader.root(&operation, field)?;
    }
    Ok((operation, if by_name { Rule::GithubOperation } else { class.rule() }))
}

/// The root fields that lead to no repository: the field, its type and its arguments.
const GLOBAL: [(&str, &str, &[&str]); 11] = [
    ("__schema", "__Schema", &[]),
    ("__type", "__Type", &["name"]),
    ("codeOfConduct", "CodeOfConduct", &["key"]),
    ("codesOfConduct", "CodeOfConduct", &[]),
    ("license", "License", &["key"]),
    ("licenses", "License", &[]),
    ("meta", "GitHubMetadata", &[]),
    ("organization", "Organization", &["login"]),
    ("rateLimit", "RateLimit", &["dryRun"]),
    ("user", "User", &["login"]),
    ("viewer", "User", &[]),
];

impl<'a> Reader<'a> {
    /// A reader of `document`.
    pub fn new(scope: Scope<'a>, document: &'a Document<'a>, variables: Variables<'a>) -> Self {
        Self { scope, document, variables, visited: 0, ids: 0, fragments: BTreeSet::new(), ask: Vec::new() }
    }

    /// The fields at the root, including those in fragments.
    pub fn roots(&mut self) -> Result<Vec<&'a Field<'a>>, Refused> {
        let mut roots = Vec::new();
        self.collect(&self.document.selections, 0, &mut roots)?;
        Ok(roots)
    }

    fn collect(
        &mut self,
        selections: &'a [Selection<'a>],
        depth: usize,
        roots: &mut Vec<&'a Field<'a>>,
    ) -> Result<(), Refused> {
        // Every path through fragments ends at a field, so this limits the number of paths too.
        if depth > MAX_DEPTH || roots.len() > MAX_ROOTS {
            return Err(malformed("the document has more than 256 fields at its root, or a cycle of fragments"));
        }
        let root = if self.document.mutation { "Mutation" } else { "Query" };
        for selection in selections {
            let (on, conditions, inner) = match selection {
                Selection::Field(field) => {
                    self.conditions(&field.conditions)?;
                    roots.push(field);
                    continue;
                }
                Selection::Inline { on, conditions, selections } => (on.unwrap_or(root), conditions, &selections[..]),
                Selection::Spread { name, conditions } => {
                    let (on, selections) = self.fragment(name)?;
                    (on, conditions, selections)
                }
            };
            self.conditions(conditions)?;
            if on != root {
                return Err(malformed(format!("a fragment on {on} is not allowed at the root")));
            }
            self.collect(inner, depth.saturating_add(1), roots)?;
        }
        Ok(())
    }

    fn root(&mut self, operation: &Operation, field: &'a Field<'a>) -> Result<(), Refused> {
        let known = |names: &[&str]| takes_all(operation, field, names, None);
        let to = match field.name {
            "__typename" => return self.leaf(operation, field),
            "repository" => {
                known(&["owner", "name", "followRenames"])?;
                let arguments = self.arguments(field)?;
                let (owner, name) = (text(&arguments, "owner"), text(&arguments, "name"));
                if owner.zip(name).is_none_or(|(owner, name)| self.scope.repo(owner, name).is_none()) {
                    let named = format!("{}/{}", owner.unwrap_or("?"), name.unwrap_or("?"));
                    let reason =
                        format!("{named} is not one of the repositories of {}", self.scope.container.container_id);
                    return Err(Refused::of(operation, Rule::GithubRepo, reason));
                }
                "Repository"
            }
            "node" | "nodes" => {
                known(&["id", "ids"])?;
                for (_, value) in self.arguments(field)? {
                    self.nodes(operation, &value)?;
                }
                "Node"
            }
            "search" => {
                known(&["query", "type", "after", "before", "first", "last"])?;
                let arguments = self.arguments(field)?;
                let kind = arguments.iter().find(|(name, _)| *name == "type").map(|(_, value)| value);
                // The query language of ISSUE_ADVANCED has parentheses and operators, which `search::query` refuses.
                let kind = if let Some(Given::Enum(kind) | Given::Text(kind)) = kind { *kind } else { "" };
                if !["ISSUE", "ISSUE_ADVANCED"].contains(&kind) {
                    let reason = "a search may be of type ISSUE or ISSUE_ADVANCED only";
                    return Err(Refused::of(operation, Class::ReadCross.rule(), reason));
                }
                search::query(&self.scope, operation, text(&arguments, "query").unwrap_or_default())?;
                "SearchResultItemConnection"
            }
            name => match GLOBAL.iter().find(|(field, ..)| *field == name) {
                Some((_, to, arguments)) => {
                    known(arguments)?;
                    self.arguments(field)?;
                    to
                }
                None => {
                    let reason = format!("{name} is not allowed at the root of a query");
                    return Err(Refused::of(operation, Class::ReadCross.rule(), reason));
                }
            },
        };
        let to = Type::named(to).ok_or_else(|| unknown(operation, "Query", field.name))?;
        self.follow(operation, to, &field.selections, 0)
    }

    /// Follows the selections of an object of type `of`.
    pub fn follow(
        &mut self,
        operation: &Operation,
        of: Type,
        selections: &'a [Selection<'a>],
        depth: usize,
    ) -> Result<(), Refused> {
        if depth > MAX_NESTED {
            return Err(malformed("the document is nested too deep, or has a cycle of fragments"));
        }
        if selections.is_empty() {
            return Err(malformed(format!("a field of type {} has no selection", of.name())));
        }
        let deeper = depth.saturating_add(1);
        for selection in selections {
            self.visited = self.visited.saturating_add(1);
            if self.visited > MAX_VISITED {
                return Err(malformed("the document reads more than 5000 fields"));
            }
            match selection {
                Selection::Field(field) => {
                    let found = of.field(field.name).ok_or_else(|| unknown(operation, of.name(), field.name))?;
                    // The tables list only arguments that are not ids. These fields take an id too.
                    let id = match field.name {
                        "isRequired" => Some("pullRequestId"),
                        "discussions" => Some("categoryId"),
                        _ => None,
                    };
                    takes_all(operation, field, found.arguments, id)?;
                    self.conditions(&field.conditions)?;
                    let arguments = self.arguments(field)?;
                    for (_, id) in arguments.iter().filter(|(name, _)| Some(*name) == id) {
                        self.nodes(operation, id)?;
                    }
                    // `owner:branch` is a branch of another repository.
                    if field.name == "compare" && text(&arguments, "headRef").is_none_or(|head| head.contains(':')) {
                        let reason = "headRef of a comparison has to be a branch of the same repository";
                        return Err(Refused::of(operation, Class::ReadCross.rule(), reason));
                    }
                    match found.to {
                        Some(to) => self.follow(operation, to, &field.selections, deeper)?,
                        None if field.selections.is_empty() => {}
                        None => return Err(malformed(format!("{}.{} has no fields", of.name(), field.name))),
                    }
                }
                Selection::Inline { on, conditions, selections } => {
                    self.conditions(conditions)?;
                    let of = on.map_or(Some(of), |on| of.narrowed(on));
                    let of = of.ok_or_else(|| unknown(operation, "", on.unwrap_or_default()))?;
                    self.follow(operation, of, selections, deeper)?;
                }
                Selection::Spread { name, conditions } => {
                    self.conditions(conditions)?;
                    let (on, selections) = self.fragment(name)?;
                    let of = of.narrowed(on).ok_or_else(|| unknown(operation, "", on))?;
                    self.follow(operation, of, selections, deeper)?;
                }
            }
        }
        Ok(())
    }

    fn fragment(&mut self, name: &'a str) -> Result<(&'a str, &'a [Selection<'a>]), Refused> {
        let fragment = self.document.fragments.iter().find(|fragment| fragment.name == name);
        let fragment = fragment.ok_or_else(|| malformed(format!("there is no fragment {name}")))?;
        self.fragments.insert(name);
        Ok((fragment.on, &fragment.selections))
    }

    /// Checks that a field has neither arguments nor selections.
    pub fn leaf(&self, operation: &Operation, field: &Field<'_>) -> Result<(), Refused> {
        if !field.arguments.is_empty() || !field.selections.is_empty() {
            return Err(unknown(operation, "", field.name));
        }
        Ok(())
    }

    /// The evaluated arguments of a field, without those that have no value.
    pub fn arguments(&mut self, field: &'a Field<'a>) -> Result<Vec<(&'a str, Given<'a>)>, Refused> {
        let mut given = Vec::with_capacity(field.arguments.len());
        for (name, value) in &field.arguments {
            if let Some(value) = self.variables.evaluate(value).map_err(malformed)? {
                given.push((*name, value));
            }
        }
        Ok(given)
    }

    fn conditions(&mut self, conditions: &'a [Condition<'a>]) -> Result<(), Refused> {
        for condition in conditions {
            match self.variables.evaluate(&condition.value).map_err(malformed)? {
                Some(Given::Boolean(_)) => {}
                _ => return Err(malformed("the condition of a directive is not a boolean")),
            }
        }
        Ok(())
    }

    /// Judges the ids of nodes to read. An id that names a repository has to name one of the container's. GitHub has to
    /// confirm it, because the client may have put an allowed number before another repository's object. A repository's
    /// id has only the number.
    fn nodes(&mut self, operation: &Operation, value: &Given<'_>) -> Result<(), Refused> {
        match value {
            Given::List(items) => items.iter().try_for_each(|item| self.nodes(operation, item)),
            Given::Text(text) => {
                let id = self.decode(operation, text)?;
                match id.home {
                    Home::Repo(repo, _) => {
                        self.scope.repo_by_id(operation, repo)?;
                        if id.kind == "Repository" { Ok(()) } else { self.confirm(text, Purpose::Read) }
                    }
                    Home::Unsaid => self.confirm(text, Purpose::Read),
                    Home::Nobody => {
                        let reason = format!("{text} belongs to no repository");
                        Err(Refused::of(operation, Rule::GithubNodeId, reason))
                    }
                }
            }
            _ => Err(Refused::of(operation, Rule::GithubNodeId, "an id has to be a string")),
        }
    }

    /// Decodes an id.
    pub fn decode(&mut self, operation: &Operation, text: &str) -> Result<NodeId, Refused> {
        self.ids = self.ids.saturating_add(1);
        if self.ids > MAX_IDS {
            return Err(malformed("the document has more than 500 ids"));
        }
        NodeId::decode(text).ok_or_else(|| {
            let reason = format!("{text:?} is not a node id that the gateway knows");
            Refused::of(operation, Rule::GithubNodeId, reason)
        })
    }

    /// Adds the question whether the node `id` may be used for `purpose`.
    pub fn confirm(&mut self, id: &str, purpose: Purpose) -> Result<(), Refused> {
        let question = Question::node(id, purpose);
        if self.ask.contains(&question) {
            return Ok(());
        }
        if self.ask.len() >= MAX_ASK {
            return Err(malformed(format!("the document names more than {MAX_ASK} nodes to be confirmed with GitHub")));
        }
        self.ask.push(question);
        Ok(())
    }
}

/// Checks that each argument of the field is one of `arguments`, or `id`.
fn takes_all(operation: &Operation, field: &Field<'_>, arguments: &[&str], id: Option<&str>) -> Result<(), Refused> {
    match field.arguments.iter().find(|(name, _)| !arguments.contains(name) && Some(*name) != id) {
        None => Ok(()),
        Some((name, _)) => {
            let reason = format!("{} takes no argument {name} here", field.name);
            Err(Refused::of(operation, Rule::GithubField, reason))
        }
    }
}

fn text<'a>(arguments: &[(&'a str, Given<'a>)], name: &str) -> Option<&'a str> {
    arguments.iter().find_map(|(have, value)| match value {
        Given::Text(text) if *have == name => Some(*text),
        _ => None,
    })
}

/// The refusal of the field `name` of the type `of`, or of the type `name` if `of` is empty.
fn unknown(operation: &Operation, of: &str, name: &str) -> Refused {
    let reason = match of {
        "" => format!("{name} may not be read here"),
        of => format!("{}.{name} may not be read{}", of.trim_end_matches('~'), elsewhere(of)),
    };
    Refused::of(operation, Rule::GithubField, reason)
}

fn elsewhere(of: &str) -> &'static str {
    if of.ends_with('~') { ", because the object may belong to another repository" } else { "" }
}
