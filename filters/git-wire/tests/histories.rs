//! Parses packs that git makes of histories of every shape. The scanner finds the commits and parents that git lists,
//! whatever the chunks. It reports all bytes except the trailer's as before the trailer.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use git_wire::Oid;
use git_wire::pack::{Scanner, TRAILER};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Commits and their parents.
type Commits = BTreeMap<Oid, Vec<Oid>>;

struct Repo {
    path: PathBuf,
    _made: Option<TempDir>,
}

impl Repo {
    fn new() -> Self {
        let made = tempfile::tempdir().unwrap();
        let repo = Self { path: made.path().to_owned(), _made: Some(made) };
        repo.git(&["init", "-q", "-b", "main"]);
        repo
    }

    fn git(&self, args: &[&str]) -> String {
        String::from_utf8(self.fed(args, b"")).unwrap().trim_end().to_owned()
    }

    /// Runs git with `input`, and returns its output.
    fn fed(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child = Command::new("git")
            .current_dir(&self.path)
            .args(args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("HOME", "/nonexistent")])
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "A U Thor")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "author@example.com")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_DATE"), "1700000000 +0000")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // A git command that reads no input may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {args:?}");
        output.stdout
    }

    /// Makes a commit with its own tree. Its message is similar to the others', so that git stores deltas of commits. A
    /// tag keeps it from being pruned.
    fn commit(&self, name: &str, parents: &[&str]) -> String {
        let blob = self.fed(&["hash-object", "-w", "--stdin"], name.as_bytes());
        let entry = format!("100644 blob {}\tfile\n", String::from_utf8(blob).unwrap().trim_end());
        let tree = String::from_utf8(self.fed(&["mktree"], entry.as_bytes())).unwrap();
        let mut args = vec!["commit-tree", tree.trim_end()];
        parents.iter().for_each(|parent| args.extend(["-p", parent]));
        let commit = self.fed(&args, message(name).as_bytes());
        let commit = String::from_utf8(commit).unwrap().trim_end().to_owned();
        self.git(&["update-ref", &format!("refs/tags/{name}"), &commit]);
        commit
    }

    /// Makes a linear history of `count` commits on top of `from`.
    fn line(&self, name: &str, count: usize, from: &[&str]) -> String {
        let first = self.commit(&format!("{name}-0"), from);
        (1..count).fold(first, |tip, n| self.commit(&format!("{name}-{n}"), &[&tip]))
    }

    fn repack(&self) {
        self.git(&["-c", "gc.auto=0", "repack", "-adfq", "--depth=50", "--window=250"]);
    }

    /// The number of commits that are stored as deltas.
    fn deltas(&self) -> usize {
        let all = ["cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(deltabase)"];
        let deltas = self.git(&all);
        deltas.lines().filter(|line| line.starts_with("commit ") && !line.ends_with(&"0".repeat(40))).count()
    }

    /// The commits of a range, as listed by git.
    fn listed(&self, range: &[&str]) -> Commits {
        let listed = self.git(&[&["rev-list", "--parents"], range].concat());
        let oid = |hex: &str| Oid::from_hex(hex.as_bytes()).unwrap();
        let commits = listed.lines().map(|line| {
            let mut names = line.split(' ').map(oid);
            (names.next().unwrap(), names.collect())
        });
        commits.collect()
    }

    /// Asserts that the scanner finds in every kind of pack of a range the commits that git lists.
    fn is_read(&self, range: &[&str]) {
        self.is_read_in(range, &[1, 7, 4096]);
    }

    /// Like [`Repo::is_read`], in chunks of these sizes and in one chunk. Returns the number of commits.
    fn is_read_in(&self, range: &[&str], sizes: &[usize]) -> usize {
        let listed = self.listed(range);
        assert!(!listed.is_empty(), "{range:?}");
        for thin in [&[][..], &["--thin"]] {
            for offsets in [&[][..], &["--delta-base-offset"]] {
                let args = [&["pack-objects", "-q", "--revs", "--stdout"], thin, offsets].concat();
                let pack = self.fed(&args, format!("{}\n", range.join("\n")).as_bytes());
                for size in sizes.iter().copied().chain([pack.len()]) {
                    let what = format!("{range:?} {args:?} {size}");
                    assert!(read(&pack, size, &what) == listed, "{what}");
                }
            }
        }
        listed.len()
    }
}

