//! pip, uv, cargo and npm.

use super::{
    Row, Skipped, World, clients, has_its_credential, installed, python_of, trusting, version, version_of, works,
};
use serde_json::json;
use std::path::Path;
use test_support::Finished;
use test_support::registries::PACKAGE;

pub(super) fn pip(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let sandbox = world.sandbox();
    let before = world.scripted.asked().len();
    let mut command = sandbox.command(&python);
    command.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--target", "there", PACKAGE]);
    Finished::of(trusting(&mut command, &["PIP_CERT"])).success();
    assert!(sandbox.home.join("there/sallyport_fixture.py").exists());
    assert_hosts(world, before, &["pypi.org", "files.pythonhosted.org"]);
    std::fs::remove_dir_all(sandbox.home.join("there")).unwrap();
    world.distrusts(command.args(["--no-cache-dir", "--retries", "0"]));
    works(version_of(&python, "pip"), "`PIP_CERT`", "yes")
}

pub(super) fn uv(world: &World) -> Result<Row, Skipped> {
    let python = python_of("sdks")?;
    let uv = clients().join("sdks/bin/uv").display().to_string();
    let sandbox = world.sandbox();
    let before = world.scripted.asked().len();
    let mut command = sandbox.command(&uv);
    command.args(["pip", "install", "--no-config", "--python", &python, "--target", "there", PACKAGE]);
    Finished::of(trusting(&mut command, &["SSL_CERT_FILE"])).success();
    assert!(sandbox.home.join("there/sallyport_fixture.py").exists());
    assert_hosts(world, before, &["pypi.org", "files.pythonhosted.org"]);
    std::fs::remove_dir_all(sandbox.home.join("there")).unwrap();
    world.distrusts(command.arg("--no-cache"));
    works(version(&uv, "--version", "uv "), "`SSL_CERT_FILE`", "yes")
}

pub(super) fn cargo(world: &World) -> Result<Row, Skipped> {
    // Not rustup's cargo, which looks for its toolchains in the home directory.
    let cargo = std::env::var("CARGO").expect("cargo sets it");
    let sandbox = world.sandbox();
    let before = world.scripted.asked().len();
    std::fs::create_dir_all(sandbox.home.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"own\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\n{PACKAGE} = \"1\"\n"
    );
    std::fs::write(sandbox.home.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(sandbox.home.join("src/lib.rs"), "").unwrap();
    let mut command = sandbox.command(&cargo);
    let tools = Path::new(&cargo).parent().unwrap().display().to_string();
    command.env("PATH", format!("{tools}:{}", std::env::var("PATH").unwrap()));
    command.args(["fetch", "--quiet"]);
    Finished::of(trusting(&mut command, &["CARGO_HTTP_CAINFO"])).success();
    let locked = std::fs::read_to_string(sandbox.home.join("Cargo.lock")).unwrap();
    assert!(locked.contains(PACKAGE), "{locked}");
    assert_hosts(world, before, &["index.crates.io", "static.crates.io"]);
    for kept in ["Cargo.lock", ".cargo/registry"] {
        let kept = sandbox.home.join(kept);
        if kept.is_dir() { std::fs::remove_dir_all(kept) } else { std::fs::remove_file(kept) }.unwrap();
    }
    world.distrusts(&mut command);
    works(version(&cargo, "--version", "cargo "), "`CARGO_HTTP_CAINFO`", "yes")
}

pub(super) fn npm(world: &World) -> Result<Row, Skipped> {
    installed("npm")?;
    let sandbox = world.sandbox();
    let before = world.scripted.asked().len();
    let manifest = json!({"name": "own", "version": "0.0.0", "dependencies": {PACKAGE: "1.0.0"}});
    std::fs::write(sandbox.home.join("package.json"), manifest.to_string()).unwrap();
    let mut command = sandbox.command("npm");
    command.args(["install", "--no-audit", "--no-fund", "--no-update-notifier"]);
    Finished::of(trusting(&mut command, &["npm_config_cafile"])).success();
    assert!(sandbox.home.join("node_modules/sallyport-fixture/index.js").exists());
    assert_hosts(world, before, &["registry.npmjs.org"]);
    for made in ["node_modules", ".npm"] {
        std::fs::remove_dir_all(sandbox.home.join(made)).unwrap();
    }
    std::fs::remove_file(sandbox.home.join("package-lock.json")).unwrap();
    world.distrusts(command.args(["--fetch-retries", "0"]));
    works(version("npm", "--version", ""), "`npm_config_cafile`", "yes")
}

/// Checks that the requests since `before` were for these hosts, for each of them, and without another credential.
#[track_caller]
fn assert_hosts(world: &World, before: usize, hosts: &[&str]) {
    let asked = world.scripted.asked().split_off(before);
    assert!(
        asked.iter().all(|asked| hosts.contains(&asked.head.host.as_str()) && has_its_credential(asked)),
        "{asked:#?}"
    );
    for host in hosts {
        assert!(asked.iter().any(|asked| asked.head.host == *host), "{host}: {asked:#?}");
    }
}
