//! Serves DNS over a Unix socket, in the framing of TCP (RFC 1035 section 4.2.2: two bytes of length, then the
//! message). Envoy's resolver connects to a loopback port of Envoy itself, which Envoy forwards to this socket.

use std::sync::Arc;

use anyhow::Context;
use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::Resolver;

/// The most connections at a time. Envoy's resolver has one. Further connections wait until one ends.
const CONNECTIONS: usize = 64;

/// The most queries under way on all connections. Further queries get SERVFAIL. Envoy sends two queries for each name.
pub const OUTSTANDING: usize = 512;

/// The longest query, in bytes. A name has at most 255 bytes, and EDNS options add few. A longer query closes its
/// connection.
const MAX_QUERY: usize = 512;

/// The most responses that wait for the peer to read them. While the peer reads none, no further queries are read.
const UNREAD: usize = 16;

/// Serves connections until the socket fails.
///
/// # Errors
/// If the socket fails.
pub async fn serve(socket: UnixListener, resolver: Arc<Resolver>) -> anyhow::Result<()> {
    let outstanding = Arc::new(Semaphore::new(OUTSTANDING));
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        let (stream, _) = socket.accept().await.context("the resolver's socket failed")?;
        connections.spawn(connection(stream, Arc::clone(&resolver), Arc::clone(&outstanding)));
    }
}

/// Serves one connection. Responses are sent as soon as they are ready, not in order (RFC 7766 section 7).
async fn connection(stream: UnixStream, resolver: Arc<Resolver>, outstanding: Arc<Semaphore>) {
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut answered) = mpsc::channel::<Vec<u8>>(UNREAD);
    let write = async move {
        while let Some(answer) = answered.recv().await {
            let Ok(length) = u16::try_from(answer.len()) else { continue };
            if writer.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await.is_err() {
                return;
            }
        }
    };
    let read = async move {
        let mut queries = JoinSet::new();
        while let Some(query) = next(&mut reader).await {
            while queries.try_join_next().is_some() {}
            let Ok(room) = answers.reserve().await else { return };
            drop(room);
            let (resolver, answers) = (Arc::clone(&resolver), answers.clone());
            let permit = Arc::clone(&outstanding).try_acquire_owned().ok();
            queries.spawn(async move {
                let answer = answer(&query, &resolver, permit.is_some()).await;
                if let Some(bytes) = answer.and_then(|answer| answer.to_vec().ok()) {
                    // An error means that the connection is closed.
                    drop(answers.send(bytes).await);
                }
            });
        }
        // The peer may have sent its last query, and still wait for responses.
        while queries.join_next().await.is_some() {}
    };
    tokio::join!(read, write);
}

