//! Azure storage to test against: a process of Azurite, Microsoft's emulator, and a proxy that throttles as a standard page blob is throttled.
//!
//! What it is: [`Azurite`], installed on first use by `scripts/lab-azure`, one process per test, its blobs in memory, killed when it is
//! dropped. What it never does: speak TLS, or forget; that its differences of page ranges are wrong is known, nothing here uses them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::child_lines::lines_of;
use crate::prepared::{PreparedError, prepared};
use crate::wan::Place;

/// How long it may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a connection through the proxy may be silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Longest head of a request.
const HEAD_MAX: usize = 64 << 10;
/// The account and the key that every Azurite has, as its documentation publishes them.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum AzuriteError {
    /// It could not be installed.
    #[error("preparing Azurite")]
    Prepare(#[from] PreparedError),
    /// The process did not come to the point of answering.
    #[error("Azurite did not start within {} s", START_LIMIT.as_secs())]
    Start,
    /// Files, processes.
    #[error("running Azurite")]
    Io(#[from] std::io::Error),
}

/// A running Azurite.
#[derive(Debug)]
pub struct Azurite {
    child: Child,
    address: String,
}

impl Azurite {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// [`AzuriteError`]; without npm it says what to install.
    pub fn start() -> Result<Self, AzuriteError> {
        Self::launch(Ipv4Addr::LOCALHOST, Command::spawn)
    }

    /// The same in a place of a slow path, at its address: it can be reached from both.
    ///
    /// # Errors
    /// Those of [`Azurite::start`]; when the place cannot be entered.
    pub fn start_in(place: &Place) -> Result<Self, AzuriteError> {
        Self::launch(place.address(), |command| place.enter(|| command.spawn()).flatten())
    }

    fn launch(
        host: Ipv4Addr,
        spawn: impl FnOnce(&mut Command) -> std::io::Result<Child>,
    ) -> Result<Self, AzuriteError> {
        let program = prepared("lab-azure", "storage")?;
        let mut command = Command::new("node");
        command
            .arg(program)
            .args([
                "--blobHost",
                &host.to_string(),
                "--blobPort",
                "0",
                "--inMemoryPersistence",
                "--skipApiVersionCheck",
            ])
            .args(["--disableTelemetry", "--loose", "--silent"])
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = spawn(&mut command)?;
        let stdout = child.stdout.take();
        let mut azurite = Self { child, address: String::new() };
        let receiver = lines_of(stdout);
        let started = Instant::now();
        loop {
            let line = receiver.recv_timeout(START_LIMIT.saturating_sub(started.elapsed()));
            let line = line.map_err(|_| AzuriteError::Start)?;
            if let Some((_, address)) = line.split_once("successfully listens on http://") {
                address.trim().clone_into(&mut azurite.address);
                return Ok(azurite);
            }
        }
    }

    /// `HOST:PORT`, by IP address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Makes a container (Blob service REST API, "Create Container"); from where it can be reached.
    ///
    /// # Errors
    /// Those of the connection; when it is refused.
    pub fn make_container(&self, name: &str) -> std::io::Result<()> {
        let target = format!("/{ACCOUNT}/{name}?restype=container&{}", signature(EXPIRY));
        let request = format!(
            "PUT {target} HTTP/1.1\r\nHost: {}\r\nx-ms-version: 2021-12-02\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        let mut connection = TcpStream::connect(&self.address)?;
        connection.write_all(request.as_bytes())?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let status = answer.lines().next().unwrap_or_default();
        if status.contains(" 201 ") {
            return Ok(());
        }
        Err(std::io::Error::other(format!("Azurite did not make the container {name}: {status}")))
    }

    /// The URL of a container, which may do everything: with a signature in it.
    #[must_use]
    pub fn container(&self, name: &str) -> String {
        container_at(&self.address, name)
    }

    /// The URL of a container with a signature that was valid until some years ago.
    #[must_use]
    pub fn container_expired(&self, name: &str) -> String {
        format!("http://{}/{ACCOUNT}/{name}?{}", self.address, signature("2020-01-01T00:00:00Z"))
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // Both fail only when it is over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Far beyond any test.
const EXPIRY: &str = "2099-01-01T00:00:00Z";

/// The URL of a container of the emulated account, at an address where it is reached.
#[must_use]
pub fn container_at(address: &str, name: &str) -> String {
    format!("http://{address}/{ACCOUNT}/{name}?{}", signature(EXPIRY))
}

/// A signature of the whole account (Azure Storage documentation, "Create an account SAS").
fn signature(expiry: &str) -> String {
    let (version, permissions) = ("2019-12-12", "rwdlacup");
    let signed = format!("{ACCOUNT}\n{permissions}\nb\nsco\n\n{expiry}\n\nhttps,http\n{version}\n");
    let key = STANDARD.decode(KEY).expect("the key is valid Base64");
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    let tag = STANDARD.encode(tag.as_ref()).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let expiry = expiry.replace(':', "%3A");
    format!("sv={version}&ss=b&srt=sco&sp={permissions}&se={expiry}&spr=https%2Chttp&sig={tag}")
}

/// A proxy before an [`Azurite`] that answers 503 to requests on pages beyond so many a second, as a standard page blob does. One request a
/// connection.
#[derive(Debug)]
pub struct Throttle {
    address: String,
    told: Arc<Told>,
}

/// What a proxy counts, and is told.
#[derive(Debug, Default)]
struct Told {
    refused: AtomicU64,
    page_requests: AtomicU64,
    closed: AtomicBool,
    damaging: AtomicBool,
}

/// A bucket of requests that fills up again.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Throttle {
    /// Listens on a free port until the process ends.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn before(azurite: &Azurite, page_requests_per_second: u32) -> std::io::Result<Self> {
        Self::at(&azurite.address, page_requests_per_second)
    }

    /// As [`Throttle::before`], for one that others have started: at `HOST:PORT`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn at(azurite: &str, page_requests_per_second: u32) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let told = Arc::new(Told::default());
        let per_second = f64::from(page_requests_per_second);
        let bucket = Arc::new(Mutex::new(Bucket { per_second, left: per_second, at: Instant::now() }));
        let (target, counter) = (azurite.to_owned(), Arc::clone(&told));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if counter.closed.load(Ordering::Relaxed) {
                    continue;
                }
                let (target, counter, bucket) = (target.clone(), Arc::clone(&counter), Arc::clone(&bucket));
                // A connection that breaks is the client's to notice.
                std::thread::spawn(move || pass(client, &target, &bucket, &counter).ok());
            }
        });
        Ok(Self { address, told })
    }

    /// Where it listens, `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The URL of a container through the proxy.
    #[must_use]
    pub fn container(&self, name: &str) -> String {
        container_at(&self.address, name)
    }

    /// Requests refused so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.told.refused.load(Ordering::Relaxed)
    }

    /// Requests on pages so far, those refused among them.
    #[must_use]
    pub fn page_requests(&self) -> u64 {
        self.told.page_requests.load(Ordering::Relaxed)
    }

    /// From now on every connection is cut, or passed on again.
    pub fn set_closed(&self, closed: bool) {
        self.told.closed.store(closed, Ordering::Relaxed);
    }

    /// From now on the last byte of what is put as blocks is changed on its way, or no more.
    pub fn set_damaging(&self, damaging: bool) {
        self.told.damaging.store(damaging, Ordering::Relaxed);
    }
}

