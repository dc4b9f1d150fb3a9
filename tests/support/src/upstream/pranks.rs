//! Faulty responses, set by a test for paths of its own: slow and wrong ones of the API, and ones of git over HTTP that
//! only a hostile server would send.

use super::sites::{Body, text};
use super::{Shared, Upstream, odd};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The polling interval of a held request.
const POLL: Duration = Duration::from_millis(10);

/// A response of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// An error with this status, in GitHub's usual form.
    Status(u16),
    /// Status 200, and a web page.
    Garbage,
    /// A redirect with status 302 to this URL.
    Redirect(&'static str),
    /// No response until a test sets another one.
    Held,
}

/// A response of github.com.
#[derive(Clone, Debug)]
pub struct Prank {
    /// The number of bytes of the request's body that are read first. The rest is read, too. A prank that is set later
    /// for the path, with fewer bytes, takes effect meanwhile and is then the response.
    pub after: u64,
    /// Its status; 0 breaks the stream without a response.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// Its end.
    pub end: End,
}

/// The end of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At once.
    Whole,
    /// After the whole request has arrived.
    Late,
    /// With trailers.
    Trailers,
    /// The stream breaks.
    Broken,
}

/// The pranks that are set.
#[derive(Default)]
pub(super) struct Pranks {
    api: Mutex<HashMap<String, Api>>,
    git: Mutex<HashMap<String, Prank>>,
}

impl Upstream {
    /// Sets the response for requests to the API below `/repos/` whose paths begin with `below`. The longest matching
    /// prefix wins. `None` restores the true response. The query for the refs of a push has the path
    /// `owner/name/refs/`, followed by the refs.
    pub fn set_api(&self, below: &str, answer: Option<Api>) {
        let mut api = self.shared.pranks.api.lock().unwrap();
        match answer {
            Some(answer) => api.insert(below.to_owned(), answer),
            None => api.remove(below),
        };
    }

    /// Sets the response for requests to github.com whose path and query are `target`. `None` restores git's response.
    pub fn set_git(&self, target: &str, prank: Option<Prank>) {
        let mut git = self.shared.pranks.git.lock().unwrap();
        match prank {
            Some(prank) => git.insert(target.to_owned(), prank),
            None => git.remove(target),
        };
    }
}

/// The response that is set for a request below `below`.
pub(super) async fn api(shared: &Shared, below: &str) -> Option<Response<Body>> {
    loop {
        let set = {
            let api = shared.pranks.api.lock().unwrap();
            let fitting = api.iter().filter(|(path, _)| below.starts_with(path.as_str()));
            fitting.max_by_key(|(path, _)| path.len()).map(|(_, answer)| *answer)
        };
        match set? {
            Api::Status(status) => return Some(text(status, "{\"message\": \"not now\"}")),
            Api::Garbage => return Some(text(200, "<html>not what was asked for</html>")),
            Api::Redirect(to) => {
                let mut response = text(302, "");
                response.headers_mut().insert("location", to.parse().expect("a URL"));
                return Some(response);
            }
            Api::Held => tokio::time::sleep(POLL).await,
        }
    }
}

/// The response that is set for a request to github.com for `target`.
pub(super) fn git(shared: &Shared, target: &str) -> Option<Prank> {
    shared.pranks.git.lock().unwrap().get(target).cloned()
}

/// Responds to `request` by `prank`.
pub(super) async fn play(
    mut prank: Prank,
    request: Request<Incoming>,
    shared: Arc<Shared>,
    index: usize,
) -> io::Result<Response<Body>> {
    let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let mut body = request.into_body();
    let mut came = 0;
    while came < prank.after {
        let Ok(frame) = tokio::time::timeout(POLL, body.frame()).await else {
            prank = git(&shared, &target).filter(|set| set.after < prank.after).unwrap_or(prank);
            continue;
        };
        let Some(Ok(frame)) = frame else { break };
        let length = frame.data_ref().map_or(0, Bytes::len);
        shared.count_body(index, length);
        came += length as u64;
    }
    let (came, all) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            shared.count_body(index, frame.data_ref().map_or(0, Bytes::len));
        }
        drop(came);
    });
    if prank.status == 0 {
        return Err(io::Error::other("a prank"));
    }
    let mut response = Response::builder().status(prank.status);
    for (name, value) in &prank.headers {
        response = response.header(*name, value);
    }
    let body = odd::produced(move |frames| async move {
        if !prank.body.is_empty() {
            let _ = frames.send(Ok(Frame::data(Bytes::from(prank.body)))).await;
        }
        let last = match prank.end {
            End::Whole => return,
            End::Late => {
                let _ = all.await;
                return;
            }
            End::Trailers => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-end", "of-a-prank".parse().unwrap());
                Ok(Frame::trailers(trailers))
            }
            End::Broken => Err(io::Error::other("a prank")),
        };
        let _ = frames.send(last).await;
    });
    Ok(response.body(body).unwrap())
}
