//! The capabilities that a client announces in a push (gitprotocol-capabilities(5)), and the list of those that the
//! gateway passes on.
//!
//! A capability outside the list is dropped: git's server then behaves as for a client without it. Examples are
//! `session-id` and each capability that the gateway does not know. Refused are only those that change how the rest of the push is read:
//! an object format other than SHA-1, and a value for `push-options`.

use super::Error;

/// The most capabilities. git has fewer than twenty. The limit exists because the list is searched several times.
pub const MAX_CAPABILITIES: usize = 64;
/// The longest `agent` that is passed on, in bytes. git's own has about twenty.
pub const MAX_AGENT: usize = 128;

/// The capabilities that are passed on, in the order in which they are written. git, libgit2, dulwich, JGit and go-git
/// announce no others, except for `agent`, `push-options` and git's `session-id`.
const PASSED: [&str; 8] = [
    "report-status",
    "report-status-v2",
    "side-band-64k",
    "quiet",
    "atomic",
    "ofs-delta",
    "delete-refs",
    "object-format=sha1",
];

/// A client's capabilities, as far as they are passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Out of [`PASSED`], in its order.
    passed: Vec<&'static str>,
    agent: Option<String>,
}

impl Capabilities {
    /// Parses the capabilities, which follow the NUL on the first line. Returns them, and whether push options follow the
    /// list of ref updates.
    ///
    /// # Errors
    /// If there are more than [`MAX_CAPABILITIES`], or one changes the meaning of the push.
    pub(crate) fn parse(text: &str) -> Result<(Self, bool), Error> {
        let words = text.split(' ').filter(|word| !word.is_empty());
        let words: Vec<_> = words.take(MAX_CAPABILITIES.saturating_add(1)).collect();
        if words.len() > MAX_CAPABILITIES {
            return Err(Error::Limit { what: "capabilities", limit: MAX_CAPABILITIES });
        }
        let values = |name: &'static str| words.iter().filter_map(move |word| word.strip_prefix(name));
        if let Some(other) = values("object-format=").find(|format| *format != "sha1") {
            return Err(Error::ObjectFormat(other.to_owned()));
        }
        if values("push-options=").next().is_some() {
            // git ignores the value (git's connect.c, `parse_feature_value`); other parsers might not see the capability.
            return Err(Error::Line("a value for the capability push-options"));
        }
        let passed = PASSED.into_iter().filter(|name| words.contains(name)).collect();
        let agent = values("agent=").next().filter(|agent| is_agent(agent)).map(str::to_owned);
        Ok((Self { passed, agent }, words.contains(&"push-options")))
    }

    /// Whether the client announces `name`, out of those without a value that are passed on.
    pub fn has(&self, name: &str) -> bool {
        self.passed.contains(&name)
    }

    /// Whether the client reads a report with the result for each ref.
    pub fn report_status(&self) -> bool {
        self.has("report-status") || self.has("report-status-v2")
    }

    /// Whether the client reads messages in addition to the report.
    pub fn side_band(&self) -> bool {
        self.has("side-band-64k")
    }

    /// The capabilities as git writes them: each after a space. Empty without capabilities.
    pub(crate) fn write(&self, push_options: bool) -> String {
        let options = push_options.then_some("push-options").into_iter();
        let mut text: String = self.passed.iter().copied().chain(options).map(|name| format!(" {name}")).collect();
        if let Some(agent) = &self.agent {
            text.push_str(" agent=");
            text.push_str(agent);
        }
        text
    }
}

/// Whether an agent is passed on. Others are dropped, such as that of Apple's git, which has parentheses: the agent
/// changes nothing, and servers keep it in their logs.
fn is_agent(agent: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'_' | b'-');
    (1..=MAX_AGENT).contains(&agent.len()) && agent.bytes().all(plain)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn passed(text: &str) -> (String, bool) {
        let (capabilities, options) = Capabilities::parse(text).unwrap();
        (capabilities.write(false), options)
    }

    #[test]
    fn the_list_of_each_client_is_passed_in_one_order() {
        for (client, sent, written) in [
            (
                "git",
                " report-status-v2 side-band-64k quiet object-format=sha1 agent=git/2.47.3",
                " report-status-v2 side-band-64k quiet object-format=sha1 agent=git/2.47.3",
            ),
            (
                "git with a session",
                " report-status-v2 side-band-64k atomic session-id=a-1 agent=git/2.47.3-Linux",
                " report-status-v2 side-band-64k atomic agent=git/2.47.3-Linux",
            ),
            (
                "Apple's git",
                " report-status-v2 side-band-64k object-format=sha1 agent=git/2.39.5.(Apple.Git-154)",
                " report-status-v2 side-band-64k object-format=sha1",
            ),
            ("libgit2", " report-status side-band-64k", " report-status side-band-64k"),
            (
                "dulwich",
                "agent=dulwich/1.2.21 delete-refs ofs-delta report-status side-band-64k no-progress",
                " report-status side-band-64k ofs-delta delete-refs agent=dulwich/1.2.21",
            ),
            (
                "JGit",
                " report-status delete-refs ofs-delta side-band-64k agent=JGit/6.5.0.202303070854-r",
                " report-status side-band-64k ofs-delta delete-refs agent=JGit/6.5.0.202303070854-r",
            ),
            ("go-git", "agent=go-git/5.x report-status atomic", " report-status atomic agent=go-git/5.x"),
        ] {
            assert_eq!(passed(sent), (written.to_owned(), false), "{client}");
        }
    }

    #[test]
    fn what_nobody_needs_is_dropped() {
        for text in ["session-id=1;x=2", "x;rails_env=development", "agent=a;b", "agent=", "quiet;", "side-band", "é"]
        {
            assert_eq!(passed(text), (String::new(), false), "{text}");
        }
        let longest = "a".repeat(MAX_AGENT);
        assert_eq!(passed(&format!("agent={longest}")).0, format!(" agent={longest}"));
        assert_eq!(passed(&format!("agent={longest}a")).0, "");
        assert_eq!(passed("quiet quiet agent=a agent=b quiet").0, " quiet agent=a");
        assert_eq!(passed("quiet push-options"), (" quiet".to_owned(), true));
    }
}
