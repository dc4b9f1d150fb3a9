//! The graph of a pack's commits, and which of them descend from which.
//!
//! A commit's id is the hash of its content, which contains its parents' ids. A proof of descent is therefore valid
//! regardless of the rest of the pack and of the server's state.

use crate::Oid;
use std::collections::HashMap;

/// The most commits in one push.
pub const MAX_COMMITS: usize = 50_000;
/// The most parents of all commits in one push together.
pub const MAX_PARENTS: usize = 200_000;

/// Why a commit is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The commit is malformed. git's server rejects it too.
    #[error("the push has a malformed commit")]
    Malformed,
    /// A limit is exceeded.
    #[error("the push has more than {limit} {what}; push in smaller steps")]
    Limit {
        /// The items that the limit counts.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// Parses the parents in a commit's text as git does: a `tree` line, then `parent` lines up to the first other line
/// (git's commit.c, `parse_commit_buffer`).
///
/// # Errors
/// If the text is malformed ([`Error::Malformed`]).
pub fn parents(text: &[u8]) -> Result<Vec<Oid>, Error> {
    let (_tree, mut rest) = named(text, b"tree ").ok_or(Error::Malformed)?;
    let mut parents = Vec::new();
    while rest.starts_with(b"parent ") {
        let (parent, after) = named(rest, b"parent ").ok_or(Error::Malformed)?;
        parents.push(parent);
        rest = after;
    }
    Ok(parents)
}

/// Parses a line of `keyword` and an object id. Returns the id and the rest of `text`.
fn named<'a>(text: &'a [u8], keyword: &[u8]) -> Option<(Oid, &'a [u8])> {
    let (hex, rest) = text.strip_prefix(keyword)?.split_at_checked(40)?;
    Some((Oid::from_any_hex(hex)?, rest.strip_prefix(b"\n")?))
}

/// A commit of the pack, or the parent of one.
type Node = u32;

/// The result for a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Descent {
    /// The tip descends from the ancestor.
    Proved,
    /// Not proved. The list has the reached commits whose text the pack doesn't contain, so that their parents are
    /// unknown. If the list is empty, the tip does not descend from the ancestor.
    Open(Vec<Oid>),
    /// Not proved. So many reached commits have unknown parents, more than were asked for.
    TooMany(usize),
}

/// The commits so far, and the questions about them.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<Oid, Node>,
    /// For each node the range of its parents in `edges`. `None` if its text has not arrived.
    known: Vec<Option<std::ops::Range<usize>>>,
    edges: Vec<Node>,
    commits: usize,
    questions: Vec<Question>,
    /// The commits that a question has reached and whose parents it has not, with the question's number.
    unfollowed: Vec<(u32, Node)>,
}

/// Whether `tip` is `ancestor` or descends from it.
#[derive(Debug)]
struct Question {
    ancestor: Node,
    proved: bool,
    /// For each node, whether `tip` is the node or descends from it.
    reached: Vec<bool>,
    /// The number of reached nodes whose text has not arrived.
    open: usize,
}

impl Graph {
    /// Adds the question whether `tip` is `ancestor` or descends from it. Returns the question's number. A commit that is
    /// added already is not followed before [`Self::follow`].
    pub fn ask(&mut self, ancestor: Oid, tip: Oid) -> usize {
        let (ancestor, tip) = (self.node(ancestor), self.node(tip));
        let number = self.questions.len();
        self.questions.push(Question { ancestor, proved: false, reached: Vec::new(), open: 0 });
        self.reach(u32::try_from(number).unwrap_or(u32::MAX), tip);
        number
    }

    /// Adds a commit, which [`Self::follow`] follows. A commit that is present already is left unchanged: its equal id shows
    /// that it is the same.
    ///
    /// # Errors
    /// If [`MAX_COMMITS`] or [`MAX_PARENTS`] is exceeded.
    pub fn add(&mut self, commit: Oid, parents: &[Oid]) -> Result<(), Error> {
        let node = self.node(commit);
        let at = index(node);
        if self.known.get(at).is_some_and(Option::is_some) {
            return Ok(());
        }
        self.commits = self.commits.saturating_add(1);
        if self.commits > MAX_COMMITS {
            return Err(Error::Limit { what: "commits", limit: MAX_COMMITS });
        }
        let start = self.edges.len();
        if start.saturating_add(parents.len()) > MAX_PARENTS {
            return Err(Error::Limit { what: "parents of commits", limit: MAX_PARENTS });
        }
        for parent in parents {
            let parent = self.node(*parent);
            self.edges.push(parent);
        }
        if let Some(known) = self.known.get_mut(at) {
            *known = Some(start..self.edges.len());
        }
        for (number, question) in (0..).zip(&mut self.questions) {
            if !question.proved && question.has(node) {
                question.open = question.open.saturating_sub(1);
                self.unfollowed.push((number, node));
            }
        }
        Ok(())
    }

