//! Whether this node is fit to serve, by checks that the operator names (as keepalived's `track_script`).

use std::fmt;
use std::process::Stdio;
use std::str::FromStr;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, MissedTickBehavior, interval, timeout};

/// How often and how patiently each check is made.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two tries; each may take as long.
    pub every: Duration,
    /// This many failures in a row make the node unfit.
    pub fall: u32,
    /// This many successes in a row make it fit again.
    pub rise: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { every: Duration::from_secs(1), fall: 3, rise: 2 }
    }
}

/// One check: `tcp://HOST:PORT`, `http://HOST:PORT/PATH` (any status below 400 is good), or
/// `exec:PROGRAM ARGUMENT…` (exit status 0 is good).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A connection is accepted.
    Tcp(String),
    /// A GET is answered well.
    Http(http::Uri),
    /// A program succeeds.
    Exec(Vec<String>),
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            format!(
                "{text:?} is no check: write tcp://HOST:PORT, http://HOST:PORT/PATH or exec:PROGRAM ARGUMENT…"
            )
        };
        if let Some(target) = text.strip_prefix("tcp://") {
            let (host, port) = target.rsplit_once(':').ok_or_else(usage)?;
            if host.is_empty() || port.parse::<u16>().is_err() {
                return Err(usage());
            }
            return Ok(Self::Tcp(target.to_owned()));
        }
        if text.starts_with("http://") {
            let uri: http::Uri = text.parse().map_err(|_| usage())?;
            return Ok(Self::Http(uri));
        }
        if let Some(command) = text.strip_prefix("exec:") {
            let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
            return if words.is_empty() { Err(usage()) } else { Ok(Self::Exec(words)) };
        }
        Err(usage())
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(target) => write!(f, "tcp://{target}"),
            Self::Http(uri) => write!(f, "{uri}"),
            Self::Exec(words) => write!(f, "exec:{}", words.join(" ")),
        }
    }
}

impl Check {
    async fn attempt(&self) -> Result<(), String> {
        match self {
            Self::Tcp(target) => {
                TcpStream::connect(target).await.map(drop).map_err(|error| error.to_string())
            }
            Self::Http(uri) => get(uri).await,
            Self::Exec(words) => {
                let status = Command::new(&words[0])
                    .args(&words[1..])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .kill_on_drop(true)
                    .status()
                    .await
                    .map_err(|error| error.to_string())?;
                if status.success() { Ok(()) } else { Err(status.to_string()) }
            }
        }
    }
}

async fn get(uri: &http::Uri) -> Result<(), String> {
    let host = uri.host().unwrap_or_default();
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let request = http::Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(http::header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let _ = response.into_body().collect().await;
        if status.as_u16() < 400 { Ok(()) } else { Err(format!("HTTP status {status}")) }
    };
    // A connection that ended wakes the answer with its error, or has delivered it already.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<Result<(), String>>().await
    };
    tokio::select! {
        answer = answer => answer,
        never = connection => never,
    }
}

/// What the checks say together: fit, or the first reason why not.
pub type Readiness = Result<(), String>;

/// Runs the checks.
#[derive(Debug)]
pub struct Checks {
    verdict: watch::Receiver<Vec<Readiness>>,
    _tasks: JoinSet<()>,
}

impl Checks {
    /// Starts `checks`; until the first verdict of each, the node is not fit.
    pub fn start(checks: &[Check], pace: Pace) -> Self {
        let first: Vec<Readiness> =
            checks.iter().map(|check| Err(format!("{check}: not tried yet"))).collect();
        let (sender, verdict) = watch::channel(first);
        let mut tasks = JoinSet::new();
        for (index, check) in checks.iter().cloned().enumerate() {
            let sender = sender.clone();
            tasks.spawn(async move {
                let mut judge = Judge::new(pace);
                let mut ticks = interval(pace.every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    let result = match timeout(pace.every, check.attempt()).await {
                        Ok(result) => result,
                        Err(_) => Err(format!("no answer within {:?}", pace.every)),
                    };
                    if let Some(verdict) = judge.hear(result.map_err(|why| format!("{check}: {why}"))) {
                        sender.send_modify(|all| all[index] = verdict);
                    }
                }
            });
        }
        Self { verdict, _tasks: tasks }
    }

    /// What they say now.
    pub fn readiness(&self) -> Readiness {
        self.verdict.borrow().iter().find(|verdict| verdict.is_err()).cloned().unwrap_or(Ok(()))
    }

    /// Waits for another verdict. Cancel safe. Without checks it never comes.
    pub async fn changed(&mut self) {
        if self.verdict.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Counts results in a row.
#[derive(Debug)]
struct Judge {
    pace: Pace,
    verdict: Option<bool>,
    run: u32,
}

impl Judge {
    fn new(pace: Pace) -> Self {
        Self { pace, verdict: None, run: 0 }
    }

    /// Gives the verdict if this result changes it. The first result counts at once.
    fn hear(&mut self, result: Readiness) -> Option<Readiness> {
        let good = result.is_ok();
        if self.verdict == Some(good) {
            self.run = 0;
            return None;
        }
        self.run += 1;
        let needed = if good { self.pace.rise } else { self.pace.fall };
        if self.verdict.is_some() && self.run < needed {
            return None;
        }
        self.verdict = Some(good);
        self.run = 0;
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_checks_and_says_what_is_wrong_with_one() {
        for text in ["tcp://127.0.0.1:80", "http://127.0.0.1:8080/healthz", "exec:/bin/test -e /run/ready"] {
            assert_eq!(text.parse::<Check>().unwrap().to_string(), text);
        }
        for text in ["tcp://127.0.0.1", "tcp://:80", "exec:", "udp://127.0.0.1:53", "127.0.0.1:80"] {
            assert!(text.parse::<Check>().unwrap_err().contains("write tcp://HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn it_takes_several_in_a_row_to_change_a_verdict() {
        let mut judge = Judge::new(Pace { every: Duration::from_secs(1), fall: 3, rise: 2 });
        let bad = || Err("down".to_owned());
        let heard: Vec<_> =
            [Ok(()), bad(), bad(), Ok(()), bad(), bad(), bad(), bad(), Ok(()), bad(), Ok(()), Ok(())]
                .into_iter()
                .map(|result| judge.hear(result))
                .collect();
        let changes: Vec<_> = heard.iter().enumerate().filter_map(|(at, v)| Some((at, v.clone()?))).collect();
        assert_eq!(changes, [(0, Ok(())), (6, bad()), (11, Ok(()))]);
    }

    #[tokio::test]
    async fn a_program_decides() {
        assert_eq!("exec:true".parse::<Check>().unwrap().attempt().await, Ok(()));
        assert_eq!("exec:false".parse::<Check>().unwrap().attempt().await, Err("exit status: 1".to_owned()));
        let mut checks = Checks::start(&["exec:false".parse().unwrap()], Pace::default());
        assert!(checks.readiness().unwrap_err().contains("not tried yet"));
        checks.changed().await;
        assert_eq!(checks.readiness(), Err("exec:false: exit status: 1".to_owned()));
    }

    #[tokio::test]
    async fn an_http_status_decides() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            for status in ["204 No Content", "503 Service Unavailable"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 512];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /ready?now HTTP/1.1\r\n"));
                stream
                    .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
            }
        });
        let check: Check = format!("http://{address}/ready?now").parse().unwrap();
        assert_eq!(check.attempt().await, Ok(()));
        assert_eq!(check.attempt().await, Err("HTTP status 503 Service Unavailable".to_owned()));
    }
}
