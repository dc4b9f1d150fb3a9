//! A git of this machine, and its clone in a sandbox, beside the server's repository.

use crate::process::working_in;
use crate::upstream::{Visibility, git};
use crate::{Finished, Gateway, Recorded, Sandbox, Upstream, eventually, skip};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The timeout for the server's processes to end after a request.
const SETTLED: Duration = Duration::from_secs(10);

/// Functions for every script of a [`Worktree`], beside `$URL`, `$BARE` and `$HOME`.
const WORDS: &str = r#"
set -e
git() { command "$GIT" -c http.version="$HTTP" "$@"; }
server() { command git --git-dir="$BARE" "$@"; }
# A commit on top of the server's ref $1.
grow() { server update-ref "$1" "$(server commit-tree -p "$1" -m grown "$1^{tree}")"; }
change() { echo "$1" >"$1"; git add .; git commit -qm "$1"; }
random() { head -c "$1" /dev/urandom >random; git add .; git commit -qm random; }
# What outgrows every buffer on the way.
huge() { git config core.compression 0; git config core.bigFileThreshold 1m; random 60000000; }
first() { git checkout -qb sandbox/x; change one; }
pushed() { first; git push -q origin sandbox/x; }
"#;

/// A git, and its configured HTTP version.
#[derive(Clone, Debug)]
pub struct Git {
    /// The program.
    pub program: String,
    /// Its `http.version`.
    pub http: &'static str,
}

/// The git on PATH, the system's own if that is another one, and the one in `OPENSSL_GIT` (`openssl-git.sh`).
pub fn gits() -> Vec<String> {
    let found = Finished::of(Command::new("sh").args(["-c", "command -v git"])).success().stdout;
    let mut gits = vec![found.trim().to_owned()];
    let same = fs::canonicalize(&gits[0]).ok() == fs::canonicalize("/usr/bin/git").ok();
    if !same && Path::new("/usr/bin/git").exists() {
        gits.push("/usr/bin/git".to_owned());
    } else {
        skip("a second version of git", "there is only one git on this machine");
    }
    gits.extend(std::env::var("OPENSSL_GIT").ok().filter(|git| !git.is_empty()));
    gits
}

impl Git {
    /// Each of [`gits`] with HTTP/1.1 and with HTTP/2.
    pub fn all() -> Vec<Self> {
        let both = |program: String| ["HTTP/1.1", "HTTP/2"].map(|http| Self { program: program.clone(), http });
        gits().into_iter().flat_map(both).collect()
    }

    /// The version of its libcurl.
    pub fn libcurl(&self) -> PathBuf {
        let script = r#"ldd "$("$0" --exec-path)/git-remote-https" | sed -n 's/.*libcurl.* => \([^ ]*\).*/\1/p'"#;
        let found = Finished::of(Command::new("sh").args(["-c", script, &self.program])).success().stdout;
        PathBuf::from(found.trim())
    }

    /// Whether its large pushes sometimes break without any gateway: docs/shortcomings.md, "Running it".
    pub fn breaks_large_pushes(&self) -> bool {
        let version = b"libcurl/7.88.1";
        let libcurl = fs::read(self.libcurl()).unwrap_or_default();
        self.http == "HTTP/2" && libcurl.windows(version.len()).any(|window| window == version)
    }
}

/// A clone of its own repository.
pub struct Worktree<'a> {
    /// `owner/name`.
    pub repo: String,
    /// The server's repository.
    pub bare: PathBuf,
    /// The clone.
    pub directory: PathBuf,
    sandbox: &'a Sandbox,
    git: Git,
}

impl<'a> Worktree<'a> {
    /// Makes a repository, registers `sandbox` with it, with the branches `sandbox/*` and
    /// `bot/*`, and with the other fields of `record`, and clones it there.
    pub fn new(upstream: &Upstream, gateway: &Gateway, sandbox: &'a Sandbox, git: &Git, record: Value) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("clone-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let repo = format!("acme/{name}");
        let bare = upstream.create_repo(&repo, Visibility::Private);
        let known = json!({"name": repo, "id": crate::upstream::number(&repo), "default_branch": "main"});
        let container_id = crate::gateway::container_id(sandbox.address);
        let mut whole = json!({
            "container_ip": sandbox.address, "container_id": container_id, "repos": [known],
            "allowed_branches": ["sandbox/*", "bot/*"],
        });
        whole.as_object_mut().unwrap().extend(record.as_object().unwrap().clone());
        let (status, body) = gateway.call("POST", "/internal/containers", Some(&whole));
        assert!(matches!(status, 200 | 201), "register: {status} {body}");
        let directory = sandbox.home.join(&name);
        fs::create_dir(&directory).unwrap();
        let worktree = Self { repo, bare, directory, sandbox, git: git.clone() };
        worktree.sh("git clone -q \"$URL\" .").success();
        worktree
    }

    /// Runs a script in the clone.
    pub fn sh(&self, script: &str) -> Finished {
        Finished::of(self.command().arg(format!("{WORDS}{script}")))
    }

    /// A shell in the clone. The caller adds the script.
    pub fn command(&self) -> Command {
        let mut command = self.sandbox.command("sh");
        command.current_dir(&self.directory).env("GIT", &self.git.program).env("HTTP", self.git.http);
        command.env("BARE", &self.bare).env("URL", self.url()).arg("-c");
        command
    }

    /// The URL of the repository for the sandbox.
    pub fn url(&self) -> String {
        format!("https://github.com/{}.git", self.repo)
    }

    /// The path of its pushes.
    pub fn path(&self) -> String {
        format!("/{}.git/git-receive-pack", self.repo)
    }

    /// The object id of `revision` in the clone.
    pub fn revision(&self, revision: &str) -> String {
        self.sh(&format!("git rev-parse --verify '{revision}'")).success().stdout.trim_end().to_owned()
    }

    /// The server's refs: name and object.
    pub fn refs(&self) -> BTreeMap<String, String> {
        let listed = git(&self.bare, &["for-each-ref", "--format=%(refname) %(objectname)"]);
        let pair = |line: &str| line.split_once(' ').map(|(name, oid)| (name.to_owned(), oid.to_owned()));
        listed.lines().filter_map(pair).collect()
    }

    /// Every object of the server. Objects in quarantine do not count.
    pub fn objects(&self) -> String {
        git(&self.bare, &["cat-file", "--batch-all-objects", "--batch-check"])
    }

    /// The pushes that have reached `upstream`, without a client's probe for write access (`0000`).
    pub fn arrived(&self, upstream: &Upstream) -> Vec<Recorded> {
        let mut posts = upstream.requests_with(&format!("github.com{}", self.path()));
        posts.retain(|post| post.method == "POST" && post.body_bytes != 4);
        posts
    }

    /// Waits until the server's processes have ended, so that nothing can change any more.
    pub fn settled(&self) {
        let busy = || working_in(&self.bare);
        eventually("the server's git has ended", SETTLED, || busy().is_empty().then_some(()));
    }

    /// The audit lines of its pushes so far.
    pub fn audit(&self, gateway: &Gateway) -> Vec<Value> {
        gateway.audit().into_iter().filter(|line| line["path"] == self.path().as_str()).collect()
    }

    /// Waits for the audit line of a push that `wanted` recognises.
    pub fn audit_line(&self, gateway: &Gateway, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = self.path();
        gateway.audit_line(&format!("a push to {path}"), |line| line["path"] == path.as_str() && wanted(line))
    }
}