/// Parses a pack in chunks of `size` bytes, and returns its commits.
fn read(pack: &[u8], size: usize, what: &str) -> Commits {
    let mut scanner = Scanner::default();
    let (mut fed, mut passed) = (0, 0);
    for chunk in pack.chunks(size) {
        assert!(!scanner.is_complete(), "{what}");
        let mut rest = chunk;
        while !rest.is_empty() {
            // In chunks of seven bytes also in the smallest steps.
            let most = if size == 7 { 1 } else { u64::MAX };
            let fed = scanner.feed(rest, most).unwrap_or_else(|error| panic!("{what}: {error}"));
            passed += fed.pass;
            rest = &rest[fed.parsed..];
        }
        fed += chunk.len();
        // All bytes before the trailer pass at once, and no byte of the trailer passes.
        assert_eq!(passed, fed.min(pack.len() - TRAILER), "{what}");
    }
    assert!(scanner.is_complete(), "{what}");
    assert!(scanner.feed(b"x", 1).is_err(), "{what}");
    let commits: Vec<_> = scanner.graph().iter().collect();
    assert_eq!(commits.len(), scanner.graph().commits(), "{what}");
    commits.into_iter().collect()
}

fn message(name: &str) -> String {
    let mut text = format!("{name}\n\n");
    for n in 0..20 {
        writeln!(text, "Line {n} of what is said in each of them, so that one is a delta of another.").unwrap();
    }
    text
}

#[test]
fn a_linear_history() {
    let repo = Repo::new();
    let tip = repo.line("line", 60, &[]);
    repo.is_read(&[&tip]);
    repo.repack();
    assert!(repo.deltas() > 10, "{}", repo.deltas());
    repo.is_read(&[&tip]);
    repo.is_read(&[&tip, "^line-30"]);
    repo.is_read(&[&tip, "^line-58"]);
}

#[test]
fn merges_of_two_and_of_many() {
    let repo = Repo::new();
    let root = repo.commit("root", &[]);
    let arms: Vec<_> = (0..12).map(|n| repo.line(&format!("arm{n}"), 3, &[&root])).collect();
    let arms: Vec<_> = arms.iter().map(String::as_str).collect();
    let octopus = repo.commit("octopus", &arms);
    let other = repo.line("unrelated", 3, &[]);
    let unrelated = repo.commit("merge-of-unrelated", &[&octopus, &other]);
    let tip = repo.commit("merge-with-an-ancestor", &[&unrelated, &root]);
    repo.repack();
    assert!(repo.deltas() > 5, "{}", repo.deltas());
    repo.is_read(&[&tip]);
    repo.is_read(&[&tip, "^arm3-1", "^arm4-2"]);
    repo.is_read(&[&tip, &format!("^{octopus}")]);
}

#[test]
fn many_branches() {
    let repo = Repo::new();
    let trunk = repo.line("trunk", 20, &[]);
    let tips: Vec<_> = (0..20)
        .map(|n| repo.line(&format!("branch{n}"), 1 + n % 4, &[&format!("trunk-{n}")]))
        .chain([trunk.clone()])
        .collect();
    let tips: Vec<_> = tips.iter().map(String::as_str).collect();
    repo.repack();
    assert!(repo.deltas() > 5, "{}", repo.deltas());
    repo.is_read(&tips);
    repo.is_read(&[&tips[..], &["^trunk-10"]].concat());
    repo.is_read(&["branch3-3", "branch7-3", &format!("^{trunk}")]);
}

