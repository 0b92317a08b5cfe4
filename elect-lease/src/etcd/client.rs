//! HTTP/1.1 to one of several endpoints.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::api::{Answer, Authenticate, Failure, Header, Token, malformed};
use super::{Config, Endpoint};
use crate::store::StoreError;

/// The longest answer.
const MAX_ANSWER: usize = 16 << 20;
/// So many connections are kept: a node reads and writes at once.
const KEPT: usize = 2;

#[derive(Debug)]
pub(super) struct Client {
    config: Config,
    /// The endpoint that is asked first.
    first: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    token: Option<String>,
    /// Of the cluster that answered first.
    cluster: Option<String>,
    /// The highest revision that it was seen at.
    revision: u64,
}

/// An open connection. It is worked on by the call that uses it, and dropped with it.
struct Connection {
    endpoint: usize,
    sender: http1::SendRequest<Full<Bytes>>,
    work: Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Unless it is passed, the next call goes to another endpoint: after an error, and after a call that was dropped. That is
/// how one ends whose endpoint takes requests and answers none.
struct Trial<'c> {
    client: &'c Client,
    endpoint: usize,
    passed: bool,
}

impl<'c> Trial<'c> {
    fn of(client: &'c Client, endpoint: usize) -> Self {
        Self { client, endpoint, passed: false }
    }

    fn passed(mut self) {
        self.passed = true;
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !self.passed {
            // Calls that fail together move on once.
            let next = (self.endpoint + 1) % self.client.config.endpoints.len().max(1);
            let first = &self.client.first;
            let _ = first.compare_exchange(self.endpoint, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// What became of a request that was sent.
enum Reply {
    Success(Bytes),
    Failure(Failure),
}

impl Client {
    pub(super) fn new(config: Config) -> Self {
        Self { config, first: AtomicUsize::new(0), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `request` to `path`, and reads the answer.
    pub(super) async fn call<A: Answer>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<A, StoreError> {
        let (mut token, seen) = {
            let state = self.state();
            (state.token.clone(), state.revision)
        };
        let mut renewed = false;
        loop {
            match self.exchange(path, request, token.as_deref()).await? {
                Reply::Success(body) => {
                    let answer: A = parse(&body)?;
                    self.check(answer.header(), seen)?;
                    return Ok(answer);
                }
                // It was refused before anything was done, so that it may be sent again.
                Reply::Failure(failure)
                    if failure.asks_for_token() && self.config.user.is_some() && !renewed =>
                {
                    renewed = true;
                    token = Some(self.authenticate().await?);
                }
                Reply::Failure(failure) => return Err(failure.into_error()),
            }
        }
    }

    async fn authenticate(&self) -> Result<String, StoreError> {
        let Some(user) = &self.config.user else { return Err(malformed("it wants a user")) };
        let request = Authenticate { name: &user.name, password: &user.password };
        match self.exchange("/v3/auth/authenticate", &request, None).await? {
            Reply::Success(body) => {
                let Token { token } = parse(&body)?;
                self.state().token = Some(token.clone());
                Ok(token)
            }
            Reply::Failure(failure) => Err(failure.into_error()),
        }
    }

    /// Refuses a store that is not the one of before: what electors know of its records does not hold there.
    fn check(&self, header: &Header, seen: u64) -> Result<(), StoreError> {
        const REMEDY: &str = "stop all electors, and start them a lease later";
        let mut state = self.state();
        let known = state.cluster.get_or_insert_with(|| header.cluster_id.clone());
        if *known != header.cluster_id {
            let answering = &header.cluster_id;
            return Err(StoreError::permanent(format!(
                "etcd cluster {answering} answers where cluster {known} did: {REMEDY}"
            )));
        }
        // Each answer is as new as what was known when it was asked for: reads are linearizable.
        let revision = header.number()?;
        if revision < seen {
            return Err(StoreError::permanent(format!(
                "etcd is at revision {revision} and was at {seen}: it was restored from a backup, or emptied; {REMEDY}"
            )));
        }
        state.revision = state.revision.max(revision);
        Ok(())
    }

    async fn exchange(
        &self,
        path: &str,
        request: &impl Serialize,
        token: Option<&str>,
    ) -> Result<Reply, StoreError> {
        let body = serde_json::to_vec(request).map_err(StoreError::permanent)?;
        let mut connection = self.connection().await?;
        let endpoint = connection.endpoint;
        let trial = Trial::of(self, endpoint);
        let request = self.request(endpoint, path, body.into(), token)?;
        let answering = async {
            let answer = connection.sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
        };
        let answered = tokio::select! {
            biased;
            answered = answering => answered,
            ended = &mut connection.work => Err(match ended {
                Ok(()) => "etcd closed the connection".into(),
                Err(error) => error.into(),
            }),
        };
        let (status, body) = answered.map_err(StoreError::Unavailable)?;
        let mut state = self.state();
        if connection.sender.is_ready() && state.idle.len() < KEPT {
            state.idle.push(connection);
        }
        drop(state);
        // A member without a leader says so; another may have one.
        if status.is_server_error() {
            return Err(Failure::parse(status.as_u16(), &body).into_error());
        }
        trial.passed();
        if status.is_success() {
            return Ok(Reply::Success(body));
        }
        Ok(Reply::Failure(Failure::parse(status.as_u16(), &body)))
    }

    fn request(
        &self,
        endpoint: usize,
        path: &str,
        body: Bytes,
        token: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, StoreError> {
        let authority = self.config.endpoints.get(endpoint).map_or("", |endpoint| &endpoint.authority);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(StoreError::permanent)?;
        if let Some(token) = token {
            let token = HeaderValue::from_str(token).map_err(|_| malformed("its token is no text"))?;
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        Ok(request)
    }

    /// A connection that is kept, or a new one to the first endpoint that takes it.
    async fn connection(&self) -> Result<Connection, StoreError> {
        let count = self.config.endpoints.len();
        let first = self.first.load(Ordering::Relaxed) % count.max(1);
        loop {
            let kept = self.state().idle.pop();
            let Some(mut kept) = kept else { break };
            // What the other end did meanwhile is noticed by working on it.
            let ended =
                std::future::poll_fn(|cx| std::task::Poll::Ready(kept.work.as_mut().poll(cx).is_ready()));
            if kept.endpoint == first && !ended.await && kept.sender.is_ready() {
                return Ok(kept);
            }
        }
        let mut why = StoreError::permanent("there is no endpoint");
        for offset in 0..count {
            let index = (first + offset) % count;
            let Some(endpoint) = self.config.endpoints.get(index) else { continue };
            let trial = Trial::of(self, index);
            match timeout(self.config.connect_timeout, connect(index, endpoint)).await {
                Ok(Ok(connection)) => {
                    trial.passed();
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok(Err(error)) => {
                    why = StoreError::unavailable(format!("cannot connect to {endpoint}: {error}"));
                }
                Err(_) => why = StoreError::unavailable(format!("{endpoint} does not take a connection")),
            }
        }
        Err(why)
    }
}

async fn connect(
    index: usize,
    endpoint: &Endpoint,
) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(&*endpoint.authority).await?;
    stream.set_nodelay(true)?;
    let (sender, work) = http1::handshake(TokioIo::new(stream)).await?;
    Ok(Connection { endpoint: index, sender, work: Box::pin(work) })
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(body)
        .map_err(|error| StoreError::unavailable(format!("the answer is not etcd's: {error}")))
}
