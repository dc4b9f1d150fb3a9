//! The authentication of an App: a JWT (RFC 7519), signed RS256 (RFC 7515) with the App's private key.
//!
//! The key is read for each request for a token, once an hour for each set of repositories. It is not kept in memory.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::json;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::source::file;

/// The longest key file, in bytes. A key of 4,096 bits has 3.3 KB.
const MAX_KEY: u64 = 16 << 10;

/// GitHub's clock may be behind this machine's: "we recommend that you set this 60 seconds in the past"
/// (docs.github.com, "Generating a JSON Web Token").
const BEFORE: SignedDuration = SignedDuration::from_secs(60);

/// GitHub accepts a JWT of at most ten minutes. These have ten minutes, counted from [`BEFORE`].
const AFTER: SignedDuration = SignedDuration::from_secs(540);

/// The `authorization` header of the App's own requests at `now`.
///
/// # Errors
/// If the key can't be read or used. The error is a complete message.
pub fn authorization(id: &str, path: &Path, now: Timestamp) -> Result<HeaderValue, String> {
    let key = key(path)?;
    let problem = |what: &str| format!("the key {} {what}", path.display());
    let claims = json!({
        "iat": now.saturating_sub(BEFORE).map_err(|error| error.to_string())?.as_second(),
        "exp": now.saturating_add(AFTER).map_err(|error| error.to_string())?.as_second(),
        "iss": id,
    });
    let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&json!({"alg": "RS256", "typ": "JWT"})), encode(&claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(|_| problem("cannot sign"))?;
    let mut value = HeaderValue::try_from(format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
        .map_err(|error| error.to_string())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads a key in GitHub's form (PKCS #1), or as PKCS #8.
///
/// # Errors
/// If the file can't be read or holds no RSA key of a supported size.
pub fn key(path: &Path) -> Result<RsaKeyPair, String> {
    let problem = |what: &str| format!("the key {} {what}", path.display());
    let bytes = file::content(path, std::fs::metadata(path), MAX_KEY)?.ok_or_else(|| problem("is not there"))?;
    let pem = SecretSlice::from(bytes);
    let key = PrivateKeyDer::from_pem_slice(pem.expose_secret()).map_err(|_| problem("is no private key in PEM"))?;
    match &key {
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        _ => return Err(problem("is no RSA key")),
    }
    .map_err(|_| problem("is no RSA key of 2,048 to 4,096 bits"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub mod tests {
    use super::*;
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    /// A key of no real App.
    pub const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/source/app/fixture.pem");

    fn decoded(part: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(part).unwrap()
    }

    #[test]
    fn it_says_who_for_ten_minutes_and_is_signed() {
        let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let value = authorization("Iv23liX", Path::new(FIXTURE), now).unwrap();
        assert_eq!(format!("{value:?}"), "Sensitive");
        let jwt = value.to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let (signed, signature) = jwt.rsplit_once('.').unwrap();
        let (head, claims) = signed.split_once('.').unwrap();
        assert_eq!(decoded(head), br#"{"alg":"RS256","typ":"JWT"}"#);
        let claims: serde_json::Value = serde_json::from_slice(&decoded(claims)).unwrap();
        let at = now.as_second();
        assert_eq!(claims, json!({"iss": "Iv23liX", "iat": at - 60, "exp": at + 540}));
        let key = key(Path::new(FIXTURE)).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public().as_ref());
        public.verify(signed.as_bytes(), &decoded(signature)).unwrap();
        assert!(public.verify(b"something else", &decoded(signature)).is_err());
    }

    #[test]
    fn both_forms_of_a_key_are_read_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        let wrong = |content: &[u8], word: &str| {
            std::fs::write(&path, content).unwrap();
            let problem = key(&path).unwrap_err();
            assert!(problem.contains(word) && problem.contains("key.pem"), "{problem}");
        };
        assert!(key(&path).unwrap_err().contains("is not there"));
        wrong(b"", "no private key");
        wrong(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no RSA key of");
        wrong(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes(), "no RSA key of");
        wrong(&[b'x'; MAX_KEY as usize + 1], "longer than");
        // PKCS #8 is PKCS #1 in a wrapper of a fixed head (RFC 5208 section 5).
        let der = PrivateKeyDer::from_pem_file(FIXTURE).unwrap();
        let inner = der.secret_der();
        let length = |length: usize| [&[0x82][..], &u16::try_from(length).unwrap().to_be_bytes()].concat();
        let octets = [&[4][..], &length(inner.len()), inner].concat();
        let head = b"\x02\x01\x00\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
        let whole = [&[0x30][..], &length(head.len() + octets.len()), head, &octets].concat();
        let pem = base64::engine::general_purpose::STANDARD.encode(whole);
        std::fs::write(&path, format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n")).unwrap();
        key(&path).unwrap();
    }
}
