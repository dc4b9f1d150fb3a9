//! Judges random pushes of random histories. The verdict is the one that the whole history gives, whatever part of it
//! the pack contains. git itself confirms which commits descend from which.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use git_wire::pack::TRAILER;
use policy::Container;
use policy::github::Rules;
use push::{Inspection, MAX_BOUNDARY, Oid};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::rc::Rc;
use support::pack::{BLOB, COMMIT, NO_TREE, Name, Pack, TAG, TREE, commit, delta, hex, name};
use support::{AT_THE_END, Pace, Server, inspect};

const CASES: u64 = 5_000;
/// The number of cases that are checked with git at a time.
const GIT_AT_ONCE: u64 = 500;

/// A random number generator (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(limit).unwrap()).unwrap()
    }

    /// Returns true once in `times` calls on average.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// Commits, each after its parents, and a server that has some of them.
struct World {
    parents: Vec<Vec<usize>>,
    texts: Vec<Vec<u8>>,
    names: Vec<Name>,
    /// For each commit its ancestors and itself.
    ancestors: Vec<BTreeSet<usize>>,
    server: BTreeSet<usize>,
    refs: BTreeMap<String, usize>,
}

impl World {
    fn new(seed: u64, random: &mut Random) -> Self {
        let mut world = Self {
            parents: vec![],
            texts: vec![],
            names: vec![],
            ancestors: vec![],
            server: BTreeSet::new(),
            refs: BTreeMap::new(),
        };
        let (count, wide) = (2 + random.below(40), random.once_in(4));
        for at in 0..count {
            let mut parents = BTreeSet::new();
            if at > 0 && !random.once_in(12) {
                let near = if wide { at } else { 5.min(at) };
                let most = if random.once_in(3) { 1 + random.below(if wide { 24 } else { 4 }) } else { 1 };
                parents.extend((0..most).map(|_| at - 1 - random.below(near)));
            }
            if wide && at + 1 == count {
                // The walk can leave the pack at all of these commits.
                parents.extend((0..at).filter(|_| !random.once_in(4)));
            }
            world.add(seed, at, parents.into_iter().collect(), random);
        }
        if wide {
            world.server.extend(0..count - 1);
        }
        for _ in 0..1 + random.below(4) {
            world.server.extend(world.ancestors[random.below(count)].clone());
        }
        let on_server: Vec<_> = world.server.iter().copied().collect();
        for n in 0..1 + random.below(4) {
            world.refs.insert(format!("refs/heads/sandbox/{n}"), on_server[random.below(on_server.len())]);
        }
        world
    }

    fn add(&mut self, seed: u64, at: usize, parents: Vec<usize>, random: &mut Random) {
        let names: Vec<_> = parents.iter().map(|parent| self.names[*parent]).collect();
        let mut message = format!("{at} of {seed}");
        if at > 0 && random.once_in(5) {
            // In the message, `parent` names no parent.
            message += &format!("\n\nparent {}", hex(&self.names[random.below(at)]));
        }
        let text = commit(&names, &message);
        self.names.push(name("commit", &text));
        self.texts.push(text);
        let mut ancestors = BTreeSet::from([at]);
        parents.iter().for_each(|parent| ancestors.extend(self.ancestors[*parent].clone()));
        self.ancestors.push(ancestors);
        self.parents.push(parents);
    }

    /// The pack of a push of these tips, and the commits that can be parsed from it.
    fn pack(&self, tips: &[usize], random: &mut Random) -> (Vec<u8>, BTreeSet<usize>) {
        let new = tips.iter().flat_map(|tip| &self.ancestors[*tip]).copied();
        let mut commits: Vec<_> = new.filter(|at| !self.server.contains(at) || random.once_in(4)).collect();
        commits.sort_unstable();
        commits.dedup();
        if random.once_in(5) {
            commits.retain(|_| !random.once_in(5));
        }
        // Newest first, as git orders them, or in random order.
        commits.reverse();
        if random.once_in(3) {
            for at in (1..commits.len()).rev() {
                commits.swap(at, random.below(at + 1));
            }
        }
        if !commits.is_empty() && random.once_in(6) {
            commits.push(commits[0]);
        }
        let others = random.below(4);
        let mut pack = Pack::new(2, u32::try_from(commits.len() + others).unwrap());
        let (mut read, mut places) = (BTreeSet::new(), Vec::<(usize, usize)>::new());
        let mut others_left = others;
        for at in commits {
            if others_left > 0 && random.once_in(2) {
                self.other(&mut pack, random);
                others_left -= 1;
            }
            let begins = pack.at();
            let text = &self.texts[at];
            let known = (!places.is_empty()).then(|| places[random.below(places.len())]);
            match (random.below(6), known) {
                (0, Some((base, base_at))) => pack.offset_delta(base_at, &delta(&self.texts[base], text)),
                (1, Some((base, _))) => pack.named_delta(&self.names[base], &delta(&self.texts[base], text)),
                (2, _) if random.once_in(4) => {
                    // If the base is absent or comes later, the delta can't be applied.
                    let base = random.below(self.names.len());
                    pack.named_delta(&self.names[base], &delta(&self.texts[base], text));
                    if !places.iter().any(|(known, _)| *known == base) {
                        continue;
                    }
                }
                _ => pack.object(COMMIT, text),
            }
            read.insert(at);
            places.push((at, begins));
        }
        (0..others_left).for_each(|_| self.other(&mut pack, random));
        (pack.finish(), read)
    }

