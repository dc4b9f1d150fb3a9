//! Archives and files of public repositories, for clients without a credential.

use super::sites::{Body, text};
use super::{Shared, Visibility, host_git};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Response;

/// The response of codeload.github.com (`/OWNER/REPO/tar.gz/REF`) and raw.githubusercontent.com
/// (`/OWNER/REPO/REF/PATH`). For a repository that does not exist it repeats the path.
pub(super) fn serve(host: &str, path: &str, shared: &Shared) -> Response<Body> {
    let mut parts = path.trim_start_matches('/').splitn(4, '/');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (owner, name, third, fourth) = (next(), next(), next(), next());
    let repo = format!("{owner}/{name}");
    match shared.visibility(&repo) {
        None => return text(200, format!("raw {path}")),
        Some(Visibility::Private) => return text(404, "404: Not Found"),
        Some(Visibility::Public) => {}
    }
    let mut git = host_git(&shared.directory.join(format!("{repo}.git")));
    match host {
        "codeload.github.com" => git.args(["archive", "--format=tar.gz", &format!("--prefix={name}/"), &fourth]),
        _ => git.args(["show", &format!("{third}:{fourth}")]),
    };
    let output = git.output().unwrap();
    if !output.status.success() {
        return text(404, String::from_utf8_lossy(&output.stderr));
    }
    Response::new(Full::new(Bytes::from(output.stdout)).map_err(|never| match never {}).boxed_unsync())
}