#[test]
fn commits_that_were_amended_and_rebased() {
    let repo = Repo::new();
    for n in 0..4 {
        repo.git(&["commit", "-q", "--allow-empty", "-m", &message(&format!("main {n}"))]);
    }
    repo.git(&["checkout", "-q", "-b", "topic", "main~2"]);
    for n in 0..4 {
        std::fs::write(repo.path.join(format!("file{n}")), "text\n").unwrap();
        repo.git(&["add", "."]);
        repo.git(&["commit", "-q", "-m", &message(&format!("topic {n}"))]);
    }
    repo.git(&["tag", "before"]);
    repo.git(&["commit", "-q", "--amend", "-m", &message("topic 3, amended")]);
    repo.git(&["tag", "amended"]);
    repo.git(&["rebase", "-q", "main"]);
    repo.repack();
    repo.is_read(&["topic", "before", "amended"]);
    repo.is_read(&["topic", "^before"]);
    repo.is_read(&["amended", "^before"]);
    repo.is_read(&["topic", "^main"]);
}

#[test]
fn criss_cross_merges() {
    let repo = Repo::new();
    let root = repo.commit("root", &[]);
    let (mut left, mut right) = (repo.commit("left", &[&root]), repo.commit("right", &[&root]));
    for n in 0..15 {
        let crossed = repo.commit(&format!("left{n}"), &[&left, &right]);
        right = repo.commit(&format!("right{n}"), &[&right, &left]);
        left = crossed;
    }
    repo.repack();
    assert!(repo.deltas() > 5, "{}", repo.deltas());
    repo.is_read(&[&left, &right]);
    repo.is_read(&[&left, "^right12"]);
    repo.is_read(&[&left, &right, "^left5", "^right6"]);
}

#[test]
fn thousands_of_commits() {
    const COUNT: usize = 3_000;
    let repo = Repo::new();
    let mut stream = String::new();
    for n in 1..=COUNT {
        let text = if n % 7 == 0 { message(&format!("commit {n}")) } else { format!("commit {n}\n") };
        writeln!(stream, "commit refs/heads/main\nmark :{n}\ncommitter C O Mitter <c@example.com> {n} +0000").unwrap();
        write!(stream, "data {}\n{text}", text.len()).unwrap();
        if n > 1 {
            writeln!(stream, "from :{}", n - 1).unwrap();
        }
        // Each fifth commit merges an older one.
        if n % 5 == 0 && n > 40 {
            writeln!(stream, "merge :{}", n - 3 - n % 37).unwrap();
        }
        writeln!(stream, "M 100644 inline file{}\ndata {}\n{n}", n % 10, n.to_string().len()).unwrap();
    }
    repo.fed(&["fast-import", "--quiet"], stream.as_bytes());
    repo.repack();
    assert!(repo.deltas() > 100, "{}", repo.deltas());
    assert_eq!(repo.listed(&["main"]).len(), COUNT);
    repo.is_read(&["main"]);
    repo.is_read(&["main", "^main~900"]);
}

/// Parses the histories of real repositories, each from its root in packs of 2,000 commits, so that each pack is within
/// the limits of one push. `REAL_HISTORIES` lists the repositories' directories (bare or not), separated by colons.
#[test]
#[ignore = "needs REAL_HISTORIES, and takes minutes"]
fn real_histories() {
    let places = std::env::var("REAL_HISTORIES").unwrap_or_default();
    let places: Vec<_> = places.split(':').filter(|place| !place.is_empty()).collect();
    if places.is_empty() {
        // For tests/summary.sh. cargo captures `println!`, but not this.
        writeln!(std::io::stdout(), "\nskipped: real histories: REAL_HISTORIES names no repository").unwrap();
        return;
    }
    for place in places {
        let repo = Repo { path: place.into(), _made: None };
        let all = repo.git(&["rev-list", "--reverse", "--topo-order", "HEAD"]);
        let all: Vec<_> = all.lines().collect();
        let mut before: Vec<String> = Vec::new();
        let mut commits = 0;
        for tip in all.chunks(2_000).filter_map(<[_]>::last) {
            let range: Vec<_> = [*tip].into_iter().chain(before.iter().map(String::as_str)).collect();
            commits += repo.is_read_in(&range, &[16_384]);
            before.push(format!("^{tip}"));
        }
        println!("{place}: {commits} commits of {} in {} packs", all.len(), 4 * before.len());
    }
}
