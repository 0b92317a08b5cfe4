//! The loop. It never waits for a peer: each connection is a task of its own that takes one chunk at a time, and what
//! is not taken waits in the [`Speaker`], where newer wishes replace older ones.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lbcore::announce::Stop;
use lbcore::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::Shared;
use crate::machine::{ConnectionId, Event, Input, Speaker};
use crate::transport::{Caller, Transport};

/// How much is put into bytes at once for a connection.
const CHUNK: usize = 64 * 1024;
/// How much is read at once.
const READ: usize = 16 * 1024;
/// How long a connection that is being closed may take to send its last words.
const LINGER: Duration = Duration::from_secs(2);
/// How many things that happened on connections may wait.
const EVENTS: usize = 64;
/// How many strangers may be told at once that they are not wanted; further ones are hung up on.
const REFUSALS: usize = 16;
/// The pause after the kernel could not give us a caller: out of file handles, as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How often to look at the clock while a lease holds: timers stand still while the machine sleeps, leases do not.
const LEASE_CHECK: Duration = Duration::from_secs(1);

/// What happened on a connection.
#[derive(Debug)]
enum Io {
    Connected(ConnectionId, std::net::IpAddr),
    Received(ConnectionId, Vec<u8>),
    /// The last chunk is with the kernel.
    Writable(ConnectionId),
    Closed(ConnectionId, String),
}

/// A connection, or the attempt at one.
#[derive(Debug)]
struct Link {
    /// Holds one chunk and the farewell.
    output: mpsc::Sender<Vec<u8>>,
    /// Whether it is connected and takes a chunk.
    writable: bool,
    connected: bool,
    task: AbortHandle,
    /// Dropped with the link: tells the task that the end has begun.
    _open: oneshot::Sender<()>,
}

#[derive(Debug)]
pub(super) struct Engine<T: Transport> {
    transport: Arc<T>,
    speaker: Speaker,
    shared: Arc<Shared>,
    clock: fn() -> Instant,
    links: BTreeMap<ConnectionId, Link>,
    tasks: JoinSet<()>,
    refusals: JoinSet<()>,
    events: mpsc::Sender<Io>,
    incoming: mpsc::Receiver<Io>,
}

impl<T: Transport> Engine<T> {
    pub(super) fn new(transport: T, speaker: Speaker, shared: Arc<Shared>, clock: fn() -> Instant) -> Self {
        let (events, incoming) = mpsc::channel(EVENTS);
        Self {
            transport: Arc::new(transport),
            speaker,
            shared,
            clock,
            links: BTreeMap::new(),
            tasks: JoinSet::new(),
            refusals: JoinSet::new(),
            events,
            incoming,
        }
    }

    pub(super) async fn run(mut self, stop: impl Future<Output = Stop>) {
        let mut stop = pin!(stop);
        let shared = self.shared.clone();
        let transport = self.transport.clone();
        let mut accept_from = Instant::ZERO;
        self.take_inbox();
        loop {
            self.pump();
            self.publish();
            let now = (self.clock)();
            let pause = self.pause(now);
            // Not biased: neither a peer that floods us nor somebody who keeps calling may shut out the others.
            tokio::select! {
                _ = &mut stop => break,
                () = shared.wake.notified() => self.take_inbox(),
                Some(io) = self.incoming.recv() => {
                    self.handle(io);
                    for _ in 0..EVENTS {
                        let Ok(io) = self.incoming.try_recv() else { break };
                        self.handle(io);
                    }
                }
                caller = transport.accept(), if accept_from <= now => match caller {
                    Ok(caller) => self.accept(caller),
                    Err(_) => accept_from = now + ACCEPT_PAUSE,
                },
                () = sleep(accept_from.saturating_since(now)), if accept_from > now => (),
                // What ended is only to be forgotten; its last event has told the rest.
                Some(_) = self.tasks.join_next() => (),
                Some(_) = self.refusals.join_next() => (),
                () = sleep(pause) => (),
            }
            let now = (self.clock)();
            if self.speaker.poll_timeout().is_some_and(|deadline| deadline <= now) {
                self.speaker.handle_timeout(now);
            }
        }
        self.stop().await;
    }

