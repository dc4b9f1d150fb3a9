//! The search for a secret in texts where no secret may be.

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use std::path::Path;

/// Checks that none of `texts` (name and content) contains `secret`: raw, which for the fixtures is also their
/// URL-encoded form, or in base64 of any alignment, alone or after a user name.
///
/// # Panics
/// If a text contains it. The message names the text.
#[track_caller]
pub fn assert_absent(secret: &str, texts: &[(String, Vec<u8>)]) {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    assert!(secret.len() > 8 && secret.bytes().all(unreserved), "a fixture secret looks otherwise");
    for form in forms(secret) {
        for (name, text) in texts {
            let found = text.windows(form.len()).any(|window| window == form.as_bytes());
            assert!(!found, "{name} holds the secret as {form}");
        }
    }
}

fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned()];
    for lead in ["", "x", "xx"] {
        let encoded = BASE64_STANDARD_NO_PAD.encode(format!("{lead}{secret}"));
        // The first and the last characters also carry bits of the neighbours.
        let skip = if lead.is_empty() { 0 } else { lead.len() + 1 };
        forms.push(encoded[skip..encoded.len() - 2].to_owned());
    }
    forms
}

/// All files below `directory`: path and content.
pub fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    found
}
