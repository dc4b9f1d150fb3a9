//! Presets: names for groups of hosts that belong together.

use policy::endpoint::Endpoint;
use policy::{Access, HostPattern};

/// A preset: hosts, and how they may be reached.
struct Preset {
    name: &'static str,
    hosts: &'static [&'static str],
    role: HostRole,
}

enum HostRole {
    /// Every method.
    Api,
    /// GET and HEAD only, so that nothing can be published, and no data leaves in a request's body.
    Registry,
    /// GET and HEAD only, for mirrors that support only cleartext.
    CleartextRegistry,
}

const PRESETS: &[Preset] = &[
    Preset {
        name: "github",
        hosts: &[
            "github.com",
            "api.github.com",
            "raw.githubusercontent.com",
            "codeload.github.com",
            "objects.githubusercontent.com",
            "release-assets.githubusercontent.com",
            "media.githubusercontent.com",
            "github-cloud.githubusercontent.com",
            "github-cloud.s3.amazonaws.com",
        ],
        role: HostRole::Api,
    },
    Preset { name: "anthropic", hosts: &["api.anthropic.com"], role: HostRole::Api },
    Preset { name: "openai", hosts: &["api.openai.com"], role: HostRole::Api },
    Preset { name: "gemini", hosts: &["generativelanguage.googleapis.com"], role: HostRole::Api },
    Preset { name: "pypi", hosts: &["pypi.org", "files.pythonhosted.org"], role: HostRole::Registry },
    Preset { name: "npm", hosts: &["registry.npmjs.org"], role: HostRole::Registry },
    Preset { name: "crates", hosts: &["crates.io", "index.crates.io", "static.crates.io"], role: HostRole::Registry },
    Preset { name: "rust", hosts: &["static.rust-lang.org"], role: HostRole::Registry },
    Preset { name: "golang", hosts: &["proxy.golang.org", "sum.golang.org"], role: HostRole::Registry },
    Preset { name: "maven", hosts: &["repo.maven.apache.org", "repo1.maven.org"], role: HostRole::Registry },
    Preset { name: "rubygems", hosts: &["rubygems.org", "index.rubygems.org"], role: HostRole::Registry },
    Preset { name: "debian", hosts: &["deb.debian.org", "security.debian.org"], role: HostRole::Registry },
    Preset {
        name: "ubuntu",
        hosts: &["archive.ubuntu.com", "security.ubuntu.com", "ports.ubuntu.com"],
        role: HostRole::CleartextRegistry,
    },
];

/// The preset of the hosts whose credentials have a value. It is not in the table: its hosts are those of a gateway.
pub const CREDENTIALS: &str = "credentials";

/// The names of all presets, for error messages.
pub fn names() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.name).chain([CREDENTIALS]).collect()
}

/// The hosts of the preset `name` and how each may be reached.
pub fn expand(name: &str) -> Option<(Vec<HostPattern>, Access)> {
    let preset = PRESETS.iter().find(|preset| preset.name == name)?;
    // A test parses every name of the table.
    let hosts = preset.hosts.iter().filter_map(|host| HostPattern::parse(host).ok()).collect();
    let read_only = || vec![Endpoint::everything(Some(["GET", "HEAD"].map(str::to_owned).into()))];
    let access = match preset.role {
        HostRole::Api => Access::full(),
        HostRole::Registry => Access { allow: read_only(), cleartext: false },
        HostRole::CleartextRegistry => Access { allow: read_only(), cleartext: true },
    };
    Some((hosts, access))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_host_of_every_preset_is_read() {
        for preset in PRESETS {
            assert_eq!(expand(preset.name).unwrap().0.len(), preset.hosts.len(), "{}", preset.name);
        }
    }
}
