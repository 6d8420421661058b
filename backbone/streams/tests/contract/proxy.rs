//! A line to a server on which answers get lost: the request arrives and is done, the connection ends before its reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::server::Server;

pub struct Proxy {
    folder: tempfile::TempDir,
    lost: Arc<AtomicU32>,
    /// Connections that were there when it last grew are half-open.
    silences: tokio::sync::watch::Sender<u32>,
}

impl Proxy {
    /// Starts a line on which the reply to a request gets lost where `loses` says so, given its bytes and its number.
    pub fn start(server: &Server, loses: impl Fn(&[u8], u32) -> bool + Send + Sync + 'static) -> Proxy {
        let folder = tempfile::Builder::new().prefix("vf-proxy-").tempdir().expect("a temporary folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("listen");
        let (server, loses, lost) = (server.socket(), Arc::new(loses), Arc::new(AtomicU32::new(0)));
        let silences = tokio::sync::watch::Sender::new(0);
        let silence = silences.clone();
        let (count, asked) = (Arc::clone(&lost), Arc::new(AtomicU32::new(0)));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, loses) = (server.clone(), Arc::clone(&loses));
                let (count, asked) = (Arc::clone(&count), Arc::clone(&asked));
                let mut silence = silence.subscribe();
                tokio::spawn(async move {
                    let loses = |request: &[u8]| {
                        let loses = loses(request, asked.fetch_add(1, Ordering::SeqCst));
                        count.fetch_add(u32::from(loses), Ordering::SeqCst);
                        loses
                    };
                    let mut client = client;
                    tokio::select! {
                        _ = carry(&mut client, server, loses) => {}
                        _ = silence.changed() => swallow(client).await,
                    }
                });
            }
        });
        Proxy { folder, lost, silences }
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("s").display())
    }

    /// From now on the connections that there are swallow everything, and nobody is told.
    pub fn silence(&self) {
        self.silences.send_modify(|silences| *silences += 1);
    }

    /// How many replies were lost so far.
    pub fn lost(&self) -> u32 {
        self.lost.load(Ordering::SeqCst)
    }
}

async fn swallow(mut client: UnixStream) {
    let mut request = vec![0; 1 << 16];
    while client.read(&mut request).await.is_ok_and(|read| read > 0) {}
}

async fn carry(
    client: &mut UnixStream,
    server: std::path::PathBuf,
    loses: impl Fn(&[u8]) -> bool,
) -> std::io::Result<()> {
    let mut server = UnixStream::connect(server).await?;
    let (mut request, mut reply) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let request = &request[..read?];
                if request.is_empty() {
                    return Ok(());
                }
                server.write_all(request).await?;
                if loses(request) {
                    // Its effect is there once the server answers.
                    let _answered: usize = server.read(&mut reply).await?;
                    return Ok(());
                }
            }
            read = server.read(&mut reply) => {
                let reply = &reply[..read?];
                if reply.is_empty() {
                    return Ok(());
                }
                client.write_all(reply).await?;
            }
        }
    }
}
