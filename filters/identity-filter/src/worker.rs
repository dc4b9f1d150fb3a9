//! The requests of one worker, from their headers to their end. A pure state machine: `filter` reports each event with
//! its facts, and carries out the returned [`Step`].
//!
//! **Invariant:** a request passes only through [`Worker::conclude`] with an outcome that allows it. Every error before
//! that becomes a refusal.

use crate::life::{Forward, Pass, Phase, Request, Step};
use crate::limits::{Counted, Limits, RATE, too_many};
use crate::live::{Live, Right};
use crate::memory::{Identity, Lookup, LookupResult, Memory};
use crate::refused::{Bodies, Refused};
use crate::verdict::{self, Judgement, Outcome, Place, unavailable};
use crate::waiting::{Held, Settled, Waiting};
use jiff::Timestamp;
use policy::mark::Judged;
use policy::{Authority, CREDENTIAL_HEADERS, Denial, Form, HostName, Note, Refusal, redirect, render};
use std::net::IpAddr;
use std::time::Duration;

/// The period in which the root context checks the stream, the requests that have waited too long, and the requests
/// whose record has ended. After a record expires, its container's connections must end within a second; Envoy takes
/// half of that second to close a connection.
pub const TICK: Duration = Duration::from_millis(100);
/// How long a request waits for the registry's response, or for the first snapshot.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of a held request's body that Envoy keeps. The next read of the connection must still fit below
/// Envoy's own limit (4 MiB, `body_buffer` in the control plane's `route.rs`): Envoy's 413 would not state the reason.
pub const MAX_HELD_BODY: usize = 2 << 20;

/// A hostcall has failed. The shell has written the error to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// How the judgement of a request begins.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a callback has one value and stores none")]
pub enum Arrival {
    /// A CONNECT. [`Worker::tunnel`] needs the listener and the time.
    Tunnel,
    /// Any other request, from this address. [`Worker::identify`] needs the server name of the TLS handshake.
    Request(IpAddr),
    /// The request is judged already.
    Judged(Step),
}

/// The result of [`Worker::identify`].
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a callback has one value and stores none")]
pub enum Identified {
    /// The container is known. [`Worker::judge`] needs the time.
    Ready(Ready),
    /// The request is held or refused.
    Step(Step),
}

/// A request whose container is known.
#[derive(Debug)]
pub struct Ready {
    /// The request.
    pub request: Request,
    sni: Option<Vec<u8>>,
    settled: Settled,
}

/// The state of one worker.
#[derive(Debug, Default)]
pub struct Worker {
    /// The worker's copy of the registry.
    pub memory: Memory,
    waiting: Waiting,
    live: Live,
    bodies: Bodies,
    limits: Limits,
    /// The time that the ticks have counted: up to one [`TICK`] behind the clock.
    uptime: Duration,
}

impl Worker {
    /// A tick, `passed` after the last one: a [`TICK`], or less while work is left over.
    pub fn tick(&mut self, passed: Duration) {
        self.uptime = self.uptime.saturating_add(passed);
    }

    /// The headers of `request` have arrived from `source`.
    pub fn arrive(&mut self, request: &Request, source: Option<IpAddr>) -> Arrival {
        if request.facts.method == b"CONNECT" {
            return Arrival::Tunnel;
        }
        let Some(source) = source else { return Arrival::Judged(self.deny(request, verdict::no_source(), None)) };
        match self.enter(request, source, Counted::Stream) {
            Ok(()) => Arrival::Request(source),
            Err(denial) => Arrival::Judged(self.deny(request, denial, Some(source))),
        }
    }

    /// Refuses a request of an address that floods: it has sent far more than `per_second`, and not waited. The rest of its
    /// bytes is dropped with its tunnels.
    pub fn floods(&mut self, request: &Request, source: IpAddr, per_second: u32) -> Step {
        self.live.floods(source);
        let reason = format!(
            "rate limit: your address may send {per_second} requests per second, and its connections are closed; wait for responses before you send more"
        );
        self.deny(request, too_many(RATE, reason), Some(source))
    }

