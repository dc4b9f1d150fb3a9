//! The note of a request: the stages' decision. Each filter passes it to the next, and Envoy passes it to the audit.
//!
//! The identity filter writes the first note. Each later filter that decides replaces the decision and keeps the rest.
//! The audit reads the last note from Envoy's access log. A note that cannot be read is an error for each reader, never
//! an empty note.

use crate::github::Operation;
use crate::push::Change;
use crate::{Denial, Rule, Stage};
use serde::{Deserialize, Serialize};

/// Whether a request passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The request passes.
    Allow,
    /// The request is refused.
    Deny,
}

impl Decision {
    /// The decision's name in the audit and in the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A decision, and the rule that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// The stage that decided.
    pub stage: Stage,
    /// Whether the request passes.
    pub verdict: Decision,
    /// The rule that decided.
    pub rule: Rule,
    /// Why the request was refused. Mostly empty if the request passes.
    pub reason: String,
}

impl Decided {
    /// The request passes by `rule`.
    pub fn allowed(rule: Rule) -> Self {
        Self { stage: rule.stage(), verdict: Decision::Allow, rule, reason: String::new() }
    }

    /// The request is refused by `rule`.
    pub fn denied(rule: Rule, reason: impl Into<String>) -> Self {
        Self { stage: rule.stage(), verdict: Decision::Deny, rule, reason: reason.into() }
    }

    /// The decision as words, for carriers that hold only text (ext_authz's dynamic metadata).
    pub fn words(&self) -> [(&'static str, &str); 4] {
        [
            ("stage", self.stage.name()),
            ("verdict", self.verdict.name()),
            ("rule", self.rule.name()),
            ("reason", &self.reason),
        ]
    }

    /// Reads [`Decided::words`]. `word` returns the text under a name.
    ///
    /// # Errors
    /// If a word is missing, or is no name of a stage, a decision or a rule.
    pub fn from_words<'a>(word: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Unreadable> {
        let read = |name: &'static str| word(name).ok_or_else(|| Unreadable(format!("{name} is missing")));
        let unknown = |name: &str, text: &str| Unreadable(format!("unknown {name} {text:?}"));
        let (stage, verdict, rule) = (read("stage")?, read("verdict")?, read("rule")?);
        Ok(Self {
            stage: Stage::ALL.into_iter().find(|known| known.name() == stage).ok_or_else(|| unknown("stage", stage))?,
            verdict: [Decision::Allow, Decision::Deny]
                .into_iter()
                .find(|known| known.name() == verdict)
                .ok_or_else(|| unknown("verdict", verdict))?,
            rule: Rule::named(rule).ok_or_else(|| unknown("rule", rule))?,
            reason: read("reason")?.to_owned(),
        })
    }
}

impl From<&Denial> for Decided {
    fn from(denial: &Denial) -> Self {
        let Denial { stage, rule, reason, .. } = denial.clone();
        Self { stage, verdict: Decision::Deny, rule, reason }
    }
}

/// The effect of a push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushNote {
    /// The repository, `owner/name`.
    pub repo: String,
    /// The refs that the push would move. Empty until they are parsed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub updates: Vec<UpdateNote>,
    /// The number of parsed commits of the push's pack.
    pub commits: u64,
    /// The number of received bytes of the push's pack.
    pub pack_bytes: u64,
}

/// The effect of a push on a ref.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateNote {
    /// The ref's full name.
    #[serde(rename = "ref")]
    pub name: String,
    /// The ref's old object, in hex. `None` if the ref is created.
    pub old: Option<String>,
    /// The ref's new object, in hex. `None` if the ref is deleted.
    pub new: Option<String>,
    /// The kind of change.
    pub kind: Change,
}

/// The note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// The request's id, `-` if it has none.
    pub request_id: String,
    /// The container at the source address. `None` if no container is registered there.
    pub container_id: Option<String>,
    /// The last decision.
    pub decided: Decided,
    /// The operation at GitHub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// The push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<PushNote>,
    /// The version of the policy in force.
    pub policy_version: String,
}

/// Why a note cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the noted decision cannot be read: {0}")]
pub struct Unreadable(String);

