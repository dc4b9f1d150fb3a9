//! curl, wget, git and gh.

use super::{OPENAI_HOST, Row, Skipped, World, assert_credentials, gh, git, installed, trusting, version, works};
use test_support::Finished;
use test_support::registries::PACKAGE;

pub(super) fn curl(world: &World) -> Result<Row, Skipped> {
    for http in ["--http1.1", "--http2"] {
        let sandbox = world.sandbox();
        let mut command = sandbox.command("curl");
        command.args([
            "--silent",
            "--show-error",
            "--fail",
            "--no-buffer",
            http,
            "-H",
            "content-type: application/json",
        ]);
        command.args(["-d", r#"{"model": "gpt-5", "stream": true}"#, "https://api.openai.com/v1/chat/completions"]);
        let (_, asked) = world.streams(trusting(&mut command, &["CURL_CA_BUNDLE"]));
        assert_credentials(&asked, OPENAI_HOST, 1);
        world.distrusts(&mut command);
    }
    works(version("curl", "--version", "curl "), "`CURL_CA_BUNDLE`", "yes: streams, HTTP/1.1 and HTTP/2")
}

pub(super) fn wget(world: &World) -> Result<Row, Skipped> {
    installed("wget")?;
    let needs = "`--ca-certificate=FILE`, or `ca_certificate = FILE` in a file that `WGETRC` names";
    let sandbox = world.sandbox();
    let url = format!("https://pypi.org/simple/{PACKAGE}/");
    let fetched = |more: &[&str]| {
        let before = world.scripted.asked().len();
        let finished =
            Finished::of(sandbox.command("wget").args(["--quiet", "--tries=1", "-O", "-"]).args(more).arg(&url));
        (finished, world.scripted.asked().len() - before)
    };
    let bundle = world.gateway.sandbox_env(sandbox.gateway_address)["SSL_CERT_FILE"].clone();
    let (told, arrived) = fetched(&[&format!("--ca-certificate={bundle}")]);
    assert!(told.success().stdout.contains(".whl") && arrived == 1);
    let (by_variable, arrived) = fetched(&[]);
    let outcome = if by_variable.code == Some(0) {
        "yes; a wget of OpenSSL also by `SSL_CERT_FILE`"
    } else {
        assert_eq!(arrived, 0, "{by_variable:?}");
        "yes, when told so: with GnuTLS it reads no variable for its roots"
    };
    works(version("wget", "--version", "GNU Wget "), needs, outcome)
}

pub(super) fn git_gnutls(world: &World) -> Result<Row, Skipped> {
    git(world, "gnutls")
}

pub(super) fn git_openssl(world: &World) -> Result<Row, Skipped> {
    git(world, "openssl")
}

pub(super) fn gh_of_the_machine(world: &World) -> Result<Row, Skipped> {
    installed("gh")?;
    gh(world, "gh")
}

pub(super) fn gh_newer(world: &World) -> Result<Row, Skipped> {
    let program = std::env::var("NEWER_GH").unwrap_or_default();
    if program.is_empty() {
        return Err(Skipped::without("gh-newer", "not installed: tests/support/newer-gh.sh"));
    }
    gh(world, &program)
}
