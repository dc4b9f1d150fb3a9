//! A company's HTTP proxy: it opens tunnels by CONNECT to the names that it knows, and refuses all others.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The proxy. It serves until the process ends.
#[derive(Debug)]
pub struct CompanyProxy {
    /// Its address.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl CompanyProxy {
    /// Starts a proxy at `ip` that leads to these names.
    pub fn start(ip: Ipv4Addr, names: &[(&str, SocketAddr)]) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let names: BTreeMap<String, SocketAddr> = names.iter().map(|(name, at)| (format!("{name}:443"), *at)).collect();
        let (names, asked) = (Arc::new(names), Arc::new(Mutex::new(Vec::new())));
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (names, heard) = (Arc::clone(&names), Arc::clone(&heard));
                // An error means that one end has gone.
                std::thread::spawn(move || stream.and_then(|stream| serve(stream, &names, &heard)));
            }
        });
        Self { address, asked }
    }

    /// The targets of all CONNECTs so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    mut client: TcpStream,
    names: &BTreeMap<String, SocketAddr>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    // By the byte, so that no byte of the tunnel is read.
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned();
    asked.lock().unwrap().push(target.clone());
    let Some(address) = names.get(&target) else {
        return client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n");
    };
    let upstream = TcpStream::connect(address)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (back, forth) = ((upstream.try_clone()?, client.try_clone()?), (client, upstream));
    let returning = std::thread::spawn(move || pour(back.0, back.1));
    let poured = pour(forth.0, forth.1);
    drop(returning.join());
    poured
}

/// Copies to the end, and ends the other side.
fn pour(mut from: TcpStream, mut to: TcpStream) -> std::io::Result<()> {
    let copied = std::io::copy(&mut from, &mut to);
    to.shutdown(Shutdown::Write)?;
    copied.map(drop)
}