    /// Judges a CONNECT that arrived at `place`.
    pub fn tunnel(&mut self, request: &Request, source: Option<IpAddr>, place: Place, now: Timestamp) -> Step {
        let outcome = match self.admit_tunnel(request, source, now) {
            Ok(()) => verdict::on_connect(&request.facts, place),
            Err(denial) => Outcome::Refuse(denial),
        };
        let judgement = Judgement::unsettled(outcome, source, &self.memory);
        self.conclude(request, judgement)
    }

    /// Identifies the container at `source`, or holds the request until the container is known. `sni` is the server
    /// name of the TLS handshake.
    pub fn identify(&mut self, request: &Request, source: IpAddr, sni: Option<Vec<u8>>) -> Identified {
        if let Identity::Settled(container, policy) = self.memory.identify(source, &Lookup::NotMade) {
            let settled = Settled { container, policy };
            return Identified::Ready(Ready { request: request.clone(), sni, settled });
        }
        Identified::Step(match self.hold(request, source, sni) {
            Ok(()) => Step::Lookup(source),
            Err(denial) => self.deny(request, denial, Some(source)),
        })
    }

    /// Judges a request whose container is known.
    pub fn judge(&mut self, ready: &Ready, now: Result<Timestamp, Broken>) -> Step {
        let Ready { request, sni, settled: Settled { container, policy } } = ready;
        let Ok(now) = now else { return self.broken(request) };
        let (facts, key) = (&request.facts, self.memory.key());
        let judgement = verdict::on_request(facts, sni.as_deref(), container.as_deref(), policy, key, now);
        self.conclude(request, judgement)
    }

    /// A part of the body has arrived, `size` bytes with the bytes that wait before it; or, with `end`, the trailers.
    /// Returns whether the shell drops these bytes. [`Worker::after_body`] takes the result.
    pub fn drops_body(&mut self, request: &Request, size: usize, end: bool) -> bool {
        let progress = &request.progress;
        progress.ended.set(end);
        match progress.phase.get() {
            Phase::Dropping => true,
            // Beyond the limit, these and all later bytes are dropped. The request can't pass any more, and its refusal
            // still states the reason.
            Phase::Held => {
                progress.cut.set(progress.cut.get() || size > MAX_HELD_BODY);
                progress.cut.get()
            }
            Phase::New | Phase::Passed | Phase::Refused => false,
        }
    }

    /// The part of [`Worker::drops_body`] was dropped or kept. `dropped` is an error if Envoy didn't drop the part.
    pub fn after_body(&mut self, request: &Request, size: usize, dropped: Result<(), Broken>) -> Step {
        match (request.phase(), dropped) {
            (Phase::Passed, _) => Step::Continue,
            (Phase::Dropping, Ok(())) => {
                let due = self.bodies.dropped(request.id, size, request.progress.ended.get(), self.uptime);
                due.as_ref().map_or(Step::Wait, respond)
            }
            (Phase::Dropping, Err(Broken)) => self.bodies.take(request.id).as_ref().map_or(Step::Wait, respond),
            (Phase::Held, Err(Broken)) => self.failed(request),
            (Phase::Held, Ok(())) | (Phase::New | Phase::Refused, _) => Step::Wait,
        }
    }

    /// The headers, a fact for the judgement, or an effect of a [`Step`] has failed. The request is refused, unless it
    /// was refused before.
    pub fn failed(&mut self, request: &Request) -> Step {
        match request.phase() {
            Phase::New => self.broken(request),
            Phase::Held if self.waiting.take(request.id).is_some() => self.broken(request),
            Phase::Passed => {
                self.live.withdraw(request.id);
                self.broken(request)
            }
            Phase::Held | Phase::Dropping | Phase::Refused => Step::Wait,
        }
    }

    /// The address that a held request waits for.
    pub fn awaited(&self, request: &Request) -> Option<IpAddr> {
        self.waiting.source(request.id)
    }

    /// The registry's response for a held request has arrived. [`Worker::take_ready`] may return the request now.
    pub fn answered(&mut self, request: &Request, result: LookupResult) {
        self.waiting.answered(request.id, result);
    }

    /// Refuses a held request, because the lookup has failed.
    pub fn unanswered(&mut self, request: &Request) -> Step {
        self.waiting.take(request.id).map_or(Step::Wait, |held| self.give_up(&held))
    }

