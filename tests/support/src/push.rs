//! A push byte by byte: real objects in real packs, a handwritten list of updates before them, and HTTP/1.1 that
//! carries them in pieces.

use crate::client::{self, STEP};
use crate::raw;
use crate::upstream::host_git;
use crate::{Answer, Http, Sandbox, scratch};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// The null object id.
pub const ZERO: &str = "0000000000000000000000000000000000000000";

/// The capabilities of git 2.47.
pub const CAPABILITIES: &str = " report-status-v2 side-band-64k quiet object-format=sha1 agent=git/2.47.3";

/// The content type of a push.
pub const CONTENT_TYPE: &str = "application/x-git-receive-pack-request";

/// The number of bytes of a file that are sent at a time.
const CHUNK: usize = 64 << 10;

/// An update of a ref: old and new object, and its name.
pub type Update<'a> = (&'a str, &'a str, &'a str);

/// The repository for new commits: a clone that only the test can see.
pub struct Work {
    directory: PathBuf,
    bare: PathBuf,
}

impl Work {
    /// A clone of the bare repository.
    pub fn of(bare: &Path) -> Self {
        let work = Self { directory: scratch("work"), bare: bare.to_owned() };
        work.git(&["clone", "--quiet", bare.to_str().unwrap(), "."], b"");
        work
    }

    /// Runs git in the clone with `input`, and returns its output.
    ///
    /// # Panics
    /// If git fails.
    pub fn git(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = host_git(&self.directory);
        let mut child =
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn name(&self, args: &[&str], input: &[u8]) -> String {
        String::from_utf8(self.git(args, input)).unwrap().trim().to_owned()
    }

    /// The first commit, which every repository of the rig has on `main`.
    pub fn seed(&self) -> String {
        self.name(&["rev-parse", "origin/main"], b"")
    }

    /// A new commit with these parents, and a file of `text`.
    pub fn commit(&self, parents: &[&str], text: &str) -> String {
        let blob = self.name(&["hash-object", "-w", "--stdin"], text.as_bytes());
        let message: String = text.chars().take(40).collect();
        self.of_blob(parents, &blob, &message)
    }

    /// A new commit with a file of `bytes` random bytes, stored uncompressed.
    pub fn commit_random(&self, parents: &[&str], bytes: u64) -> String {
        let file = self.directory.join("random");
        io::copy(&mut File::open("/dev/urandom").unwrap().take(bytes), &mut File::create(&file).unwrap()).unwrap();
        let plain = ["-c", "core.compression=0", "-c", "core.bigFileThreshold=1m", "hash-object", "-w", "random"];
        let blob = self.name(&plain, b"");
        std::fs::remove_file(file).unwrap();
        self.of_blob(parents, &blob, "random")
    }

    fn of_blob(&self, parents: &[&str], blob: &str, message: &str) -> String {
        let tree = self.name(&["mktree"], format!("100644 blob {blob}\tfile\n").as_bytes());
        let parents = parents.iter().flat_map(|parent| ["-p", parent]);
        let args: Vec<&str> = ["commit-tree", &tree, "-m", message].into_iter().chain(parents).collect();
        self.name(&args, b"")
    }

    /// Sets the ref `name` of the bare repository to `object`, past the gateway.
    pub fn deliver(&self, object: &str, name: &str) {
        self.git(&["push", "--quiet", "--force", self.bare.to_str().unwrap(), &format!("{object}:{name}")], b"");
    }

    /// A pack of the objects that are reachable from `wanted` and not from `without`.
    pub fn pack(&self, wanted: &[&str], without: &[&str]) -> Vec<u8> {
        self.git(&["pack-objects", "--revs", "--stdout", "--quiet"], revisions(wanted, without).as_bytes())
    }

    /// The pack in a file. Large objects are stored uncompressed.
    pub fn pack_file(&self, wanted: &[&str], without: &[&str]) -> PathBuf {
        let file = self.directory.join(format!("{}.pack", wanted[0]));
        let mut command = host_git(&self.directory);
        command.args(["-c", "core.compression=0", "-c", "core.bigFileThreshold=1m"]);
        command.args(["pack-objects", "--revs", "--stdout", "--quiet"]);
        let mut child = command.stdin(Stdio::piped()).stdout(File::create(&file).unwrap()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(revisions(wanted, without).as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        file
    }
}

fn revisions(wanted: &[&str], without: &[&str]) -> String {
    let without = without.iter().map(|name| format!("^{name}\n"));
    wanted.iter().map(|name| format!("{name}\n")).chain(without).collect()
}

/// The object of the ref `name` in a bare repository.
pub fn at(bare: &Path, name: &str) -> Option<String> {
    let found = crate::upstream::git(bare, &["for-each-ref", "--format=%(objectname)", name]);
    (!found.is_empty()).then_some(found)
}

/// A pkt-line (gitprotocol-common(5)).
pub fn pkt(line: &[u8]) -> Vec<u8> {
    [format!("{:04x}", line.len() + 4).as_bytes(), line].concat()
}

/// The list of updates with its flush-pkt. The first update has the capabilities.
pub fn list(updates: &[Update<'_>]) -> Vec<u8> {
    list_with(updates, CAPABILITIES)
}

/// The list of updates with these capabilities.
pub fn list_with(updates: &[Update<'_>], capabilities: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, (old, new, name)) in updates.iter().enumerate() {
        let end = if number == 0 { format!("\0{capabilities}") } else { String::new() };
        bytes.extend(pkt(format!("{old} {new} {name}{end}").as_bytes()));
    }
    bytes.extend(b"0000");
    bytes
}

/// A push over HTTP/1.1. Each part of the body is a chunk.
pub struct Upload {
    stream: TlsStream<TcpStream>,
}

impl Upload {
    /// Sends the head.
    ///
    /// # Errors
    /// If the connection can't be made, or breaks.
    pub async fn begin(sandbox: &Sandbox, repo: &str) -> io::Result<Self> {
        let mut stream = timeout(STEP, client::tls(sandbox, sandbox.address, "github.com", Http::One)).await??;
        let head = format!(
            "POST /{repo}.git/git-receive-pack HTTP/1.1\r\nHost: github.com\r\nUser-Agent: git/2.47.3\r\n\
             Content-Type: {CONTENT_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
        Ok(Self { stream })
    }

    /// Sends `bytes` as one chunk.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(&[format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()).await?;
        self.stream.flush().await
    }

    /// Sends a file.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn send_file(&mut self, path: &Path) -> io::Result<()> {
        let mut file = File::open(path)?;
        let mut bytes = vec![0; CHUNK];
        loop {
            match file.read(&mut bytes)? {
                0 => return Ok(()),
                length => self.send(&bytes[..length]).await?,
            }
        }
    }

    /// Sends `bytes` as the last chunk, with the end of the body in one write.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn send_last(&mut self, bytes: &[u8]) -> io::Result<()> {
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n0\r\n\r\n"].concat();
        self.stream.write_all(if bytes.is_empty() { b"0\r\n\r\n" } else { &chunk }).await?;
        self.stream.flush().await
    }

    /// Ends the body.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn end(&mut self) -> io::Result<()> {
        self.stream.write_all(b"0\r\n\r\n").await?;
        self.stream.flush().await
    }

    /// Reads the response.
    ///
    /// # Errors
    /// If the response breaks off, or times out.
    pub async fn hear(&mut self) -> io::Result<Answer> {
        raw::hear(&mut self.stream, true).await
    }
}
