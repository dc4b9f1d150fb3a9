//! More of the internet for tests of DNS: a nameserver with scripted answers, a host at a public address, and a trap
//! for connections that must never come.

use crate::sandbox::ip;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

/// The TTL of every record. It is above the TTL that the gateway lets Envoy use.
const TTL: u32 = 3600;

/// The records of a name.
#[derive(Clone, Debug)]
pub enum Record {
    /// An A or AAAA record.
    Address(IpAddr),
    /// A CNAME. Its target's records are not in the same answer.
    Alias(&'static str),
    /// A CNAME with its target's records behind it, as a recursive nameserver answers.
    Chain(&'static str),
    /// Answers over UDP are truncated.
    OnlyTcp,
}

/// A query that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The name, lower case, without the last dot.
    pub name: String,
    /// 1 is A, 28 is AAAA (RFC 1035, RFC 3596).
    pub kind: u16,
    /// Whether it came over TCP.
    pub tcp: bool,
}

/// A nameserver.
pub struct NameServer {
    /// Its address, for UDP and TCP.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    names: HashMap<String, Vec<Record>>,
    asked: Mutex<Vec<Asked>>,
    silent: AtomicBool,
}

impl NameServer {
    /// Starts a nameserver at the upstream's address with these names. It returns NXDOMAIN for other names.
    pub fn start(names: &[(&str, &[Record])]) -> Self {
        ip(&["address", "replace", &format!("{}/32", crate::upstream::ADDRESS), "dev", "lo"]);
        let tcp = TcpListener::bind((crate::upstream::ADDRESS, 0)).unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).unwrap();
        let names = names.iter().map(|(name, records)| ((*name).to_owned(), records.to_vec())).collect();
        let shared = Arc::new(Shared { names, asked: Mutex::default(), silent: AtomicBool::new(false) });
        let (by_udp, by_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut bytes) {
                if let Some(answer) = by_udp.answer(&bytes[..length], false) {
                    udp.send_to(&answer, peer).unwrap();
                }
            }
        });
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let shared = Arc::clone(&by_tcp);
                thread::spawn(move || shared.serve(stream.unwrap()));
            }
        });
        Self { address, shared }
    }

    /// The queries so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The queries for `name` so far.
    pub fn asked_for(&self, name: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.name == name).collect()
    }

    /// Stops answering, or resumes.
    pub fn set_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut query).is_err() {
                return;
            }
            if let Some(answer) = self.answer(&query, true) {
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                if stream.write_all(&[&length[..], &answer].concat()).is_err() {
                    return;
                }
            }
        }
    }

    /// RFC 1035 section 4: the header, the question as it came, the records.
    fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let (name, end) = read_name(query, 12);
        let kind = u16::from_be_bytes([query[end], query[end + 1]]);
        self.asked.lock().unwrap().push(Asked { name: name.clone(), kind, tcp });
        if self.silent.load(Ordering::SeqCst) {
            return None;
        }
        let records = self.records(&name, kind);
        let truncated = !tcp && self.names.get(&name).is_some_and(|r| r.iter().any(|r| matches!(r, Record::OnlyTcp)));
        let flags: u16 = 0x8180 | if truncated { 0x0200 } else { 0 } | if records.is_none() { 3 } else { 0 };
        let records = if truncated { Vec::new() } else { records.unwrap_or_default() };
        let mut answer = query[..2].to_vec();
        for word in [flags, 1, u16::try_from(records.len()).unwrap(), 0, 0] {
            answer.extend(word.to_be_bytes());
        }
        answer.extend(&query[12..end + 4]);
        answer.extend(records.concat());
        Some(answer)
    }

    /// The encoded records for one query. Empty if the name does not exist.
    fn records(&self, name: &str, kind: u16) -> Option<Vec<Vec<u8>>> {
        let mut records = Vec::new();
        for record in self.names.get(name)? {
            match record {
                Record::Address(IpAddr::V4(address)) if kind == 1 => records.push(encode(name, 1, &address.octets())),
                Record::Address(IpAddr::V6(address)) if kind == 28 => records.push(encode(name, 28, &address.octets())),
                Record::Alias(target) => records.push(encode(name, 5, &write_name(target))),
                Record::Chain(target) => {
                    records.push(encode(name, 5, &write_name(target)));
                    records.extend(self.records(target, kind).unwrap_or_default());
                }
                Record::Address(_) | Record::OnlyTcp => {}
            }
        }
        Some(records)
    }
}

