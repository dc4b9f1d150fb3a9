//! Placeholders: the values of a sandbox's variables, for programs that refuse to start without a credential.
//!
//! Some programs check the form of a credential before they send it, so a placeholder has the provider's form where the
//! form is known. No placeholder is a secret, or can be one: each contains a name, the last characters are no checksum, and
//! no source of a credential accepts it. The gateway removes a sandbox's own credential by its place in a request,
//! whatever its value is.

/// The placeholder of a variable whose provider's form is not known. Most other placeholders contain it.
pub const PLACEHOLDER: &str = "held-by-the-gateway";

/// The same name for a form without hyphens.
const JOINED: &str = "HeldByTheGateway";

/// A fine-grained token of GitHub's: 22 letters and digits, and 59. With this prefix, unlike `ghp_`, programs do not look
/// for the scopes of a classic token.
const GITHUB: &str = "github_pat_HeldByTheGateway000000_ThisIsAPlaceholderAndNoSecret000000000000000000000000000000";
/// A key of Anthropic's: 108 characters. A real key ends in `AA`.
const ANTHROPIC: &str =
    "sk-ant-api03-held-by-the-gateway-no-secret-00000000000000000000000000000000000000000000000000000000000000000";
/// The token of a login of Claude Code's.
const CLAUDE_LOGIN: &str =
    "sk-ant-oat01-held-by-the-gateway-no-secret-00000000000000000000000000000000000000000000000000000000000000000";
/// A key of OpenAI's: 51 characters. A real key has `T3BlbkFJ` in the middle.
const OPENAI: &str = "sk-held-by-the-gateway-no-secret-000000000000000000";
/// A key of Google's: 39 characters.
const GOOGLE: &str = "AIzaheld-by-the-gateway-no-secret-00000";

/// The placeholder of the variable `name`.
pub fn of(name: &str) -> &'static str {
    match name {
        "GITHUB_TOKEN" | "GH_TOKEN" => GITHUB,
        "ANTHROPIC_API_KEY" => ANTHROPIC,
        "CLAUDE_CODE_OAUTH_TOKEN" => CLAUDE_LOGIN,
        "OPENAI_API_KEY" => OPENAI,
        "GEMINI_API_KEY" | "GOOGLE_API_KEY" => GOOGLE,
        _ => PLACEHOLDER,
    }
}

/// Whether `text` is a placeholder, or contains one.
pub fn is_in(text: &str) -> bool {
    text.contains(PLACEHOLDER) || text.contains(JOINED)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The variables whose placeholder has a form of its own, with the form: the prefix, the length, and the characters
    /// behind the prefix beside letters and digits.
    const FORMS: [(&str, &str, usize, &str); 7] = [
        ("GITHUB_TOKEN", "github_pat_", 93, "_"),
        ("GH_TOKEN", "github_pat_", 93, "_"),
        ("ANTHROPIC_API_KEY", "sk-ant-api03-", 108, "-"),
        ("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-", 108, "-"),
        ("OPENAI_API_KEY", "sk-", 51, "-"),
        ("GEMINI_API_KEY", "AIza", 39, "-"),
        ("GOOGLE_API_KEY", "AIza", 39, "-"),
    ];

    #[test]
    fn a_placeholder_has_the_form_of_its_provider() {
        for (name, prefix, length, others) in FORMS {
            let placeholder = of(name);
            let rest = placeholder.strip_prefix(prefix).unwrap();
            assert_eq!(placeholder.len(), length, "{name}");
            assert!(rest.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c)), "{name}");
        }
        let parts = GITHUB.split('_').map(str::len).collect::<Vec<_>>();
        assert_eq!(parts, ["github".len(), "pat".len(), 22, 59]);
    }

    #[test]
    fn every_placeholder_is_recognised_and_none_is_a_credential() {
        for (name, ..) in FORMS {
            assert!(is_in(of(name)), "{name}");
            assert!(!of(name).ends_with("AA") && !of(name).contains("T3BlbkFJ"), "{name}");
        }
        assert_eq!(of("GROQ_API_KEY"), PLACEHOLDER);
        assert!(is_in(PLACEHOLDER) && !is_in("ghp_16C7e42F292c6912E7710c838347Ae178B4a"));
    }

    /// GitHub's tokens end in six digits of base 62, the CRC-32 of the characters before
    /// (<https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/>).
    #[test]
    fn the_end_of_github_s_placeholder_is_no_checksum() {
        // The example of a token that the rule is checked with.
        assert_eq!(checksum(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ"), "0mLq17");
        let (before, end) = GITHUB.split_at(GITHUB.len() - 6);
        for start in 0..before.len() {
            assert_ne!(checksum(&before.as_bytes()[start..]), end, "{start}");
        }
    }

    fn checksum(bytes: &[u8]) -> String {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            }
        }
        let (mut rest, mut digits) = (!crc, Vec::new());
        for _ in 0..6 {
            digits.push(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[(rest % 62) as usize]);
            rest /= 62;
        }
        digits.reverse();
        String::from_utf8(digits).unwrap()
    }
}
