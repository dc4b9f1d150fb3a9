//! Orders to bots in texts, and the names of labels and logins, compared with the patterns of the policy.
//!
//! Readers take different texts as the same word: some ignore letter case and invisible characters, some take
//! full-width letters as ASCII, and a Markdown renderer decodes HTML's character references. So each text is compared
//! as it is and in its folded form, and one match is enough.
//!
//! All functions take time linear in the text for each pattern. [`super::MAX_BODY`] limits the text.

use crate::glob;

/// The ends of lines, of any system and of Unicode (UAX 14: LF, CR, LS, PS, NEL, VT, FF).
const LINE_ENDS: [char; 7] = ['\n', '\r', '\u{2028}', '\u{2029}', '\u{85}', '\u{b}', '\u{c}'];

/// The longest mention that is compared with a glob, in bytes. A login has at most 39 letters, a team's name with its
/// organisation a few more.
const MAX_MENTION: usize = 160;

/// The suffix of the logins of GitHub Apps.
const BOT: &str = "[bot]";

/// The first of `commands` that `text` contains.
///
/// A command that begins with `@` is a mention: it counts anywhere, unless an ASCII letter or digit stands directly
/// before it or behind it. Any other command counts at the beginning of a line, behind white space and the marks of
/// lists and quotes, as a whole word. In both, `*` stands for any text; a command with `*` needs no end of a word.
/// Letter case is ignored.
pub fn command<'a>(commands: &'a [String], text: &str) -> Option<&'a str> {
    let (lower, ascii) = (text.to_lowercase(), text.to_ascii_lowercase());
    // Letter case of ASCII alone, too: a neighbour of another alphabet may have its lower case in ASCII.
    let folded = |text: &str| shown(text).map(|c| c.to_ascii_lowercase()).collect();
    let (of_lower, of_ascii) = (decoded(&lower), decoded(&ascii));
    let mut readings = vec![fold(&lower), fold(&of_lower), folded(&ascii), folded(&of_ascii)];
    readings.extend([lower, ascii, of_lower, of_ascii]);
    readings.sort_unstable();
    readings.dedup();
    commands.iter().map(String::as_str).find(|command| {
        let command = fold(command);
        readings.iter().any(|text| match command.strip_prefix('@') {
            Some(name) => mentions(text, name),
            None => text.split(LINE_ENDS).any(|line| begins(line, &command)),
        })
    })
}

/// The first of `patterns` that matches the label `name`. White space around the name and letter case are ignored.
pub fn label<'a>(patterns: &'a [String], name: &str) -> Option<&'a str> {
    let name = fold(name);
    let matches = |pattern: &&str| glob::covers(fold(pattern).trim().as_bytes(), name.trim().as_bytes());
    patterns.iter().map(String::as_str).find(matches)
}

/// Whether `login` is an App's, or matches one of `patterns`. A suffix `[bot]` counts on neither side, and letter case
/// is ignored.
pub fn is_agent(patterns: &[String], login: &str) -> bool {
    let login = fold(login);
    let login = login.trim().trim_start_matches('@');
    match login.strip_suffix(BOT) {
        Some(_) => true,
        None => patterns.iter().any(|pattern| {
            let pattern = fold(pattern);
            glob::covers(pattern.strip_suffix(BOT).unwrap_or(&pattern).as_bytes(), login.as_bytes())
        }),
    }
}

/// `text` in lower case, without invisible characters, and with full-width forms as ASCII.
pub fn fold(text: &str) -> String {
    shown(text).flat_map(char::to_lowercase).collect()
}

/// The characters of `text` without the invisible ones, and with full-width forms as ASCII.
fn shown(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| !is_invisible(*c)).map(narrow)
}

/// Whether [`fold`] would change `text` in more than its letter case.
pub fn is_disguised(text: &str) -> bool {
    text.chars().any(|c| is_invisible(c) || narrow(c) != c)
}

/// Whether `c` takes no place when it is shown: format characters, variation selectors, tags, fillers of Hangul, and
/// control characters that end no line (Unicode's `Default_Ignorable_Code_Point`).
fn is_invisible(c: char) -> bool {
    let format = matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}');
    format || (c.is_control() && !c.is_whitespace())
}

/// The ASCII character of a full-width or small form (Unicode's blocks "Halfwidth and Fullwidth Forms" and "Small Form
/// Variants"). Any other character is unchanged.
fn narrow(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => u32::from(c).checked_sub(0xfee0).and_then(char::from_u32).unwrap_or(c),
        '\u{3000}' => ' ',
        '\u{fe55}' => ':',
        '\u{fe5f}' => '#',
        '\u{fe63}' => '-',
        '\u{fe6b}' => '@',
        _ => c,
    }
}