impl Bucket {
    fn take(&mut self) -> bool {
        let now = Instant::now();
        self.left =
            (self.left + now.duration_since(self.at).as_secs_f64() * self.per_second).min(self.per_second);
        self.at = now;
        let takes = self.left >= 1.0;
        self.left -= if takes { 1.0 } else { 0.0 };
        takes
    }
}

/// Passes one request on, or refuses it.
fn pass(client: TcpStream, target: &str, bucket: &Mutex<Bucket>, told: &Told) -> std::io::Result<()> {
    client.set_read_timeout(Some(SILENCE_LIMIT))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    let mut body_len = 0_u64;
    loop {
        let mut line = String::new();
        if reader.by_ref().take(HEAD_MAX as u64).read_line(&mut line)? == 0 || head.len() > HEAD_MAX {
            return Ok(());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            body_len = value.trim().parse().unwrap_or(0);
        }
        if line == "\r\n" {
            break;
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut body = reader.take(body_len);
    let is_of_pages = head.lines().next().is_some_and(|request| request.contains("comp=page"));
    let mut client = client;
    told.page_requests.fetch_add(u64::from(is_of_pages), Ordering::Relaxed);
    if is_of_pages && !bucket.lock().unwrap_or_else(PoisonError::into_inner).take() {
        std::io::copy(&mut body, &mut std::io::sink())?;
        told.refused.fetch_add(1, Ordering::Relaxed);
        return client.write_all(
            b"HTTP/1.1 503 Server Busy\r\nx-ms-error-code: ServerBusy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    let mut server = TcpStream::connect(target)?;
    server.set_read_timeout(Some(SILENCE_LIMIT))?;
    server.write_all(head.as_bytes())?;
    server.write_all(b"Connection: close\r\n\r\n")?;
    let of_blocks = head.lines().next().is_some_and(|request| request.contains("comp=block&"));
    if of_blocks && told.damaging.load(Ordering::Relaxed) {
        std::io::copy(&mut body.by_ref().take(body_len.saturating_sub(1)), &mut server)?;
        let last: Vec<_> = body.by_ref().bytes().collect::<Result<_, _>>()?;
        server.write_all(&last.iter().map(|byte| !byte).collect::<Vec<_>>())?;
    }
    std::io::copy(&mut body, &mut server)?;
    std::io::copy(&mut server, &mut client)?;
    Ok(())
}
