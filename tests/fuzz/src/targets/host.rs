//! A host name. The parser accepts exactly the names that a direct implementation of the rules accepts, in one
//! spelling.

use policy::{Authority, HostName};

/// Runs one input.
pub fn run(input: &[u8]) {
    // For an arbitrary authority, only a panic is a finding.
    let _ = Authority::parse(input);
    let parsed = HostName::parse(input);
    assert_eq!(parsed.is_ok(), is_name(input), "{parsed:?}");
    let Ok(name) = parsed else { return };
    let text = name.as_str();
    assert!(!text.bytes().any(|byte| byte.is_ascii_uppercase()) && !text.ends_with('.'), "{text}");
    assert_eq!(name.parents().count(), text.matches('.').count());
    for spelling in [text.to_owned(), format!("{text}."), text.to_ascii_uppercase()] {
        assert_eq!(HostName::parse(spelling.as_bytes()).as_ref(), Ok(&name));
        let authority = Authority::parse(format!("{spelling}:443").as_bytes()).expect("a host and a port");
        assert_eq!((&authority.host, authority.port), (&name, Some(443)));
    }
    // A host name contains no byte that is a delimiter in a URL.
    for byte in "/?#@:%[]\\ \0\r\n".chars() {
        assert!(HostName::parse(format!("{text}{byte}").as_bytes()).is_err());
    }
}

fn is_name(raw: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(raw) else { return false };
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let labels: Vec<&str> = text.split('.').collect();
    let last = labels[labels.len() - 1];
    let label = |label: &&str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_'))
    };
    let number = match last.strip_prefix("0x") {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => last.chars().all(|c| c.is_ascii_digit()),
    };
    text.len() <= 253 && labels.len() >= 2 && labels.iter().all(label) && !number && last != "localhost"
}