fn read_name(message: &[u8], mut at: usize) -> (String, usize) {
    let mut labels = Vec::new();
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    (labels.join("."), at + 1)
}

fn write_name(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat();
    name.split('.').map(label).chain([vec![0]]).collect::<Vec<_>>().concat()
}

fn encode(name: &str, kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = write_name(name);
    record.extend(kind.to_be_bytes());
    record.extend(1_u16.to_be_bytes());
    record.extend(TTL.to_be_bytes());
    record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend(data);
    record
}

/// Makes a machine with the public address `address`, in a namespace of its own behind its own link. Its ports 443 and
/// 80 lead to `onward`.
pub fn public_host(address: Ipv4Addr, onward: SocketAddr) {
    let name = "internet";
    let (near, far) = (Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 98, 0, 2));
    ip(&["netns", "add", name]);
    ip(&["link", "add", "internet0", "type", "veth", "peer", "name", "eth0", "netns", name]);
    ip(&["address", "add", &format!("{near}/30"), "dev", "internet0"]);
    ip(&["link", "set", "internet0", "up"]);
    ip(&["-n", name, "address", "add", &format!("{far}/30"), "dev", "eth0"]);
    ip(&["-n", name, "address", "add", &format!("{address}/32"), "dev", "eth0"]);
    ip(&["-n", name, "link", "set", "eth0", "up"]);
    ip(&["route", "add", &format!("{address}/32"), "via", &far.to_string()]);
    let (accepted, streams) = mpsc::channel::<TcpStream>();
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    let (bound, ready) = mpsc::channel();
    for port in [443, 80] {
        let (accepted, bound, namespace) = (accepted.clone(), bound.clone(), namespace.try_clone().unwrap());
        thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let listener = TcpListener::bind((address, port)).unwrap();
            bound.send(()).unwrap();
            listener.incoming().for_each(|stream| accepted.send(stream.unwrap()).unwrap());
        });
    }
    ready.recv().unwrap();
    ready.recv().unwrap();
    // This thread is in the namespace of the test, so it reaches the upstream.
    thread::spawn(move || {
        for near in streams {
            let far = TcpStream::connect(onward).unwrap();
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                thread::spawn(move || {
                    // An error ends the connection, too.
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
}

/// Accepts every connection to ports 443 and 80 of any address of the gateway's own machine, and counts them.
pub struct Trap(Arc<AtomicU64>);

impl Trap {
    /// Sets the trap.
    pub fn set() -> Self {
        let caught = Arc::new(AtomicU64::new(0));
        for port in [443, 80] {
            let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port))).unwrap();
            let caught = Arc::clone(&caught);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    drop(stream);
                    caught.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self(caught)
    }

    /// The number of connections so far.
    pub fn caught(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Adds an address to the gateway's machine.
pub fn own_address(address: IpAddr) {
    let length = if address.is_ipv4() { 32 } else { 128 };
    ip(&["address", "replace", &format!("{address}/{length}"), "dev", "lo"]);
}

/// Replaces the hosts file by `lines`, for all processes in this test's namespaces.
pub fn hosts_file(lines: &str) {
    let file = crate::scratch("hosts").join("hosts");
    std::fs::write(&file, lines).unwrap();
    crate::Finished::of(std::process::Command::new("mount").arg("--bind").arg(&file).arg("/etc/hosts")).success();
}