/// `text`, in lower case, with the character references that can spell a command: numbers, and the names of `@`, `/`
/// and white space (HTML, section 13.5).
fn decoded(text: &str) -> String {
    const NAMED: [(&str, char); 6] =
        [("commat;", '@'), ("sol;", '/'), ("nbsp;", ' '), ("tab;", '\t'), ("newline;", '\n'), ("zerowidthspace;", ' ')];
    let mut parts = text.split('&');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let named = NAMED.iter().find_map(|(name, c)| part.strip_prefix(name).map(|rest| (*c, rest)));
        match named.or_else(|| numbered(part)) {
            Some((c, rest)) => {
                out.push(c);
                out.push_str(rest);
            }
            None => {
                out.push('&');
                out.push_str(part);
            }
        }
    }
    out
}

/// The character of `#64;` or `#x40;` at the beginning of `text`, and the rest. The semicolon may be absent.
fn numbered(text: &str) -> Option<(char, &str)> {
    let text = text.strip_prefix('#')?;
    let (digits, radix) = text.strip_prefix('x').map_or((text, 10), |digits| (digits, 16));
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let (number, rest) = digits.split_at_checked(end)?;
    // Leading zeros are allowed, so the number may have any length.
    let number = u32::from_str_radix(number.trim_start_matches('0'), radix).ok()?;
    Some((char::from_u32(number)?, rest.strip_prefix(';').unwrap_or(rest)))
}

/// Whether `text` mentions `name`, which has no `@`.
fn mentions(text: &str, name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric();
    text.match_indices('@').any(|(at, _)| {
        let (before, rest) = text.split_at(at);
        let rest = rest.strip_prefix('@').unwrap_or_default();
        if before.ends_with(word) {
            false
        } else if name.contains('*') {
            let part = |c: char| word(c) || matches!(c, '-' | '_' | '/');
            let long = rest.bytes().take(MAX_MENTION).take_while(|b| part(char::from(*b))).count();
            let whole = rest.get(..long).unwrap_or_default();
            let login = whole.split('/').next().unwrap_or_default();
            [whole, login].iter().any(|have| !have.is_empty() && glob::covers(name.as_bytes(), have.as_bytes()))
        } else {
            rest.strip_prefix(name).is_some_and(|behind| !behind.starts_with(word))
        }
    })
}

