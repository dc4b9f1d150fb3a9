//! Public repositories of others, read by the real clients that agents use, under the shipped policy's
//! `github: {public: read}`. No credential leaves with any of these reads.

use std::path::Path;
use std::sync::OnceLock;
use test_support::upstream::{Visibility, git};
use test_support::{Finished, Gateway, Rig, Sandbox, TOKEN, Upstream, scratch};

/// The container's own repository.
const OWN: &str = "acme/app";
/// Another account's public repository: a package of each manager.
const LIB: &str = "octo/lib";
/// Another account's private repository.
const SECRET: &str = "octo/secret";

/// A build backend without dependencies (PEP 517).
const BACKEND: &str = r#"
import zipfile
def build_wheel(directory, settings=None, metadata=None):
    name = "octo_lib-1-py3-none-any.whl"
    info = "octo_lib-1.dist-info/"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        wheel.writestr("octo_lib.py", "VALUE = 7\n")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: octo-lib\nVersion: 1\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: octo\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "")
    return name
"#;

const FILES: [(&str, &str); 8] = [
    ("Cargo.toml", "[package]\nname = \"octo_lib\"\nversion = \"1.0.0\"\nedition = \"2021\"\n"),
    ("src/lib.rs", "pub const VALUE: u8 = 7;\n"),
    ("package.json", r#"{"name": "octo-lib", "version": "1.0.0", "main": "index.js"}"#),
    ("index.js", "module.exports = 7;\n"),
    ("pyproject.toml", "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n"),
    ("backend.py", BACKEND),
    ("go.mod", "module github.com/octo/lib\n\ngo 1.19\n"),
    ("lib.go", "package lib\n\nconst Value = 7\n"),
];

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let upstream = Upstream::start();
        upstream.create_repo(SECRET, Visibility::Private);
        commit(&upstream.create_repo(LIB, Visibility::Public), &FILES);
        git(&upstream.create_repo(OWN, Visibility::Private), &["config", "http.receivepack", "true"]);
        let shipped = std::fs::read_to_string("../../config/policy.yaml").unwrap();
        let gateway = Gateway::with(&shipped).upstream(&upstream).up();
        Rig { upstream, gateway }
    })
}