    /// Appends an object other than a commit, sometimes with a commit's text.
    fn other(&self, pack: &mut Pack, random: &mut Random) {
        let tip = random.below(self.names.len());
        let likeness = commit(&[self.names[0], self.names[tip]], "not a commit");
        pack.object([TREE, BLOB, TAG][random.below(3)], if random.once_in(2) { &likeness } else { b"" });
    }

    fn descends(&self, commit: usize, ancestor: usize) -> bool {
        self.ancestors[commit].contains(&ancestor)
    }

    /// The commits that a walk from `tip` reaches within the pack, and those at which the walk leaves the pack.
    fn walk(&self, tip: usize, read: &BTreeSet<usize>) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let (mut seen, mut todo, mut border) = (BTreeSet::new(), vec![tip], BTreeSet::new());
        while let Some(at) = todo.pop() {
            match read.contains(&at) {
                _ if !seen.insert(at) => {}
                true => todo.extend(&self.parents[at]),
                false => _ = border.insert(at),
            }
        }
        (seen, border)
    }

    fn oid(&self, at: usize) -> Oid {
        Oid::from(self.names[at])
    }

    fn find(&self, oid: &Oid) -> Option<usize> {
        self.names.iter().position(|name| name == oid.as_bytes())
    }
}

impl Server for World {
    fn at(&self, name: &str) -> Option<Oid> {
        self.refs.get(name).map(|at| self.oid(*at))
    }

    fn descends(&self, commit: &Oid, ancestor: &Oid) -> bool {
        let (Some(commit), Some(ancestor)) = (self.find(commit), self.find(ancestor)) else { return false };
        self.server.contains(&commit) && World::descends(self, commit, ancestor)
    }
}

/// One ref update of a push.
#[derive(Debug)]
struct Update {
    name: String,
    old: Option<usize>,
    new: usize,
}

fn updates(world: &World, random: &mut Random) -> Vec<Update> {
    let count = world.names.len();
    let mut names: Vec<_> = world.refs.keys().cloned().chain(["refs/heads/sandbox/new".to_owned()]).collect();
    let wanted = 1 + random.below(names.len().min(3));
    let updates = (0..wanted).map(|_| {
        let name = names.remove(random.below(names.len()));
        let new = random.below(count);
        let old = world.refs.get(&name).copied();
        // Sometimes the client claims a wrong commit, or none.
        let old = match random.below(24) {
            0 => Some(random.below(count)),
            1 => None,
            _ => old,
        };
        // Most updates are fast-forwards.
        let better = (new..count).chain(0..count).find(|new| old.is_none_or(|old| world.descends(*new, old)));
        Update { name, old, new: if random.once_in(4) { new } else { better.unwrap_or(new) } }
    });
    updates.collect()
}

fn body(world: &World, updates: &[Update], pack: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (at, update) in updates.iter().enumerate() {
        let old = update.old.map_or("0".repeat(40), |old| hex(&world.names[old]));
        let capabilities = if at == 0 { "\0 report-status side-band-64k agent=test" } else { "" };
        let line = format!("{old} {} {}{capabilities}", hex(&world.names[update.new]), update.name);
        body.extend(format!("{:04x}{line}", line.len() + 4).bytes());
    }
    body.extend(b"0000");
    body.extend(pack);
    body
}

fn container() -> Container {
    serde_json::from_value(serde_json::json!({
        "container_ip": "172.18.0.5", "container_id": "a", "repos": [{"name": "o/r", "default_branch": "main"}], "allowed_branches": ["sandbox/*"],
        "expires_at": "2027-01-15T00:00:00Z",
    }))
    .unwrap()
}

