//! A TCP line between programs and a server, on which what a test says goes wrong.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A line that listens on loopback; it ends with this value, and all its connections with it.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

/// How the line is. The default is a line on which nothing is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Every chunk arrives so much later.
    pub latency: Duration,
    /// And up to so much more, by chance.
    pub jitter: Duration,
    /// At most so many bytes a second each way.
    pub bytes_per_second: Option<u32>,
    /// Chunks are cut into pieces of so many bytes.
    pub slice: Option<usize>,
    /// What programs send vanishes, and nobody is told. A connection that lost bytes is half-open from then on: it
    /// stays, and stays silent, also when the weather is good again.
    pub silent_up: bool,
    /// What the server sends vanishes.
    pub silent_down: bool,
    /// New connections are ended at once.
    pub refuses: bool,
}

/// Where a request is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Right after its bytes were passed on: the server may or may not have done it.
    AfterRequest,
    /// When its reply arrives: the server has done it, and nobody is told.
    OnReply,
}

/// Tells requests of a kind by their bytes.
type Wanted = Box<dyn Fn(&[u8]) -> bool + Send>;

/// Loses requests that look a certain way.
struct Thief {
    left: u32,
    cut: Cut,
    wants: Wanted,
}

struct State {
    upstream: Mutex<SocketAddr>,
    weather: Mutex<Weather>,
    thief: Mutex<Option<Thief>>,
    /// Connections end when it changes.
    era: watch::Sender<u64>,
    open: AtomicUsize,
    lost: AtomicU32,
}

impl Proxy {
    /// Opens a line to `upstream` on a port of its own.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(upstream: SocketAddr) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            upstream: Mutex::new(upstream),
            weather: Mutex::default(),
            thief: Mutex::default(),
            era: watch::Sender::new(0),
            open: AtomicUsize::new(0),
            lost: AtomicU32::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Proxy { address, state, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads to another server from now on; connections to the one before end.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *lock(&self.state.upstream) = upstream;
        self.cut();
    }

    /// Changes the weather. Where connections are refused, those that there are end.
    pub fn set(&self, weather: Weather) {
        *lock(&self.state.weather) = weather;
        if weather.refuses {
            self.cut();
        }
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.state.era.send_modify(|era| *era += 1);
    }

    /// Cuts the next `count` requests off whose bytes `wants` picks, each with its connection.
    pub fn lose(&self, count: u32, cut: Cut, wants: impl Fn(&[u8]) -> bool + Send + 'static) {
        *lock(&self.state.thief) = Some(Thief { left: count, cut, wants: Box::new(wants) });
    }

    /// Lets every request through again.
    pub fn lose_none(&self) {
        *lock(&self.state.thief) = None;
    }

    /// How many requests were cut off so far.
    pub fn lost(&self) -> u32 {
        self.state.lost.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if lock(&state.weather).refuses {
            continue;
        }
        let state = Arc::clone(&state);
        let mut era = state.era.subscribe();
        tokio::spawn(async move {
            state.open.fetch_add(1, Ordering::SeqCst);
            tokio::select! {
                _ = carry(client, &state) => {}
                _ = era.changed() => {}
            }
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn carry(client: TcpStream, state: &State) -> std::io::Result<()> {
    let upstream = *lock(&state.upstream);
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (stolen, half_open) = (AtomicBool::new(false), AtomicBool::new(false));
    let up = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_client.read(&mut buffer[..state.chunk()]).await?;
            if read == 0 {
                return Ok::<(), std::io::Error>(());
            }
            let weather = *lock(&state.weather);
            if weather.silent_up || half_open.load(Ordering::SeqCst) {
                half_open.store(true, Ordering::SeqCst);
                continue;
            }
            pass(&mut to_server, &buffer[..read], weather).await?;
            match state.steals(&buffer[..read]) {
                Some(Cut::AfterRequest) => return Ok(()),
                Some(Cut::OnReply) => stolen.store(true, Ordering::SeqCst),
                None => {}
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_server.read(&mut buffer[..state.chunk()]).await?;
            if read == 0 || stolen.load(Ordering::SeqCst) {
                return Ok::<(), std::io::Error>(());
            }
            let weather = *lock(&state.weather);
            if weather.silent_down || half_open.load(Ordering::SeqCst) {
                half_open.store(true, Ordering::SeqCst);
                continue;
            }
            pass(&mut to_client, &buffer[..read], weather).await?;
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}

impl State {
    fn chunk(&self) -> usize {
        lock(&self.weather).slice.unwrap_or(1 << 16).clamp(1, 1 << 16)
    }

    fn steals(&self, request: &[u8]) -> Option<Cut> {
        let mut thief = lock(&self.thief);
        let taken = thief.as_mut().filter(|thief| thief.left > 0 && (thief.wants)(request))?;
        taken.left -= 1;
        self.lost.fetch_add(1, Ordering::SeqCst);
        Some(taken.cut)
    }
}

async fn pass(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8], weather: Weather) -> std::io::Result<()> {
    let late = weather.latency + weather.jitter.mul_f64(rand::random());
    if !late.is_zero() {
        tokio::time::sleep(late).await;
    }
    let Some(rate) = weather.bytes_per_second else { return to.write_all(bytes).await };
    for piece in bytes.chunks(1024) {
        tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / f64::from(rate.max(1)))).await;
        to.write_all(piece).await?;
    }
    Ok(())
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards is whole after every statement.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