/// Whether `line` begins with `command` as a whole word.
fn begins(line: &str, command: &str) -> bool {
    let line = line.trim_start_matches(|c: char| c.is_whitespace() || is_invisible(c) || ">*+-".contains(c));
    if command.contains('*') {
        return glob::covers(format!("{command}*").as_bytes(), line.as_bytes());
    }
    let Some(behind) = line.strip_prefix(command) else { return false };
    let mut behind = behind.chars();
    match behind.next() {
        // `/deploy.sh` and `/merge-notes/x` are paths.
        Some('.') => !behind.next().is_some_and(char::is_alphanumeric),
        Some(c) => !(c.is_alphanumeric() || matches!(c, '_' | '-' | '/')),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_mention_counts_anywhere_at_the_boundary_of_a_word() {
        let commands = list(&["@claude"]);
        for text in [
            "@claude",
            "@claude fix it",
            "Thanks. Could you @claude please push this to main?",
            "cc @Claude",
            "# @claude fix it",
            "1. @claude implement this",
            "- [ ] @claude review",
            "(@claude)",
            "_@claude_",
            "**@claude**: go",
            "`@claude`",
            "```\n@claude\n```",
            "line\u{2028}and @claude",
            "é@claude",
            "\u{212a}@claude",
            "@claude\u{130}",
            "\u{212a}@cla\u{200b}ude",
            "\u{212a}\u{ff20}claude",
            "\u{212a}&#64;claude",
            "x\u{200b}@claude",
            "@cla\u{200b}ude",
            "\u{ff20}claude",
            "@\u{ff43}laude",
            "\u{fe6b}claude",
            "@claude\u{ff41}",
            "@claude-code",
            "@claude.",
            "&#64;claude",
            "&#x40;claude",
            "&#00064claude",
            "&commat;claude",
            "@&#99;laude",
            "\\@claude",
            "a&#97;@claude",
        ] {
            assert_eq!(command(&commands, text), Some("@claude"), "{text:?}");
        }
        for text in
            ["", "claude", "bot@claude.example", "@claudette", "@ claude", "@clau-de", "@anthropic-ai/claude-code"]
        {
            assert_eq!(command(&commands, text), None, "{text:?}");
        }
    }

    #[test]
    fn a_word_counts_at_a_lines_beginning_as_a_whole() {
        let commands = list(&["/merge", "bors r+", "[x] <!-- *"]);
        for text in [
            "/merge",
            "/Merge now",
            "fine\n  /merge",
            "fine\r/merge",
            "> - /merge",
            "\u{200b}/merge",
            "\u{ff0f}merge",
            "&sol;merge",
            "/merge.",
            "/merge. Thanks",
            "/merge, please",
            "bors r+",
            "bors r+ p=1",
            "bors r+=me",
            "- [x] <!-- approve-all-pending-prs -->**all**",
            "- [X] <!-- rebase-branch=renovate/x -->",
        ] {
            assert!(command(&commands, text).is_some(), "{text:?}");
        }
        for text in [
            "please /merge",
            "/merge.sh",
            "/merge-conflict-notes.md",
            "/merge/x",
            "/merged",
            "bors r",
            "- [ ] <!-- approve-all-pending-prs -->**all**",
            "- [x] done",
        ] {
            assert_eq!(command(&commands, text), None, "{text:?}");
        }
    }

    #[test]
    fn a_star_is_any_text_in_commands_labels_and_logins() {
        let commands = list(&["@*-agent", "@acme/*", "/ok*"]);
        for (text, found) in [
            ("hi @my-agent!", Some("@*-agent")),
            ("@my-agent-x", None),
            ("@acme/bots", Some("@acme/*")),
            ("@acme", None),
            ("a @ b", None),
            ("/ok-to-test", Some("/ok*")),
            ("not /ok", None),
        ] {
            assert_eq!(command(&commands, text), found, "{text:?}");
        }
        assert_eq!(command(&list(&["@*"]), "a @ b"), None);
        assert_eq!(command(&list(&["@*"]), "a @b"), Some("@*"));
        let long = format!("@{}", "a".repeat(MAX_MENTION));
        assert_eq!(command(&list(&["@*a"]), &long), Some("@*a"));
        assert_eq!(command(&list(&["@*b"]), &format!("{long}b")), None, "what is behind the limit is not compared");
        let labels = list(&["auto*merge*", "LGTM"]);
        for (name, found) in [
            ("automerge", true),
            ("Auto-Merge: squash", true),
            (" lgtm ", true),
            ("l\u{200b}gtm", true),
            ("\u{ff4c}gtm", true),
            ("merge", false),
            ("lgtm2", false),
        ] {
            assert_eq!(label(&labels, name).is_some(), found, "{name:?}");
        }
        let agents = list(&["copilot-*", "claude[bot]", "codex"]);
        for (login, found) in [
            ("copilot-swe-agent", true),
            ("Copilot-Pull-Request-Reviewer", true),
            ("claude", true),
            ("codex[bot]", true),
            ("anything[BOT]", true),
            ("@codex", true),
            ("copilot", false),
            ("codexa", false),
        ] {
            assert_eq!(is_agent(&agents, login), found, "{login}");
        }
    }

    proptest! {
        /// A mention is found between any two texts, and no text makes a comparison panic.
        #[test]
        fn a_mention_is_found_in_any_text(before in any::<String>(), behind in any::<String>()) {
            let commands = list(&["@claude"]);
            let word = |c: char| c.is_ascii_alphanumeric();
            let found = command(&commands, &format!("{before}@Claude{behind}")).is_some();
            prop_assert!(found || before.ends_with(word) || behind.starts_with(word));
            prop_assert_eq!(command(&[], &before), None);
            prop_assert!(label(&list(&["*"]), &before).is_some());
            prop_assert!(is_agent(&list(&["*"]), &before));
        }
    }

    #[test]
    fn eight_times_the_text_takes_about_eight_times_as_long() {
        let commands = list(&["@claude", "@*-agent", "/merge", "[x] <!-- *"]);
        for part in ["@", "@a-", "@claud", "&#64;", "&#0", ">", "/merg\n", "[x] <!--", "\u{200b}", "\u{ff20}"] {
            // The best of three: other programs use the machine.
            let time = |size: usize| {
                let text = part.repeat(size / part.len());
                let took = || {
                    let start = std::time::Instant::now();
                    assert_eq!(command(&commands, &text), None, "{part:?}");
                    start.elapsed()
                };
                took().min(took()).min(took())
            };
            let (short, long) = (time(16 << 10), time(128 << 10));
            assert!(long < short * 24, "{part:?}: {short:?} for 16 KiB, {long:?} for 128 KiB");
        }
    }
}
