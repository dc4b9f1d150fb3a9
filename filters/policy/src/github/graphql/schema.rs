//! The part of GitHub's schema that the policy needs, from `data/graphql-*.tsv`.
//!
//! A type is a name with fields. A type whose name ends in `~` is a view of the type without the `~`. It is used where
//! the object may belong to another repository, and has only the fields that may be read in that case.

use super::super::Class;

include!(concat!(env!("OUT_DIR"), "/graphql.rs"));

/// Stands for the type's index in a field that leads to no type in the tables: a scalar or an enum.
const LEAF: u16 = u16::MAX;

/// The kind of value that a member of an input takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// A node's id, of one of these types. The list is empty if GitHub documents no types.
    Id(&'static [&'static str]),
    String,
    Enum,
    Boolean,
    Number,
    /// An object of the input type with this index.
    Object(u16),
}

/// A mutation.
#[derive(Debug)]
pub struct Mutation {
    pub name: &'static str,
    pub class: Class,
    /// The index of the type of the argument `input`.
    pub input: u16,
    /// The index of the type that it returns.
    pub payload: u16,
    /// The mutation is refused unless the policy allows it by name.
    pub off: bool,
}

/// A type, or a view of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type(u16);

/// A field of a type.
#[derive(Clone, Copy, Debug)]
pub struct FieldOf {
    /// The type of the field's value. `None` for a scalar or an enum.
    pub to: Option<Type>,
    /// The arguments that the field takes.
    pub arguments: &'static [&'static str],
}

impl Type {
    /// The type with this name.
    pub fn named(name: &str) -> Option<Self> {
        let at = TYPES.binary_search_by(|(have, ..)| (*have).cmp(name)).ok()?;
        u16::try_from(at).ok().map(Self)
    }

    /// The type's name, with the `~` of a view.
    pub fn name(self) -> &'static str {
        TYPES.get(usize::from(self.0)).map(|(name, ..)| *name).unwrap_or_default()
    }

    /// The type's field `name`.
    pub fn field(self, name: &str) -> Option<FieldOf> {
        let (_, from, to) = TYPES.get(usize::from(self.0))?;
        let fields = FIELDS.get(usize::from(*from)..usize::from(*to))?;
        let at = fields.binary_search_by(|(have, ..)| (*have).cmp(name)).ok()?;
        let (_, to, arguments) = fields.get(at)?;
        let to = (*to != LEAF).then_some(Self(*to));
        Some(FieldOf { to, arguments: ARGUMENTS.get(usize::from(*arguments))? })
    }

    /// The type inside a fragment `on name` in a selection of this type. A view stays a view.
    pub fn narrowed(self, name: &str) -> Option<Self> {
        match self.name().strip_suffix('~') {
            Some(_) => Self::named(&format!("{name}~")),
            None if self.name() == name => Some(self),
            None => Self::named(name).filter(|to| !to.name().ends_with('~')),
        }
    }
}

impl Mutation {
    /// The mutation with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        let at = MUTATIONS.binary_search_by(|have| have.name.cmp(name)).ok()?;
        MUTATIONS.get(at)
    }

    /// The type that the mutation returns.
    pub fn payload(&self) -> Type {
        Type(self.payload)
    }
}

/// The kind of value that the member `name` takes, in the input type with the index `input`.
pub fn member(input: u16, name: &str) -> Option<InputKind> {
    let (_, from, to) = INPUTS.get(usize::from(input))?;
    let fields = INPUT_FIELDS.get(usize::from(*from)..usize::from(*to))?;
    let at = fields.binary_search_by(|(have, _)| (*have).cmp(name)).ok()?;
    fields.get(at).map(|(_, kind)| *kind)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted() {
        assert!(TYPES.is_sorted_by_key(|(name, ..)| *name));
        assert!(INPUTS.is_sorted_by_key(|(name, ..)| *name));
        assert!(MUTATIONS.is_sorted_by_key(|mutation| mutation.name));
        for (name, from, to) in TYPES {
            let fields = &FIELDS[usize::from(*from)..usize::from(*to)];
            assert!(fields.is_sorted_by(|a, b| a.0 < b.0), "{name}");
        }
        for (name, from, to) in INPUTS {
            let fields = &INPUT_FIELDS[usize::from(*from)..usize::from(*to)];
            assert!(fields.is_sorted_by(|a, b| a.0 < b.0), "{name}");
        }
    }

    /// The memory that the tables take in a filter, where a pointer has 4 bytes. Equal strings count once.
    #[test]
    fn the_tables_are_small() {
        let mut texts = std::collections::BTreeSet::new();
        texts.extend(TYPES.iter().chain(FIELDS).chain(INPUTS).map(|(name, ..)| *name));
        texts.extend(INPUT_FIELDS.iter().map(|(name, _)| *name));
        texts.extend(MUTATIONS.iter().map(|mutation| mutation.name));
        texts.extend(ARGUMENTS.iter().flat_map(|names| names.iter().copied()));
        let rows = 12 * (TYPES.len() + FIELDS.len() + INPUTS.len()) + 20 * INPUT_FIELDS.len() + 16 * MUTATIONS.len();
        let arguments: usize = ARGUMENTS.iter().map(|names| 8 + 8 * names.len()).sum();
        let size = texts.iter().map(|text| text.len()).sum::<usize>() + rows + arguments;
        assert!(size < 160 * 1024, "{size}");
    }

    #[test]
    fn a_view_stays_a_view() {
        let repo = Type::named("Repository").unwrap();
        let parent = repo.field("repository").or(repo.field("parent")).unwrap().to.unwrap();
        assert_eq!(parent.name(), "Repository~");
        assert_eq!(parent.narrowed("Repository"), Some(parent));
        assert_eq!(parent.narrowed("Node"), None);
        assert_eq!(repo.narrowed("Repository~"), None);
        assert!(parent.field("issues").is_none());
        let closer = Type::named("ClosedEvent").unwrap().field("closer").unwrap().to.unwrap();
        assert_eq!(closer.narrowed("PullRequest").unwrap().name(), "PullRequest~");
    }
}
