//! `GET /internal/audit`: the last lines as JSON lines. With `follow=1`: server-sent events, one for each line.
//!
//! A slow reader loses lines, and is sent the number of lost lines. The audit never waits for a reader.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State, rejection::QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::Stream;
use policy::Decision;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

use super::{Audit, Key, Record};

/// The number of lines if the client sets no `last`.
const LAST: usize = 100;

/// Followers at a time. Each has a queue of [`super::FOLLOWER`] lines.
const FOLLOWERS: usize = 32;

/// The interval of keep-alive messages to an idle follower.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Clone)]
struct Api {
    audit: Arc<Audit>,
    seats: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

/// The route. The streams of followers end when `stopped` turns true.
pub fn routes(audit: Arc<Audit>, stopped: watch::Receiver<bool>) -> Router {
    let seats = Arc::new(Semaphore::new(FOLLOWERS));
    Router::new().route("/internal/audit", get(show)).with_state(Api { audit, seats, stopped })
}

/// The query parameters.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    follow: Option<Switch>,
    last: Option<usize>,
    container: Option<String>,
    verdict: Option<Decision>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Switch {
    #[serde(rename = "0")]
    Off,
    #[serde(rename = "1")]
    On,
}

/// The filter on lines.
#[derive(Clone, Debug, Default)]
struct Choice {
    /// An id, or an address in any notation.
    container: Option<(String, Option<IpAddr>)>,
    verdict: Option<Decision>,
}

impl Choice {
    fn of(wanted: &Wanted) -> Self {
        let container = wanted.container.clone().map(|text| {
            let address = text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
            (text, address)
        });
        Self { container, verdict: wanted.verdict }
    }

    fn takes(&self, key: &Key) -> bool {
        let container = self.container.as_ref().is_none_or(|(id, address)| {
            key.container_id.as_ref() == Some(id) || (address.is_some() && key.container_ip == *address)
        });
        container && self.verdict.is_none_or(|verdict| verdict == key.verdict)
    }
}

async fn show(State(api): State<Api>, wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
    let refuse = |status, error: String| (status, Json(serde_json::json!({ "error": error }))).into_response();
    let wanted = match wanted {
        Ok(Query(wanted)) => wanted,
        Err(error) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, error.body_text()),
    };
    let choice = Choice::of(&wanted);
    let follow = wanted.follow == Some(Switch::On);
    let (recent, receiver) = api.audit.follow();
    // By default, a follower gets only new lines.
    let last = wanted.last.unwrap_or(if follow { 0 } else { LAST });
    let mut recent: Vec<Record> = recent.into_iter().filter(|record| choice.takes(&record.key)).collect();
    recent.drain(..recent.len().saturating_sub(last));
    if !follow {
        let lines: String = recent.iter().map(|record| format!("{}\n", record.json)).collect();
        return ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response();
    }
    let Ok(seat) = api.seats.try_acquire_owned() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{FOLLOWERS} audit followers is the limit; close one"));
    };
    let follower = Follower { recent: recent.into_iter(), receiver, choice, stopped: api.stopped, _seat: seat };
    Sse::new(events(follower)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// A client that follows the audit.
struct Follower {
    recent: std::vec::IntoIter<Record>,
    receiver: broadcast::Receiver<Record>,
    choice: Choice,
    stopped: watch::Receiver<bool>,
    _seat: OwnedSemaphorePermit,
}

/// An event for a follower.
#[derive(Clone, Debug)]
enum Sent {
    Line(Record),
    /// The number of lost lines, of all containers: the follower read too slowly.
    Lost(u64),
}

impl Follower {
    /// The next event. `None` if the gateway stops.
    async fn next(&mut self) -> Option<Sent> {
        if let Some(record) = self.recent.next() {
            return Some(Sent::Line(record));
        }
        loop {
            let received = tokio::select! {
                received = self.receiver.recv() => received,
                _ = self.stopped.wait_for(|stopped| *stopped) => return None,
            };
            match received {
                Ok(record) if self.choice.takes(&record.key) => return Some(Sent::Line(record)),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(lost)) => return Some(Sent::Lost(lost)),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

fn events(follower: Follower) -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold(follower, |mut follower| async {
        let event = match follower.next().await? {
            Sent::Line(record) => Event::default().data(&*record.json),
            Sent::Lost(lines) => Event::default().event("lost").data(format!(r#"{{"lost":{lines}}}"#)),
        };
        Some((Ok(event), follower))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn key(id: Option<&str>, address: &str) -> Key {
        let container_ip = Some(address.parse().unwrap());
        Key { container_id: id.map(str::to_owned), container_ip, verdict: Decision::Deny }
    }

    fn record(number: usize) -> Record {
        Record { key: Arc::new(key(None, "10.0.0.1")), json: number.to_string().into() }
    }

    #[test]
    fn lines_are_chosen_by_container_and_verdict() {
        let known = key(Some("box"), "10.0.0.5");
        let of = |container: Option<&str>, verdict| {
            Choice::of(&Wanted { container: container.map(str::to_owned), verdict, ..Default::default() })
        };
        for (choice, taken) in [
            (of(None, None), true),
            (of(Some("box"), None), true),
            (of(Some("10.0.0.5"), None), true),
            (of(Some("::ffff:10.0.0.5"), Some(Decision::Deny)), true),
            (of(Some("box"), Some(Decision::Allow)), false),
            (of(Some("bo"), None), false),
            (of(Some("10.0.0.50"), None), false),
        ] {
            assert_eq!(choice.takes(&known), taken, "{choice:?}");
        }
        assert!(!of(Some(""), None).takes(&key(None, "10.0.0.5")));
    }

    #[tokio::test]
    async fn a_follower_gets_the_last_lines_then_new_ones_and_is_told_what_it_lost() {
        let (sender, receiver) = broadcast::channel(4);
        let (stop, stopped) = watch::channel(false);
        let mut follower = Follower {
            recent: vec![record(0)].into_iter(),
            receiver,
            choice: Choice::default(),
            stopped,
            _seat: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
        };
        for number in 1..=10 {
            sender.send(record(number)).unwrap();
        }
        let line = |sent: Option<Sent>| match sent {
            Some(Sent::Line(record)) => record.json.parse::<usize>().unwrap(),
            other => unreachable!("{other:?}"),
        };
        assert_eq!(line(follower.next().await), 0);
        assert!(matches!(follower.next().await, Some(Sent::Lost(6))));
        for number in 7..=10 {
            assert_eq!(line(follower.next().await), number);
        }
        stop.send_replace(true);
        assert!(follower.next().await.is_none());
    }
}