    /// Follows commits to their parents, until all are followed or `most` parents were visited. One commit more may be
    /// followed. Returns the number of visits.
    pub fn follow(&mut self, most: u64) -> u64 {
        let mut visits = 0_u64;
        while visits < most
            && let Some((number, node)) = self.unfollowed.pop()
        {
            visits = visits.saturating_add(1);
            let parents = self.known.get(index(node)).cloned().flatten().unwrap_or_default();
            for at in parents {
                let Some(parent) = self.edges.get(at).copied() else { continue };
                visits = visits.saturating_add(1);
                self.reach(number, parent);
            }
        }
        visits
    }

    /// Whether [`Self::follow`] has something to do.
    pub fn is_behind(&self) -> bool {
        !self.unfollowed.is_empty()
    }

    /// The number of commits.
    pub fn commits(&self) -> usize {
        self.commits
    }

    /// Every commit with its parents, in the order in which the commits' ids were first seen.
    pub fn iter(&self) -> impl Iterator<Item = (Oid, Vec<Oid>)> {
        let mut names: Vec<_> = self.nodes.iter().map(|(oid, node)| (*node, *oid)).collect();
        names.sort_unstable();
        let name = move |node: Node| names.get(index(node)).map(|(_, oid)| *oid);
        (0..).zip(&self.known).filter_map(move |(node, parents)| {
            let parents = self.edges.get(parents.clone()?)?;
            Some((name(node)?, parents.iter().filter_map(|parent| name(*parent)).collect()))
        })
    }

    /// Whether every question is proved.
    pub fn all_proved(&self) -> bool {
        self.questions.iter().all(|question| question.proved)
    }

    /// The result for each question so far, by its number, once all commits are followed. It may change while commits are
    /// added. A list has `most` commits at most. The walk over all nodes is one for all questions.
    pub fn descents(&self, most: usize) -> Vec<Descent> {
        let few = |question: &Question| !question.proved && (1..=most).contains(&question.open);
        let mut open = vec![Vec::new(); self.questions.len()];
        if self.questions.iter().any(few) {
            let unknown = |node: Node| self.known.get(index(node)).is_none_or(Option::is_none);
            for (oid, node) in self.nodes.iter().filter(|(_, node)| unknown(**node)) {
                let questions = self.questions.iter().zip(&mut open);
                questions
                    .filter(|(question, _)| few(question) && question.has(*node))
                    .for_each(|(_, list)| list.push(*oid));
            }
        }
        let descent = |(question, mut list): (&Question, Vec<Oid>)| {
            if question.proved {
                return Descent::Proved;
            }
            if question.open > most {
                return Descent::TooMany(question.open);
            }
            list.sort_unstable();
            Descent::Open(list)
        };
        self.questions.iter().zip(open).map(descent).collect()
    }

    /// The approximate memory use in bytes.
    pub fn memory(&self) -> usize {
        // The id, the node and the map's overhead, then the range of its parents.
        let nodes = self.known.len().saturating_mul(80);
        let questions = self.questions.iter().map(|question| question.reached.len()).fold(0, usize::saturating_add);
        let unfollowed = self.unfollowed.capacity().saturating_mul(8);
        nodes.saturating_add(self.edges.len().saturating_mul(4)).saturating_add(questions).saturating_add(unfollowed)
    }

    /// Marks `node` as reached by a question. A commit that is added is followed later.
    fn reach(&mut self, number: u32, node: Node) {
        let nodes = self.known.len();
        let known = self.known.get(index(node)).is_some_and(Option::is_some);
        let Some(question) = self.questions.get_mut(index(number)) else { return };
        if question.proved || !question.mark(node, nodes) {
            return;
        }
        if known {
            self.unfollowed.push((number, node));
        } else {
            question.open = question.open.saturating_add(1);
        }
    }

    fn node(&mut self, oid: Oid) -> Node {
        let next = Node::try_from(self.known.len()).unwrap_or(Node::MAX);
        let node = *self.nodes.entry(oid).or_insert(next);
        if node == next {
            self.known.push(None);
        }
        node
    }
}

fn index(node: Node) -> usize {
    usize::try_from(node).unwrap_or(usize::MAX)
}

impl Question {
    fn has(&self, node: Node) -> bool {
        self.reached.get(index(node)).is_some_and(|reached| *reached)
    }