    async fn stop(mut self) {
        self.speaker.handle((self.clock)(), Input::Stop(""));
        self.pump();
        self.publish();
        // Nobody listens any more; the tasks read on, so that the kernel does not reset what the peer has yet to read.
        self.incoming.close();
        self.refusals.abort_all();
        // Each task ends by itself within LINGER; this is for the one that would not.
        let _ = timeout(LINGER + LINGER / 4, async { while self.tasks.join_next().await.is_some() {} }).await;
    }

    /// How long there is nothing to do of our own accord.
    fn pause(&self, now: Instant) -> Duration {
        let pause = self.speaker.poll_timeout().unwrap_or(Instant::FAR_FUTURE).saturating_since(now);
        // A sleep of centuries overflows some clocks.
        let longest = if self.speaker.has_leases() { LEASE_CHECK } else { Duration::from_secs(3600) };
        pause.min(longest)
    }

    fn take_inbox(&mut self) {
        let inbox = std::mem::take(&mut *self.shared.inbox());
        let now = (self.clock)();
        for (lease, until) in inbox.renewals {
            self.speaker.handle(now, Input::Renew(lease, until));
        }
        if let Some(peers) = inbox.peers {
            self.speaker.handle(now, Input::Peers(peers));
        }
        if let Some(desired) = inbox.desired {
            self.speaker.handle(now, Input::Desired(desired));
        }
    }

    fn handle(&mut self, io: Io) {
        let now = (self.clock)();
        match io {
            Io::Connected(connection, local) => {
                if let Some(link) = self.links.get_mut(&connection) {
                    (link.connected, link.writable) = (true, true);
                    self.speaker.handle(now, Input::Connected { connection, local });
                }
            }
            Io::Received(connection, bytes) => {
                self.speaker.handle(now, Input::Received { connection, bytes: &bytes });
            }
            Io::Writable(connection) => {
                if let Some(link) = self.links.get_mut(&connection) {
                    link.writable = true;
                }
            }
            Io::Closed(connection, error) => {
                self.speaker.handle(now, Input::Disconnected { connection, error });
                self.links.remove(&connection);
            }
        }
    }

    fn accept(&mut self, caller: Caller<T::Stream>) {
        let Caller { mut stream, remote, local } = caller;
        match self.speaker.accept((self.clock)(), remote, local) {
            Ok(connection) => {
                if let Some(peer) = self.speaker.peer(connection) {
                    // Without the options it still is a connection.
                    let _ = self.transport.configure(&stream, peer);
                }
                let link = self.spawn(connection, async move { Ok((stream, local)) }, false);
                self.links.insert(connection, Link { connected: true, writable: true, ..link });
            }
            Err(refused) => {
                if self.refusals.len() < REFUSALS {
                    self.refusals.spawn(async move {
                        let _ = timeout(LINGER, async {
                            let _ = stream.write_all(&refused.farewell).await;
                            let _ = stream.shutdown().await;
                        })
                        .await;
                    });
                }
            }
        }
    }

    /// Does what the speaker wants done, and hands each connection that can take it what there is to say.
    fn pump(&mut self) {
        let now = (self.clock)();
        while let Some(event) = self.speaker.poll_event() {
            match event {
                Event::Connect { connection, peer } => {
                    let transport = self.transport.clone();
                    let link = self.spawn(connection, async move { transport.connect(peer).await }, true);
                    self.links.insert(connection, link);
                }
                Event::Close { connection, farewell } => {
                    if let Some(link) = self.links.remove(&connection) {
                        if link.connected {
                            // There is always room for it: see `spawn`.
                            let _ = link.output.try_send(farewell);
                        } else {
                            link.task.abort();
                        }
                    }
                }
            }
        }
        for (connection, link) in self.links.iter_mut().filter(|(_, link)| link.writable) {
            let mut chunk = Vec::new();
            self.speaker.poll_output(now, *connection, &mut chunk, CHUNK);
            if !chunk.is_empty() {
                link.writable = false;
                let _ = link.output.try_send(chunk);
            }
        }
    }