#[test]
fn the_verdict_is_that_of_the_whole_history() {
    let git = Git::new();
    let container = container();
    let (mut batch, mut asked) = (Batch::default(), 0);
    let (mut allowed, mut forced, mut stale, mut limited, mut unseen, mut proved) = (0, 0, 0, 0, 0, 0);
    for seed in 0..CASES {
        let random = &mut Random(seed);
        let world = World::new(seed, random);
        let updates = updates(&world, random);
        let tips: Vec<_> = updates.iter().map(|update| update.new).collect();
        let (pack, read) = world.pack(&tips, random);
        let body = body(&world, &updates, &pack);
        let chunk = [1, 1 + random.below(40), 1 + random.below(4096), body.len()][random.below(4)];
        let after = random.below(body.len() / chunk + 2);
        let pace = Pace { chunk, answers_after: if random.once_in(8) { AT_THE_END } else { after } };
        let push = Inspection::new(Rc::new(Rules::default()), container.clone());
        let got = inspect(push, &body, pace, &world);
        let rule = got.refusal.as_ref().map(|refusal| refusal.denial.rule.name());
        if rule.is_some() {
            assert!(got.passed + TRAILER <= body.len(), "seed {seed}, {pace:?}: {} of {}", got.passed, body.len());
        }

        let true_refs = updates.iter().all(|update| update.old == world.refs.get(&update.name).copied());
        let moves: Vec<_> = updates.iter().filter_map(|update| Some((update.old?, update.new))).collect();
        let good = true_refs && moves.iter().all(|(old, new)| world.descends(*new, *old));
        // Moves that the pack proves need no answer. For the others the server has to know the border commits.
        let walks = moves.iter().map(|(old, new)| (old, world.walk(*new, &read)));
        let open = walks.filter(|(old, (seen, _))| !seen.contains(old));
        let borders: Vec<_> = open.map(|(old, (_, border))| (old, border)).collect();
        let shown = borders.iter().all(|(old, border)| {
            border.iter().any(|commit| world.server.contains(commit) && world.descends(*commit, **old))
        });
        let many = borders.iter().any(|(_, border)| border.len() > MAX_BOUNDARY);
        let what = || format!("seed {seed}, {pace:?}, {updates:?}: {rule:?}");
        assert_eq!(rule.is_none(), good && shown && !many, "{}", what());
        match rule {
            None => allowed += 1,
            Some("push.stale") => {
                assert!(!true_refs, "{}", what());
                stale += 1;
            }
            Some("push.limit") => {
                assert!(many, "{}", what());
                limited += 1;
            }
            Some("push.force") => {
                assert!(!shown, "{}", what());
                if good { unseen += 1 } else { forced += 1 }
            }
            Some(_) => assert_eq!(rule, None, "{}", what()),
        }
        proved += usize::from(rule.is_none() && !moves.is_empty() && borders.is_empty());
        // A pack with every commit that the server lacks hides nothing.
        let needed = moves.iter().flat_map(|(_, new)| &world.ancestors[*new]);
        if needed.into_iter().all(|at| world.server.contains(at) || read.contains(at)) {
            assert_eq!(good && !many, rule.is_none(), "{}", what());
        }
        asked += moves.len();
        batch.moves.extend(moves.iter().map(|(old, new)| Move {
            ancestor: hex(&world.names[*old]),
            commit: hex(&world.names[*new]),
            descends: world.descends(*new, *old),
        }));
        batch.texts.extend(world.texts);
        if seed % GIT_AT_ONCE == GIT_AT_ONCE - 1 {
            git.agrees(&std::mem::take(&mut batch));
        }
    }
    assert!(batch.moves.is_empty() && asked > 5_000, "git was asked about {asked} moves");
    // Every outcome occurs often enough.
    println!(
        "{allowed} allowed ({proved} by the pack), {forced} forced, {stale} stale, {limited} over, {unseen} unseen"
    );
    assert!(allowed > 1_000 && proved > 500 && forced > 500 && stale > 100 && limited >= 5 && unseen > 30);
}

/// Commits, and moves of refs from one commit to another.
#[derive(Default)]
struct Batch {
    texts: Vec<Vec<u8>>,
    moves: Vec<Move>,
}

/// A ref's move, and whether it is a fast-forward.
struct Move {
    ancestor: String,
    commit: String,
    descends: bool,
}

/// Real git, which tells whether a commit descends from another.
struct Git(tempfile::TempDir);

impl Git {
    fn new() -> Self {
        let git = Self(tempfile::tempdir().unwrap());
        assert!(git.run(&["init", "-q", "--bare"], b""));
        assert!(git.run(&["hash-object", "-t", "tree", "-w", "--stdin"], b""));
        git
    }

    /// Asserts that git agrees on each move.
    fn agrees(&self, batch: &Batch) {
        let mut pack = Pack::new(2, u32::try_from(batch.texts.len()).unwrap());
        batch.texts.iter().for_each(|text| pack.object(COMMIT, text));
        assert!(self.run(&["index-pack", "--stdin"], &pack.finish()));
        let each = batch.moves.len().div_ceil(std::thread::available_parallelism().map_or(1, usize::from)).max(1);
        std::thread::scope(|scope| {
            for moves in batch.moves.chunks(each) {
                scope.spawn(|| moves.iter().for_each(|asked| self.says(asked)));
            }
        });
    }

    fn says(&self, Move { ancestor, commit, descends }: &Move) {
        let said = self.run(&["merge-base", "--is-ancestor", ancestor, commit], b"");
        assert_eq!(said, *descends, "{ancestor} {commit}");
    }

    fn run(&self, args: &[&str], input: &[u8]) -> bool {
        use std::io::Write as _;
        let mut child = Command::new("git")
            .current_dir(self.0.path())
            .args(args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("HOME", "/nonexistent")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("git is in PATH");
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait().unwrap().success()
    }
}

#[test]
fn the_empty_tree_is_named_as_git_names_it() {
    assert_eq!(hex(&name("tree", b"")), NO_TREE);
}
