//! PyPI, crates.io and npm with one package each, `sallyport-fixture` 1.0.0, made here.

use crate::Finished;
use crate::scripted::{Asked, Play};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The hosts.
pub const HOSTS: [&str; 5] =
    ["pypi.org", "files.pythonhosted.org", "index.crates.io", "static.crates.io", "registry.npmjs.org"];
/// The package.
pub const PACKAGE: &str = "sallyport-fixture";

const WHEEL: &str = "sallyport_fixture-1.0.0-py3-none-any.whl";

/// The registries.
#[derive(Debug)]
pub struct Registries {
    wheel: Vec<u8>,
    wheel_sha256: String,
    krate: Vec<u8>,
    krate_sha256: String,
    tarball: Vec<u8>,
    tarball_sha1: String,
}

impl Registries {
    /// Makes the packages with the machine's python3, tar, sha256sum and sha1sum.
    pub fn make() -> Self {
        let directory = crate::scratch("registries");
        let wheel = directory.join(WHEEL);
        let metadata = "Metadata-Version: 2.1\nName: sallyport-fixture\nVersion: 1.0.0\n";
        let kind = "Wheel-Version: 1.0\nGenerator: rig\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
        let record = "sallyport_fixture.py,,\nsallyport_fixture-1.0.0.dist-info/METADATA,,\nsallyport_fixture-1.0.0.dist-info/WHEEL,,\nsallyport_fixture-1.0.0.dist-info/RECORD,,\n";
        let script = "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'w') as z:\n for n, t in zip(sys.argv[2::2], sys.argv[3::2]): z.writestr(n, t)\n";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(&wheel).args(["sallyport_fixture.py", "NAME = 'from the wheel'\n"]);
        for (name, text) in [("METADATA", metadata), ("WHEEL", kind), ("RECORD", record)] {
            python.arg(format!("sallyport_fixture-1.0.0.dist-info/{name}")).arg(text);
        }
        Finished::of(&mut python).success();

        let source = directory.join("sallyport-fixture-1.0.0");
        fs::create_dir_all(source.join("src")).unwrap();
        let manifest = "[package]\nname = \"sallyport-fixture\"\nversion = \"1.0.0\"\nedition = \"2021\"\n";
        fs::write(source.join("Cargo.toml"), manifest).unwrap();
        fs::write(source.join("src/lib.rs"), "").unwrap();
        let krate = directory.join("fixture.crate");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&directory).arg("-czf").arg(&krate).arg("sallyport-fixture-1.0.0");
        Finished::of(&mut tar).success();

        let package = directory.join("package");
        fs::create_dir(&package).unwrap();
        fs::write(package.join("package.json"), format!("{{\"name\": \"{PACKAGE}\", \"version\": \"1.0.0\"}}"))
            .unwrap();
        fs::write(package.join("index.js"), "module.exports = 'from the tarball';\n").unwrap();
        let tarball = directory.join("fixture.tgz");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&directory).arg("-czf").arg(&tarball).arg("package");
        Finished::of(&mut tar).success();

        let (wheel_sha256, krate_sha256) = (sum("sha256sum", &wheel), sum("sha256sum", &krate));
        let (tarball_sha1, tarball) = (sum("sha1sum", &tarball), fs::read(tarball).unwrap());
        let (wheel, krate) = (fs::read(wheel).unwrap(), fs::read(krate).unwrap());
        Self { wheel, wheel_sha256, krate, krate_sha256, tarball, tarball_sha1 }
    }

    /// The response to a request.
    pub fn answer(&self, asked: &Asked) -> Play {
        let binary = "application/octet-stream";
        match (asked.head.host.as_str(), asked.path()) {
            ("pypi.org", "/simple/sallyport-fixture/") => {
                let url = format!("https://files.pythonhosted.org/packages/{WHEEL}#sha256={}", self.wheel_sha256);
                Play::whole(
                    200,
                    "text/html",
                    format!("<!DOCTYPE html><html><body><a href=\"{url}\">{WHEEL}</a></body></html>"),
                )
            }
            ("files.pythonhosted.org", path) if path.ends_with(WHEEL) => Play::whole(200, binary, self.wheel.clone()),
            ("index.crates.io", "/config.json") => {
                let config = json!({"dl": "https://static.crates.io/crates", "api": "https://crates.io"});
                Play::json(200, &config)
            }
            ("index.crates.io", "/sa/ll/sallyport-fixture") => {
                let line = json!({
                    "name": PACKAGE, "vers": "1.0.0", "deps": [], "cksum": self.krate_sha256, "features": {},
                    "yanked": false,
                });
                Play::whole(200, "text/plain", format!("{line}\n"))
            }
            ("static.crates.io", "/crates/sallyport-fixture/1.0.0/download") => {
                Play::whole(200, binary, self.krate.clone())
            }
            ("registry.npmjs.org", "/sallyport-fixture") => {
                let tarball = format!("https://registry.npmjs.org/{PACKAGE}/-/{PACKAGE}-1.0.0.tgz");
                let dist = json!({"tarball": tarball, "shasum": self.tarball_sha1});
                let version = json!({"name": PACKAGE, "version": "1.0.0", "dist": dist});
                let versions = json!({"1.0.0": version});
                Play::json(200, &json!({"name": PACKAGE, "dist-tags": {"latest": "1.0.0"}, "versions": versions}))
            }
            ("registry.npmjs.org", path) if path.ends_with("-1.0.0.tgz") => {
                Play::whole(200, binary, self.tarball.clone())
            }
            _ => Play::whole(404, "text/plain", "no such package"),
        }
    }
}

fn sum(program: &str, path: &Path) -> String {
    let printed = Finished::of(Command::new(program).arg(path)).success().stdout;
    printed.split_whitespace().next().unwrap().to_owned()
}