/// Commits `files` to the bare repository.
fn commit(bare: &Path, files: &[(&str, &str)]) {
    let work = scratch("lib");
    git(&work, &["clone", "--quiet", bare.to_str().unwrap(), "."]);
    for (name, text) in files {
        let path = work.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    git(&work, &["add", "."]);
    git(&work, &["commit", "--quiet", "-m", "a library"]);
    git(&work, &["tag", "v1.0.0"]);
    git(&work, &["push", "--quiet", "origin", "main", "v1.0.0"]);
}

/// Checks that something of `repo` was asked for, and that no request for it had a credential.
#[track_caller]
fn assert_no_credential(repo: &str) {
    let mut arrived = rig().upstream.requests_with(&format!("/{repo}"));
    arrived.retain(|request| !request.is_own());
    assert!(!arrived.is_empty(), "nothing of {repo} was asked for");
    for request in &arrived {
        for name in ["authorization", "cookie", "x-api-key", "x-sallyport-sealed", "private-token"] {
            assert!(request.header(name).is_empty(), "{name}: {request:?}");
        }
        assert!(!format!("{request:?}").contains(TOKEN), "{request:?}");
    }
}

/// A registered sandbox whose clients send credentials of their own.
fn sandbox() -> Sandbox {
    rig().registered(&[OWN])
}

#[test]
fn git_clones_public_repositories_and_submodules_and_pushes_nothing() {
    let sandbox = sandbox();
    let home = &sandbox.home;
    let own = "https://of-the:client@github.com/octo/lib.git";
    sandbox.git(home, &["clone", "--quiet", own, "lib"]).success();
    assert!(home.join("lib/src/lib.rs").exists());
    assert_no_credential(LIB);
    // A submodule by its full address.
    sandbox.git(home, &["clone", "--quiet", &format!("https://github.com/{OWN}"), "app"]).success();
    let app = home.join("app");
    sandbox.git(&app, &["submodule", "--quiet", "add", "https://github.com/octo/lib", "lib"]).success();
    sandbox.git(&app, &["commit", "--quiet", "-m", "a submodule"]).success();
    let branch = format!("HEAD:refs/heads/sandbox/box-{}/submodule", sandbox.address);
    sandbox.git(&app, &["push", "--quiet", "origin", &branch]).success();
    let name = branch.trim_start_matches("HEAD:refs/heads/");
    let url = format!("https://github.com/{OWN}");
    let again = ["clone", "--quiet", "--recurse-submodules", "--branch", name, &url, "again"];
    sandbox.git(home, &again).success();
    assert!(home.join("again/lib/src/lib.rs").exists());
    assert_no_credential(LIB);
    // The same client pushes nothing there.
    let lib = home.join("lib");
    sandbox.git(&lib, &["commit", "--quiet", "--allow-empty", "-m", "mine"]).success();
    let refused = sandbox.git(&lib, &["push", "origin", "HEAD:refs/heads/sandbox/x"]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("github.repo") || refused.stderr.contains("403"), "{}", refused.stderr);
    let pushes = rig().upstream.requests_with("/octo/lib.git/git-receive-pack");
    assert!(pushes.is_empty(), "{pushes:?}");
}

#[test]
fn a_private_repository_of_others_stays_closed() {
    let sandbox = sandbox();
    let cloned = sandbox.git(&sandbox.home, &["clone", "--quiet", &format!("https://github.com/{SECRET}"), "secret"]);
    assert_ne!(cloned.code, Some(0));
    for (url, status) in [
        (format!("https://api.github.com/repos/{SECRET}"), 404),
        (format!("https://api.github.com/repos/{SECRET}/contents/README"), 404),
        (format!("https://raw.githubusercontent.com/{SECRET}/main/README"), 404),
        (format!("https://codeload.github.com/{SECRET}/tar.gz/main"), 404),
        (format!("https://raw.githubusercontent.com/{LIB}/main/src/lib.rs"), 200),
        (format!("https://api.github.com/repos/{LIB}"), 200),
    ] {
        let said = sandbox.curl(&["-H", "authorization: Bearer ghp_of-the-client", &url]);
        assert_eq!(said.status, status, "{url}: {}", said.body);
        assert_eq!(said.rule(), None, "{url}: GitHub's own answer");
    }
    assert_no_credential(SECRET);
    assert_no_credential(LIB);
    // With the gateway's credential the stand-in would show it.
    assert_eq!(sandbox.curl(&[&format!("https://api.github.com/repos/{OWN}")]).status, 200);
}

#[test]
fn cargo_builds_with_a_git_dependency() {
    let sandbox = sandbox();
    let cargo = std::env::var("CARGO").expect("cargo sets it");
    std::fs::create_dir_all(sandbox.home.join("src")).unwrap();
    let manifest = "[package]\nname = \"own\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\n\
                    octo_lib = { git = \"https://github.com/octo/lib\", tag = \"v1.0.0\" }\n";
    std::fs::write(sandbox.home.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(sandbox.home.join("src/lib.rs"), "pub use octo_lib::VALUE;\n").unwrap();
    // By cargo's own git library, and by git.
    for by_git in ["false", "true"] {
        let mut command = sandbox.command(&cargo);
        let tools = Path::new(&cargo).parent().unwrap().display().to_string();
        command.env("PATH", format!("{tools}:{}", std::env::var("PATH").unwrap()));
        command.env("CARGO_NET_GIT_FETCH_WITH_CLI", by_git).env("CARGO_HOME", sandbox.home.join(by_git));
        Finished::of(command.args(["build", "--quiet"])).success();
        assert_no_credential(LIB);
    }
}

#[test]
fn pip_installs_from_a_git_address() {
    let sandbox = sandbox();
    let mut command = sandbox.command("python3");
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
    ]);
    command.args(["--target", "there", "octo-lib @ git+https://github.com/octo/lib@v1.0.0"]);
    Finished::of(&mut command).success();
    assert!(sandbox.home.join("there/octo_lib.py").exists());
    assert_no_credential(LIB);
}

#[test]
fn npm_installs_from_github() {
    let sandbox = sandbox();
    if !Finished::of(sandbox.command("sh").args(["-c", "command -v npm"])).stdout.contains("npm") {
        test_support::skip("npm and public repositories", "npm is not installed");
        return;
    }
    std::fs::write(sandbox.home.join("package.json"), r#"{"name": "own", "version": "1.0.0"}"#).unwrap();
    // `github:` asks for an archive; `git+https:` clones.
    for (name, from) in
        [("by-archive", "github:octo/lib#v1.0.0"), ("by-git", "git+https://github.com/octo/lib.git#v1.0.0")]
    {
        let mut command = sandbox.command("npm");
        command.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", name, from]);
        Finished::of(&mut command).success();
        let index = sandbox.home.join(name).join("node_modules/octo-lib/index.js");
        assert!(index.exists(), "{from}");
    }
    assert_no_credential(LIB);
}

#[test]
fn go_gets_a_module_from_github() {
    let sandbox = sandbox();
    if !Finished::of(sandbox.command("sh").args(["-c", "command -v go"])).stdout.contains("go") {
        test_support::skip("go and public repositories", "go is not installed");
        return;
    }
    std::fs::write(sandbox.home.join("go.mod"), "module own\n\ngo 1.19\n").unwrap();
    let mut command = sandbox.command("go");
    command.env("GOPROXY", "direct").env("GONOSUMDB", "*").env("GONOSUMCHECK", "1").env("GOFLAGS", "-modcacherw");
    command.env("GOPATH", sandbox.home.join("go")).env("GOTOOLCHAIN", "local").env("GOSUMDB", "off");
    Finished::of(command.args(["get", "github.com/octo/lib@v1.0.0"])).success();
    let module = std::fs::read_to_string(sandbox.home.join("go.mod")).unwrap();
    assert!(module.contains("github.com/octo/lib v1.0.0"), "{module}");
    assert_no_credential(LIB);
}