/// The next message. Returns `None` at the end of the connection, or if the message is too long.
async fn next(reader: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let length = usize::from(reader.read_u16().await.ok()?);
    if length > MAX_QUERY {
        tracing::info!(length, "a DNS query is too long; its connection is closed");
        return None;
    }
    let mut message = vec![0; length];
    reader.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// The response to `query`. Returns `None` if it is not a DNS query.
async fn answer(query: &[u8], resolver: &Resolver, room: bool) -> Option<Message> {
    let query = Message::from_vec(query).ok().filter(|query| query.metadata.message_type == MessageType::Query)?;
    let (code, records) = match question(&query) {
        Err(code) => (code, Vec::new()),
        Ok(_) if !room => (ResponseCode::ServFail, Vec::new()),
        Ok(question) => resolver.answer(question.name(), question.query_type()).await,
    };
    Some(respond(&query, code, records))
}

/// The question in `query`, or the error to respond with.
fn question(query: &Message) -> Result<&Query, ResponseCode> {
    if query.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    match query.queries.as_slice() {
        [question] if question.query_class() == DNSClass::IN => Ok(question),
        [_] => Err(ResponseCode::Refused),
        _ => Err(ResponseCode::FormErr),
    }
}

fn respond(query: &Message, code: ResponseCode, records: Vec<Record>) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_queries(query.queries.iter().cloned());
    answer.insert_answers(records);
    answer
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::dns::nameservers::Nameservers;
    use base::problems::Problems;
    use hickory_resolver::proto::rr::{Name, RecordType};
    use registry::Registry;
    use registry::store::Store;
    use std::time::Duration;

    /// A resolver whose policy allows a.example.com, and whose nameserver is a closed port.
    fn resolver(directory: &std::path::Path) -> Resolver {
        let mut policy = policy::Policy::deny_all();
        policy.egress.add(policy::HostPattern::parse("a.example.com").unwrap(), policy::Access::full());
        let registry = Registry::open(Store::open(&directory.join("registry.redb")).unwrap(), policy).unwrap();
        let nobody = Nameservers::new(vec!["127.0.0.1:1".parse().unwrap()], OUTSTANDING);
        Resolver::new(nobody, registry, Problems::default())
    }

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    async fn ask(resolver: &Resolver, query: &Message) -> Message {
        answer(&query.to_vec().unwrap(), resolver, true).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_no_question_for_an_allowed_name_is_answered_without_a_nameserver() {
        let directory = tempfile::tempdir().unwrap();
        let resolver = resolver(directory.path());
        let mut two = query("a.example.com.", RecordType::A);
        two.add_query(Query::query(Name::from_ascii("b.example.com.").unwrap(), RecordType::A));
        let mut chaos = query("a.example.com.", RecordType::A);
        chaos.queries[0].set_query_class(DNSClass::CH);
        let mut notify = query("a.example.com.", RecordType::A);
        notify.metadata.op_code = OpCode::Notify;
        let cases = [
            (query("b.example.com.", RecordType::A), ResponseCode::NXDomain),
            (query("localhost.", RecordType::A), ResponseCode::NXDomain),
            (query("a\\.example.com.", RecordType::A), ResponseCode::NXDomain),
            (query("A.EXAMPLE.com.", RecordType::TXT), ResponseCode::NoError),
            (query("a.example.com.", RecordType::HTTPS), ResponseCode::NoError),
            (query("a.example.com.", RecordType::ANY), ResponseCode::NoError),
            (two, ResponseCode::FormErr),
            (chaos, ResponseCode::Refused),
            (notify, ResponseCode::NotImp),
        ];
        for (query, code) in cases {
            let answer = ask(&resolver, &query).await;
            assert_eq!(answer.metadata.response_code, code, "{query:?}");
            assert_eq!((answer.metadata.id, answer.answers.len()), (query.metadata.id, 0));
        }
        assert!(resolver.problems.list().is_empty(), "no nameserver was asked");
    }

    #[tokio::test]
    async fn nameservers_that_do_not_answer_are_a_problem_after_the_third_query() {
        let directory = tempfile::tempdir().unwrap();
        let resolver = resolver(directory.path());
        for asked in 1..=3 {
            let answer = ask(&resolver, &query("a.example.com.", RecordType::A)).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
            assert_eq!(resolver.problems.list().len(), usize::from(asked == 3), "{:?}", resolver.problems.list());
        }
    }

    #[tokio::test]
    async fn without_room_it_is_servfail_and_an_answer_is_no_query() {
        let directory = tempfile::tempdir().unwrap();
        let resolver = resolver(directory.path());
        let asked = query("b.example.com.", RecordType::A);
        let refused = answer(&asked.to_vec().unwrap(), &resolver, false).await.unwrap();
        assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
        let reflected = respond(&asked, ResponseCode::NoError, Vec::new()).to_vec().unwrap();
        assert!(answer(&reflected, &resolver, true).await.is_none());
        assert!(answer(b"", &resolver, true).await.is_none());
    }

    #[tokio::test]
    async fn a_query_of_the_longest_length_is_read_and_a_longer_one_ends_the_connection() {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixListener::bind(directory.path().join("dns.sock")).unwrap();
        let server = tokio::spawn(serve(socket, Arc::new(resolver(directory.path()))));
        let mut bytes = query("b.example.com.", RecordType::A).to_vec().unwrap();
        // Bytes after the records are ignored.
        bytes.resize(MAX_QUERY, 0);
        let mut stream = UnixStream::connect(directory.path().join("dns.sock")).await.unwrap();
        for _ in 0..2 {
            stream.write_all(&[&[2, 0][..], &bytes].concat()).await.unwrap();
            let length = stream.read_u16().await.unwrap();
            stream.read_exact(&mut vec![0; usize::from(length)]).await.unwrap();
        }
        stream.write_all(&[2, 1]).await.unwrap();
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read_u16()).await.unwrap();
        assert!(end.is_err());
        server.abort();
    }
}