    /// The `location` of an answer with `status` and `headers`, if it redirects the container to a URL that it may then
    /// request. `None` if the answer stays as it is.
    pub fn redirect(
        &self,
        request: &Request,
        status: u16,
        headers: &[(String, Vec<u8>)],
        now: Timestamp,
    ) -> Option<Vec<u8>> {
        let generation = request.progress.redirects.get()?;
        self.memory.key()?.redirect(generation, status, headers, now)
    }

    /// Takes out the held requests that can be judged now, at most `most`.
    pub fn take_ready(&mut self, most: usize) -> Vec<Ready> {
        let settled = self.waiting.take_settled(&self.memory, most);
        for (held, _) in settled.iter().filter(|(_, settled)| settled.container.is_some()) {
            self.limits.known(held.source);
        }
        settled.into_iter().map(|(Held { request, sni, .. }, settled)| Ready { request, sni, settled }).collect()
    }

    /// Takes out the held requests that have waited too long for their container, at most `most`.
    pub fn take_overdue(&mut self, most: usize) -> Vec<Held> {
        self.waiting.take_overdue(self.uptime, most)
    }

    /// Refuses a request that was held, because its container stays unknown.
    pub fn give_up(&mut self, held: &Held) -> Step {
        let denial = unavailable("the registry doesn't answer, so you can't be identified; try again");
        self.deny(&held.request, denial, Some(held.source))
    }

    /// Takes out the refused requests whose response is due by now, at most `most`.
    pub fn take_due(&mut self, most: usize) -> Vec<Refused> {
        self.bodies.take_overdue(self.uptime, most)
    }

    /// The requests under way whose record has gone, was replaced, or has expired.
    pub fn without_right(&mut self, now: Timestamp) -> Vec<u32> {
        self.live.without_right(&self.memory, now)
    }

    /// The tunnels whose record has gone, was replaced, or has expired: one tick later than the requests.
    pub fn tunnels_without_right(&mut self, now: Timestamp) -> Vec<u32> {
        self.live.tunnels_without_right(&self.memory, now)
    }

    /// The audit note of a connection from `source` that is refused before its first byte.
    pub fn note_of(&self, source: IpAddr, denial: Denial) -> Note {
        Judgement::unsettled(Outcome::Refuse(denial), Some(source), &self.memory).note("-")
    }

    /// The request's context has ended.
    pub fn ended(&mut self, request: &Request) {
        drop(self.waiting.take(request.id));
        drop(self.bodies.take(request.id));
        self.live.remove(request.id);
        if let Some((source, kind)) = request.progress.counted.take() {
            self.limits.leave(source, kind);
        }
    }

    fn enter(&mut self, request: &Request, source: IpAddr, kind: Counted) -> Result<(), Denial> {
        let known = self.memory.container_id(source).is_some();
        self.limits.enter(source, kind, known, self.uptime)?;
        request.progress.counted.set(Some((source, kind)));
        Ok(())
    }

    /// Counts a CONNECT. A CONNECT to a host that the policy doesn't list counts against a second limit: it may need a
    /// new leaf certificate.
    fn admit_tunnel(&mut self, request: &Request, source: Option<IpAddr>, now: Timestamp) -> Result<(), Denial> {
        let Some(source) = source else { return Err(verdict::no_source()) };
        self.enter(request, source, Counted::Tunnel)?;
        self.live.open(request.id, source, &self.memory, now);
        let authority = request.facts.authority.as_deref().and_then(|authority| Authority::parse(authority).ok());
        match authority {
            Some(to) if !self.memory.names_host(source, &to.host) => self.limits.strange_host(source, self.uptime),
            // An invalid name is refused because of its form.
            _ => Ok(()),
        }
    }

    fn hold(&mut self, request: &Request, source: IpAddr, sni: Option<Vec<u8>>) -> Result<(), Denial> {
        self.limits.count_lookup(source, self.uptime)?;
        // The uptime is up to one tick behind.
        let until = self.uptime.saturating_add(PATIENCE).saturating_add(TICK);
        self.waiting.hold(Held { request: request.clone(), sni, source, lookup: Lookup::Pending, until })?;
        request.progress.phase.set(Phase::Held);
        Ok(())
    }

