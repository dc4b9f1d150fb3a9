//! The commands of docs/builds.md, run in a sandbox. A program in place of docker takes the build's arguments; the `RUN`
//! line of the Dockerfile then runs with the variables that docker would give to it, and no others.

use super::{World, clients, installed, python_of};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use test_support::registries::PACKAGE;
use test_support::{Finished, Sandbox};

/// The build arguments that docker passes on without a line in the Dockerfile.
const PREDEFINED: [&str; 6] = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
/// The path of the CA bundle in a sandbox, in all documents.
const BUNDLE: &str = "/etc/sallyport/ca-bundle.pem";

/// The blocks of docs/builds.md with this mark.
fn blocks(mark: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/builds.md");
    let text = std::fs::read_to_string(path).unwrap();
    let opening = format!("```{mark}\n");
    text.split(&opening).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// `script` in the sandbox, with the programs of `first` in front.
fn bash(sandbox: &Sandbox, first: &[String], script: &str) -> Command {
    let mut command = sandbox.command("bash");
    command.args(["-e", "-c", script]);
    command.env("PATH", format!("{}:{}", first.join(":"), std::env::var("PATH").unwrap()));
    // pip would install into the environment that the other tests use.
    command.env("PIP_TARGET", sandbox.home.join("there"));
    command
}

#[test]
fn the_builds_of_the_docs_work_in_a_sandbox() {
    for needed in [python_of("sdks").map(drop), installed("npm")] {
        if let Err(skipped) = needed {
            return skipped.skip("docs/builds.md");
        }
    }
    let world = World::start(("ANTHROPIC_API_KEY", super::ANTHROPIC));
    let sandbox = world.sandbox();
    let write = |name: &str, text: &str| {
        let path = sandbox.home.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("requirements.txt", &format!("{PACKAGE}==1.0.0\n"));
    write(
        "package.json",
        &format!(r#"{{"name": "own", "version": "0.0.0", "dependencies": {{"{PACKAGE}": "1.0.0"}}}}"#),
    );
    let manifest = "[package]\nname = \"own\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\n";
    write("Cargo.toml", &format!("{manifest}{PACKAGE} = \"1\"\n"));
    write("src/lib.rs", "");
    let cargo = std::env::var("CARGO").expect("cargo sets it");
    let cargo = Path::new(&cargo).parent().unwrap().display().to_string();
    let tools = [clients().join("sdks/bin").display().to_string(), cargo];
    Finished::of(&mut bash(&sandbox, &tools, "npm install --package-lock-only")).success();

    let [packages, docker] = <[String; 2]>::try_from(blocks("sh build")).unwrap();
    let [dockerfile] = <[String; 1]>::try_from(blocks("dockerfile build")).unwrap();
    Finished::of(&mut bash(&sandbox, &tools, &packages)).success();
    for made in ["there/sallyport_fixture.py", "node_modules/sallyport-fixture/index.js", "Cargo.lock"] {
        assert!(sandbox.home.join(made).exists(), "{made}");
    }
    std::fs::remove_dir_all(sandbox.home.join("there")).unwrap();

    write("bin/docker", "#!/bin/sh\nprintf '%s\\n' \"$@\" >docker.arguments\n");
    let own = [sandbox.home.join("bin").display().to_string()];
    Finished::of(Command::new("chmod").arg("+x").arg(sandbox.home.join("bin/docker"))).success();
    Finished::of(&mut bash(&sandbox, &own, &docker)).success();
    let arguments = std::fs::read_to_string(sandbox.home.join("docker.arguments")).unwrap();
    let environment = Finished::of(&mut sandbox.command("env")).success().stdout;
    let value = |name: &str| environment.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let bundle = value("SSL_CERT_FILE").unwrap();
    let secret = format!("--secret\nid=sallyport-ca,src={bundle}\n");
    assert!(arguments.starts_with("build\n--network\nhost\n") && arguments.contains(&secret), "{arguments}");
    let given: BTreeSet<&str> =
        arguments.split("--build-arg\n").skip(1).map(|rest| rest.lines().next().unwrap()).collect();

    let line = |word: &str| dockerfile.lines().find_map(|line| line.strip_prefix(word)).unwrap();
    let declared: BTreeSet<&str> = line("ARG ").split(' ').collect();
    assert_eq!(given, declared.iter().copied().chain(PREDEFINED).collect(), "each argument is passed and declared");
    assert!(declared.iter().all(|name| value(name) == Some(bundle)), "they have the path of the bundle: {environment}");
    let mount = format!("--mount=type=secret,id=sallyport-ca,target={BUNDLE} ");
    let step = line("RUN ").strip_prefix(&mount).unwrap();
    let mut command = bash(&sandbox, &tools, step);
    for name in environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name) {
        if !given.contains(name) && !["PATH", "HOME", "PIP_TARGET"].contains(&name) {
            command.env_remove(name);
        }
    }
    Finished::of(&mut command).success();
    assert!(sandbox.home.join("there/sallyport_fixture.py").exists());
}