    /// Marks `node` as reached. Returns true if it was not reached before.
    fn mark(&mut self, node: Node, nodes: usize) -> bool {
        if self.reached.len() < nodes {
            self.reached.resize(nodes, false);
        }
        self.proved |= node == self.ancestor;
        let fresh = !self.has(node);
        if let Some(reached) = self.reached.get_mut(index(node)) {
            *reached = true;
        }
        fresh
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn oid(n: u32) -> Oid {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        Oid::from(bytes)
    }

    #[test]
    fn a_descent_is_found_in_whatever_order_the_commits_come() {
        // 5 - 4 - 2 - 1, and 4 - 3 - 1; 1's parent 9 is not in the pack.
        let commits: [(u32, &[u32]); 5] = [(5, &[4]), (4, &[2, 3]), (2, &[1]), (3, &[1]), (1, &[9])];
        for turn in 0..5 {
            for before in [true, false] {
                let mut graph = Graph::default();
                let pairs = [(1, 5), (9, 5), (2, 3), (5, 4), (7, 7), (9, 8)];
                if before {
                    pairs.iter().for_each(|(old, new)| _ = graph.ask(oid(*old), oid(*new)));
                }
                for step in 0..5 {
                    let (commit, parents) = commits[(step * 2 + turn) % 5];
                    graph.add(oid(commit), &parents.iter().map(|n| oid(*n)).collect::<Vec<_>>()).unwrap();
                }
                if !before {
                    pairs.iter().for_each(|(old, new)| _ = graph.ask(oid(*old), oid(*new)));
                }
                graph.follow(u64::MAX);
                let found = graph.descents(16);
                let open = |n| Descent::Open(vec![oid(n)]);
                assert_eq!(found, [Descent::Proved, Descent::Proved, open(9), open(9), Descent::Proved, open(8)]);
                assert!(!graph.all_proved());
                assert_eq!(graph.commits(), 5);
            }
        }
    }

    #[test]
    fn roots_leave_nothing_open() {
        let mut graph = Graph::default();
        graph.ask(oid(7), oid(2));
        graph.add(oid(2), &[oid(1)]).unwrap();
        graph.add(oid(1), &[]).unwrap();
        graph.follow(u64::MAX);
        assert_eq!(graph.descents(1), [Descent::Open(vec![])]);
    }

    #[test]
    fn commits_are_followed_in_parts_and_the_open_ones_counted() {
        // The parents come before their children, so that the last commit reaches all at once, for each question.
        let mut graph = Graph::default();
        for _ in 0..20 {
            graph.ask(oid(0), oid(1_000));
        }
        for n in 1..=1_000 {
            let strange = (n <= 17).then(|| oid(5_000 + n));
            graph
                .add(
                    oid(n),
                    &[Some(oid(n - 1)), strange].into_iter().flatten().skip(usize::from(n == 1)).collect::<Vec<_>>(),
                )
                .unwrap();
        }
        assert!(graph.is_behind() && !graph.all_proved());
        let (mut parts, mut visits) = (0, 0);
        while graph.is_behind() {
            let part = graph.follow(100);
            assert!(part <= 103, "{part}");
            (parts, visits) = (parts + 1, visits + part);
        }
        assert!(parts >= 400 && visits == 20 * (1_000 + 999 + 17), "{parts} {visits}");
        assert_eq!(graph.descents(16), vec![Descent::TooMany(17); 20]);
        graph.add(oid(5_001), &[]).unwrap();
        graph.follow(u64::MAX);
        let left: Vec<_> = (5_002..=5_017).map(oid).collect();
        assert_eq!(graph.descents(16), vec![Descent::Open(left); 20]);
    }

    #[test]
    fn a_commit_s_parents_are_those_that_git_sees() {
        let (a, b) = ("a".repeat(40), "B".repeat(40));
        let read = |text: String| parents(text.as_bytes());
        let oids = |hex: &[&str]| Ok(hex.iter().map(|hex| Oid::from_any_hex(hex.as_bytes()).unwrap()).collect());
        assert_eq!(read(format!("tree {a}\nparent {a}\nparent {b}\nauthor x\n\nparent {a}\n")), oids(&[&a, &b]));
        assert_eq!(read(format!("tree {a}\nauthor x\nparent {a}\n\n")), oids(&[]));
        for odd in [
            format!("parent {a}\ntree {a}\n"),
            format!("tree {a}\r\nparent {a}\n"),
            format!("tree {a}\nparent {a} \n"),
            format!("tree {a}\nparent {a}\r\n"),
            format!("tree {a}\nparent {}\n", &a[1..]),
            format!("tree {a}\nparent  {a}\n"),
            format!("tree {a}"),
            String::new(),
        ] {
            assert_eq!(read(odd.clone()), Err(Error::Malformed), "{odd:?}");
        }
    }

    #[test]
    fn each_limit_holds_at_its_number() {
        let mut graph = Graph::default();
        let number = |n: usize| oid(u32::try_from(n).unwrap());
        for n in 1..=MAX_COMMITS {
            graph.add(number(n), &[]).unwrap();
        }
        graph.add(number(1), &[]).unwrap();
        assert!(matches!(graph.add(number(MAX_COMMITS + 1), &[]), Err(Error::Limit { what: "commits", .. })));

        let mut graph = Graph::default();
        let many: Vec<_> = (0..MAX_PARENTS).map(|n| number(n + 10)).collect();
        graph.add(number(1), &many[1..]).unwrap();
        graph.add(number(2), &many[..1]).unwrap();
        assert!(matches!(graph.add(number(3), &many[..1]), Err(Error::Limit { .. })));
        assert!(graph.memory() < 20 << 20, "{}", graph.memory());
    }
}