    fn publish(&mut self) {
        if let Some(status) = self.speaker.poll_status() {
            self.shared.status.send_if_modified(|current| {
                let changed = **current != status;
                if changed {
                    *current = Arc::new(status);
                }
                changed
            });
            self.shared.peers.send_replace(Arc::new(self.speaker.peers()));
        }
    }

    /// A task for a connection. `report` says whether the success of `connect` is news.
    fn spawn(
        &mut self,
        connection: ConnectionId,
        connect: impl Future<Output = io::Result<(T::Stream, std::net::IpAddr)>> + Send + 'static,
        report: bool,
    ) -> Link {
        // One chunk at most is on its way, so that the farewell always fits in beside it.
        let (output, chunks) = mpsc::channel(2);
        let (open, closing) = oneshot::channel();
        let events = self.events.clone();
        let task = self.tasks.spawn(async move {
            let (stream, local) = match connect.await {
                Ok(connected) => connected,
                Err(error) => {
                    let _ = events.send(Io::Closed(connection, error.to_string())).await;
                    return;
                }
            };
            if report {
                let _ = events.send(Io::Connected(connection, local)).await;
            }
            let deadline = async {
                let _ = closing.await;
                sleep(LINGER).await;
            };
            tokio::select! {
                () = converse(connection, stream, chunks, events) => (),
                () = deadline => (),
            }
        });
        Link { output, writable: false, connected: false, task, _open: open }
    }
}

/// Reads and writes until both ends are done.
async fn converse<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send>(
    connection: ConnectionId,
    stream: S,
    chunks: mpsc::Receiver<Vec<u8>>,
    events: mpsc::Sender<Io>,
) {
    let (reader, writer) = tokio::io::split(stream);
    let mut reading = pin!(read(connection, reader, &events));
    let mut writing = pin!(write(connection, writer, chunks, &events));
    tokio::select! {
        error = &mut reading => {
            let _ = events.send(Io::Closed(connection, error)).await;
            // There may be a farewell on its way; it ends when the link is dropped.
            let _ = writing.await;
        }
        written = &mut writing => {
            // Either we are done and wait for the peer to be, or the connection is broken; what the peer said before
            // is worth knowing.
            let ended = timeout(LINGER, reading).await;
            if let Err(error) = written {
                let error = ended.unwrap_or_else(|_| error.to_string());
                let _ = events.send(Io::Closed(connection, error)).await;
            }
        }
    }
}

/// Reads until the end; says how it ended.
async fn read<S: tokio::io::AsyncRead>(
    connection: ConnectionId,
    mut reader: ReadHalf<S>,
    events: &mpsc::Sender<Io>,
) -> String {
    let mut buffer = vec![0; READ];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return "the peer closed the connection".to_owned(),
            // Where nobody listens any more, it is read to be forgotten.
            Ok(count) => {
                let _ = events.send(Io::Received(connection, buffer[..count].to_vec())).await;
            }
            Err(error) => return error.to_string(),
        }
    }
}

/// Writes until there is nothing more to come.
async fn write<S: tokio::io::AsyncWrite>(
    connection: ConnectionId,
    mut writer: WriteHalf<S>,
    mut chunks: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<Io>,
) -> io::Result<()> {
    while let Some(chunk) = chunks.recv().await {
        writer.write_all(&chunk).await?;
        let _ = events.send(Io::Writable(connection)).await;
    }
    writer.shutdown().await
}
