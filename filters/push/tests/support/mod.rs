//! Shared code of the tests.

#![allow(dead_code, reason = "no test needs all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

pub mod body;
pub mod pack;
pub mod stream;

use git_wire::receive_pack::Parser;
use push::{Inspection, Passing, Question, RefAt, Refusal, Standing};

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
    /// The number of bytes in a chunk. With an odd number the inspection does the least work at a time, otherwise all.
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
    /// The number of bytes of the body that could be sent upstream before the verdict.
    pub passed: usize,
    /// The number of questions asked.
    pub questions: usize,
    /// The most memory that the inspection reported, in bytes.
    pub memory: usize,
}

/// The body as a server gets it: its head written anew.
pub fn written(body: &[u8]) -> Vec<u8> {
    match Parser::default().feed(body) {
        Ok(Some((request, used))) => [&request.write(), &body[used..]].concat(),
        _ => body.to_vec(),
    }
}

/// Inspects a whole push. Panics if the inspection ends without a verdict, if it changes a verdict, or if the bytes
/// that pass are not the body with its head written anew.
pub fn inspect(mut push: Inspection, body: &[u8], pace: Pace, server: &dyn Server) -> Outcome {
    let most = if pace.chunk % 2 == 1 { 1 } else { u64::MAX };
    let mut asked: Vec<(usize, Question)> = Vec::new();
    let (mut sent, mut questions, mut memory) = (Vec::new(), 0, 0);
    let (mut early, mut released) = (0, false);
    let chunks: Vec<&[u8]> = body.chunks(pace.chunk).collect();
    for (at, chunk) in chunks.iter().enumerate() {
        let passing = push.feed(chunk, most);
        match push.standing() {
            // Nothing passes before the refs' names are judged.
            Standing::Unjudged | Standing::Refused(_) => {}
            standing => {
                released |= standing == Standing::Allowed;
                match passing {
                    Passing::AsTheyCame => sent.extend_from_slice(chunk),
                    Passing::Kept => sent.extend(push.take()),
                }
                if !released {
                    early = sent.len();
                }
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
    while push.is_behind() {
        assert!(!matches!(push.standing(), Standing::Refused(_)), "a refused push goes on");
        push.go_on(most);
    }
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
    let written = written(body);
    let refusal = match push.standing() {
        Standing::Allowed => {
            sent.extend(push.take());
            assert!(sent == written, "what is sent is not the push");
            None
        }
        Standing::Refused(refusal) => {
            assert!(!released, "what was let go is refused");
            assert!(written.starts_with(&sent), "what is sent is not of the push");
            Some(refusal.clone())
        }
        other => panic!("no verdict: {other:?}"),
    };
    // A byte of the pack has the same distance from the end of both.
    let passed = (early + body.len()).saturating_sub(written.len()).min(if early == 0 { 0 } else { usize::MAX });
    Outcome { refusal, passed, questions, memory }
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