impl Default for Note {
    /// A request that no stage has judged: a refusal.
    fn default() -> Self {
        Self {
            request_id: "-".into(),
            container_id: None,
            decided: Decided::denied(Rule::ListenerUnnamed, "no stage has judged the request"),
            operation: None,
            push: None,
            policy_version: String::new(),
        }
    }
}

impl Note {
    /// Reads a note.
    ///
    /// # Errors
    /// If `json` is no note, for example empty.
    pub fn read(json: &[u8]) -> Result<Self, Unreadable> {
        serde_json::from_slice(json).map_err(|error| Unreadable(error.to_string()))
    }

    /// The request's id, `-` if it has none.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The note with the decision that the request passes.
    #[must_use]
    pub fn allowed(&self, rule: Rule) -> Self {
        Self { decided: Decided::allowed(rule), ..self.clone() }
    }

    /// The note with the decision that the request is refused.
    #[must_use]
    pub fn refused(&self, denial: &Denial) -> Self {
        Self { decided: denial.into(), ..self.clone() }
    }

    /// The note with the operation, if that is known.
    #[must_use]
    pub fn about(self, operation: Option<&Operation>) -> Self {
        Self { operation: operation.cloned().or(self.operation), ..self }
    }

    /// The note with what the push does.
    #[must_use]
    pub fn of_push(self, push: PushNote) -> Self {
        Self { push: Some(push), ..self }
    }

    /// The note as JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A struct of strings always serialises. Empty bytes are no note, so the reader reports them.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::github::Class;

    fn note() -> Note {
        let update = UpdateNote { name: "refs/heads/x".into(), old: None, new: Some("1".into()), kind: Change::Create };
        let push = PushNote { repo: "o/r".into(), updates: vec![update], commits: 1, pack_bytes: 2 };
        let operation = Operation { name: "git/receive-pack".into(), class: Class::WriteRef };
        let noted = Note { request_id: "7".into(), container_id: Some("box".into()), ..Note::default() };
        noted.allowed(Rule::PushAllowed).about(Some(&operation)).of_push(push)
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        for note in [note(), Note::default()] {
            assert_eq!(Note::read(&note.to_bytes()).unwrap(), note);
        }
        assert_eq!(
            String::from_utf8(note().to_bytes()).unwrap(),
            r#"{"request_id":"7","container_id":"box","decided":{"stage":"push","verdict":"allow","rule":"push.allowed","reason":""},"operation":{"name":"git/receive-pack","class":"write-ref"},"push":{"repo":"o/r","updates":[{"ref":"refs/heads/x","old":null,"new":"1","kind":"create"}],"commits":1,"pack_bytes":2},"policy_version":""}"#
        );
    }

    #[test]
    fn a_note_with_another_key_or_word_is_no_note() {
        let text = String::from_utf8(note().to_bytes()).unwrap();
        for (old, new) in [
            ("request_id", "id"),
            ("\"decided\"", "\"decision\""),
            ("push.allowed", "push.perhaps"),
            ("\"allow\"", "\"perhaps\""),
            ("write-ref", "write"),
            ("\"commits\"", "\"commit\""),
            ("{\"request_id\"", "{\"more\":1,\"request_id\""),
        ] {
            assert!(text.contains(old), "{old}");
            assert!(Note::read(text.replacen(old, new, 1).as_bytes()).is_err(), "{new}");
        }
        assert!(Note::read(b"").is_err() && Note::read(b"{}").is_err());
    }

    #[test]
    fn a_decision_is_carried_as_words() {
        let decided = Decided::denied(Rule::CredentialsRepo, "no");
        let words = decided.words();
        let word = |name: &str| words.iter().find(|(have, _)| *have == name).map(|(_, text)| *text);
        assert_eq!(Decided::from_words(word).unwrap(), decided);
        for missing in ["stage", "verdict", "rule", "reason"] {
            assert!(Decided::from_words(|name| word(name).filter(|_| name != missing)).is_err(), "{missing}");
        }
        assert!(
            Decided::from_words(|name| Some(if name == "rule" { "credentials.new" } else { word(name)? })).is_err()
        );
    }
}
