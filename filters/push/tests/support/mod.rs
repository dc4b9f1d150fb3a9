//! Shared code of the tests.

#![allow(dead_code, reason = "no test needs all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

pub mod body;
pub mod pack;
pub mod stream;

use push::{Inspection, Question, RefAt, Refusal, Standing};

/// Stands in for GitHub.
pub trait Server {
    /// The object that the ref points to, if the ref exists.
    fn at(&self, name: &str) -> Option<push::Oid>;
    /// Whether the server has the commit, and the commit descends from the ancestor.
    fn descends(&self, commit: &push::Oid, ancestor: &push::Oid) -> bool;
}

/// The pace at which a push and the server's answers arrive.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The number of bytes in a chunk.
    pub chunk: usize,
    /// The number of chunks after which the server's answer to a question arrives. With [`AT_THE_END`] questions are
    /// only asked at the end.
    pub answers_after: usize,
}

/// See [`Pace::answers_after`].
pub const AT_THE_END: usize = usize::MAX;

/// The outcome of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The refusal, if the push was refused.
    pub refusal: Option<Refusal>,
    /// The number of bytes that could be sent upstream before the verdict.
    pub passed: usize,
    /// The number of questions asked.
    pub questions: usize,
    /// The most memory that the inspection reported, in bytes.
    pub memory: usize,
}

/// Inspects a whole push. Panics if the inspection ends without a verdict, if it changes a verdict, or if the bytes
/// that pass are not the body.
pub fn inspect(mut push: Inspection, body: &[u8], pace: Pace, server: &dyn Server) -> Outcome {
    let mut asked: Vec<(usize, Question)> = Vec::new();
    let (mut passed, mut fed, mut questions, mut memory) = (0, 0, 0, 0);
    let (mut early, mut released) = (0, false);
    let chunks: Vec<&[u8]> = body.chunks(pace.chunk).collect();
    for (at, chunk) in chunks.iter().enumerate() {
        let pass = push.feed(chunk);
        assert!(pass <= chunk.len());
        // Bytes pass together with all bytes before them.
        passed = if pass > 0 { fed + pass } else { passed };
        fed += chunk.len();
        match push.standing() {
            // Nothing passes before the refs' names are judged.
            Standing::Unjudged | Standing::Refused(_) => {}
            Standing::Pending => early = passed,
            Standing::Allowed => {
                assert_eq!(passed + push.held().len(), fed);
                released = true;
            }
        }
        if !matches!(push.standing(), Standing::Refused(_)) {
            assert!(push.held().len() <= git_wire::pack::TRAILER);
        }
        memory = memory.max(push.memory());
        if pace.answers_after != AT_THE_END
            && let Some(question) = push.take_question()
        {
            questions += 1;
            asked.push((at + pace.answers_after, question));
        }
        while let Some((due, question)) = asked.first()
            && *due <= at
        {
            answer(&mut push, question, server);
            asked.remove(0);
        }
    }
    push.finish();
    released |= push.standing() == Standing::Allowed;
    let mut asked: Vec<_> = asked.into_iter().map(|(_, question)| question).collect();
    while let Some(question) = push.take_question() {
        questions += 1;
        asked.push(question);
    }
    for question in asked {
        answer(&mut push, &question, server);
        released |= push.standing() == Standing::Allowed;
    }
    let refusal = match push.standing() {
        Standing::Allowed => {
            assert_eq!(passed + push.held().len(), body.len(), "all of it goes on");
            None
        }
        Standing::Refused(refusal) => {
            assert!(!released, "what was let go is refused");
            Some(refusal.clone())
        }
        other => panic!("no verdict: {other:?}"),
    };
    Outcome { refusal, passed: early, questions, memory }
}

fn answer(push: &mut Inspection, question: &Question, server: &dyn Server) {
    match question {
        Question::Refs(refs) => {
            let others = refs.iter().map(|at| RefAt { name: at.name.clone(), object: server.at(&at.name) });
            let others: Vec<_> = others.filter(|other| !refs.contains(other)).collect();
            push.refs_are(&others);
        }
        Question::Descents(descents) => {
            let yes = descents
                .iter()
                .map(|asked| asked.commits.iter().any(|commit| server.descends(commit, &asked.ancestor)));
            push.descents_are(descents, &yes.collect::<Vec<_>>());
        }
    }
}