    fn broken(&mut self, request: &Request) -> Step {
        self.deny(request, unavailable("the gateway can't judge this request; try again"), None)
    }

    fn deny(&mut self, request: &Request, denial: Denial, source: Option<IpAddr>) -> Step {
        let judgement = Judgement::unsettled(Outcome::Refuse(denial), source, &self.memory);
        self.conclude(request, judgement)
    }

    /// The step of a judgement. Every judgement ends here.
    fn conclude(&mut self, request: &Request, judgement: Judgement) -> Step {
        let Request { id, facts, progress } = request;
        let judgement = if progress.cut.get() { judgement.of_a_part() } else { judgement };
        let note = judgement.note(&facts.request_id);
        let forward = match judgement.outcome {
            Outcome::Refuse(denial) => return Step::Refuse(note, self.refuse(request, denial)),
            Outcome::Open(_) => None,
            Outcome::Forward(to, _) => {
                let source = judgement.right.filter(|_| redirect::is_source(&to));
                progress.redirects.set(source.map(|right| right.generation));
                Some(rewrite(request, &to, judgement.record, judgement.right, judgement.path))
            }
        };
        let resume = progress.phase.replace(Phase::Passed) == Phase::Held;
        if let Some(right) = judgement.right {
            self.live.insert(*id, right);
        }
        Step::Pass(Pass { note, forward, resume })
    }

    /// Refuses the request. Returns the response if it is sent now, and not when the body has arrived.
    fn refuse(&mut self, request: &Request, denial: Denial) -> Option<Refusal> {
        let Request { facts, progress, .. } = request;
        let endless = facts.upgrade || facts.method == b"CONNECT";
        let late = denial.rule == RATE;
        let refused = Refused::new(request, denial, self.uptime);
        if (!progress.ended.get() && !endless) || late {
            progress.phase.set(Phase::Dropping);
            // Beyond the limit of awaited bodies the refusal is sent now.
            if self.bodies.await_body(refused.clone()) {
                return None;
            }
        }
        Some(response(&refused))
    }
}

/// The step that sends the response of a refused request.
pub fn respond(refused: &Refused) -> Step {
    Step::Respond(response(refused))
}

fn response(refused: &Refused) -> Refusal {
    let Request { facts, progress, .. } = &refused.request;
    progress.phase.set(Phase::Refused);
    let form = Form::of(facts.authority.as_deref().unwrap_or_default(), &facts.path);
    render(&refused.denial, form, &facts.request_id)
}

/// Sets the authority to the host that was judged, and removes the headers that name another host or peer.
///
/// With a `path`, GitHub has given the container the URL: the request goes out without a credential.
fn rewrite(
    request: &Request,
    to: &HostName,
    record: Option<Vec<u8>>,
    right: Option<Right>,
    path: Option<Vec<u8>>,
) -> Forward {
    let facts = &request.facts;
    let same = facts.authority.as_deref() == Some(to.as_str().as_bytes());
    // These headers stay: the github filter refuses the request because of them, and its refusal names the reason.
    let stays = |name: &&String| policy::github::refuses_header(to, name);
    let own = CREDENTIAL_HEADERS.iter().filter(|_| path.is_some()).map(|name| (*name).to_owned());
    let removed = facts.stripped.iter().filter(|name| !stays(name)).cloned().chain(own).collect();
    let judged =
        |right: Right| Judged { generation: right.generation, host: to, method: &facts.method, path: &facts.path };
    let mark = right.filter(|_| path.is_none()).map(|right| judged(right).identity());
    // Only methods that change nothing (RFC 9110, section 9.2.1), and no body: for a retry Envoy would keep a copy of the
    // body, and with filters that hold it, has sent it twice (envoyproxy/envoy#45470).
    let again = request.progress.bare.get() && [&b"GET"[..], b"HEAD", b"OPTIONS"].contains(&&facts.method[..]);
    Forward { record, mark, path, authority: (!same).then(|| to.as_str().to_owned()), removed, again }
}

#[cfg(test)]
mod tests;
