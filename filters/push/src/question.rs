//! The questions of an inspection that only GitHub can answer, and the change that an update makes.

use git_wire::Oid;
use git_wire::receive_pack::RefUpdate;
use policy::push::Change;

/// A question that only GitHub can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Are the refs at these objects? The answer goes to [`crate::Inspection::refs_are`].
    Refs(Vec<RefAt>),
    /// For each descent: does one of the commits descend from the ancestor? The answer goes to
    /// [`crate::Inspection::descents_are`].
    Descents(Vec<Descent>),
}

/// A ref, and the object that it points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefAt {
    /// The ref's full name.
    pub name: String,
    /// `None` if the ref does not exist.
    pub object: Option<Oid>,
}

/// A question about ancestry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descent {
    /// The name of the ref to update.
    pub name: String,
    /// The ref's old commit.
    pub ancestor: Oid,
    /// 1 to [`crate::MAX_BOUNDARY`] commits from which the ref's new commit descends.
    pub commits: Vec<Oid>,
}

/// Whether GitHub has confirmed what a question asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    NotRequested,
    Requested,
    Received,
    /// Received too long ago. The question is asked again before the push passes.
    Old,
}

/// The change that an update makes. git's server deletes a ref if the new id is all zeros, whatever the old id is.
pub fn change(update: &RefUpdate) -> Change {
    match (update.old, update.new) {
        (_, None) => Change::Delete,
        (None, Some(_)) => Change::Create,
        (Some(_), Some(_)) => Change::Update,
    }
}
