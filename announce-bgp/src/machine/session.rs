//! One connection to a peer: messages in, messages out, and the timers of RFC 4271 §10.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use lbcore::time::Instant;

use super::fsm::{self, Action, State};
use super::speaker::ConnectionId;
use crate::config::PeerConfig;
use crate::wire::notification::{self, fsm as fsm_subcode, open as open_subcode};
use crate::wire::{
    AddressFamily, Capability, Context, DecodeError, Families, HEADER_LENGTH, Header, Message, Notification,
    Open, Peering, RouteRefresh,
};

/// The hold time until one is negotiated (RFC 4271 §8.2.2 suggests four minutes).
const LARGE_HOLD: Duration = Duration::from_secs(240);
/// How long to wait for a connection: a SYN that was lost is sent again after 1 s, and after 3 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// RFC 9687 §4: the least time that a peer gets to take what we send.
const SEND_HOLD: Duration = Duration::from_secs(480);

/// What the session says of this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalEnd {
    pub(crate) local_as: u32,
    pub(crate) router_id: Ipv4Addr,
}

/// What both ends agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) remote_as: u32,
    pub(crate) remote_id: Ipv4Addr,
    pub(crate) context: Context,
    /// Zero: no HoldTimer and no KEEPALIVEs.
    pub(crate) hold: Duration,
    pub(crate) keepalive: Duration,
}

/// Why a session ended, or never began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Sent(Notification),
    Received(Notification),
    Connection(String),
}

impl Cause {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Sent(_) => "NotificationSent",
            Self::Received(_) => "NotificationReceived",
            Self::Connection(_) => "ConnectionFailed",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(notification) => write!(f, "we sent {notification}"),
            Self::Received(notification) => write!(f, "it sent {notification}"),
            Self::Connection(error) => f.write_str(error),
        }
    }
}

/// What the session wants of its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A connection.
    Dial,
    /// No more of this connection, after these last bytes.
    Close { connection: ConnectionId, farewell: Vec<u8> },
    /// All routes: it is established.
    Up,
    /// All routes of this family once more.
    Refresh(AddressFamily),
}

/// What came from a peer, and what became of it. Kept over all its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Times that a session was established.
    pub established: u64,
    /// UPDATEs that were well-formed.
    pub updates_received: u64,
    /// Routes in them; each is dropped, since an announcer learns nothing.
    pub prefixes_dropped: u64,
    /// UPDATEs whose routes were taken as withdrawn (RFC 7606).
    pub treated_as_withdraw: u64,
    /// UPDATEs that lost an attribute (RFC 7606).
    pub attributes_discarded: u64,
    /// Requests for all routes that were answered (RFC 2918).
    pub refreshes_answered: u64,
    /// NOTIFICATIONs that were sent.
    pub notifications_sent: u64,
    /// NOTIFICATIONs that were received.
    pub notifications_received: u64,
    /// Attempts to connect that failed.
    pub connections_failed: u64,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    ConnectRetry,
    Hold,
    Keepalive,
    SendHold,
}

impl Timer {
    const ALL: [Self; 4] = [Self::ConnectRetry, Self::Hold, Self::Keepalive, Self::SendHold];

    fn event(self) -> fsm::Event {
        match self {
            Self::ConnectRetry => fsm::Event::ConnectRetryTimerExpires,
            Self::Hold => fsm::Event::HoldTimerExpires,
            Self::Keepalive => fsm::Event::KeepaliveTimerExpires,
            Self::SendHold => fsm::Event::SendHoldTimerExpires,
        }
    }
}

/// What comes with an event.
#[derive(Debug)]
enum With {
    Nothing,
    Notification(Notification),
    Open(Negotiated),
    Refresh(RouteRefresh),
}

/// One connection, with its state machine.
#[derive(Debug)]
pub(crate) struct Session {
    config: Arc<PeerConfig>,
    local: LocalEnd,
    state: State,
    timers: [Option<Instant>; Timer::ALL.len()],
    /// How long to wait in Active before the next attempt.
    pub(crate) retry_pause: Duration,
    connection: Option<ConnectionId>,
    /// Our own address; set while there is a connection.
    pub(crate) local_address: Option<IpAddr>,
    negotiated: Option<Negotiated>,
    /// What was received and not looked at yet: less than one message, once `next_message` returned `None`.
    input: Vec<u8>,
    consumed: usize,
    /// The OPEN, until it is handed out.
    opening: Vec<u8>,
    /// Whether a KEEPALIVE is to be sent. A flag, so that a peer that does not read costs no memory.
    keepalive_due: bool,
    farewell: Vec<u8>,
    cause: Option<Cause>,
    effects: VecDeque<Effect>,
    pub(crate) counters: Counters,
}

impl Session {
    pub(crate) fn new(config: Arc<PeerConfig>, local: LocalEnd) -> Self {
        Self {
            retry_pause: config.connect_retry,
            config,
            local,
            state: State::Idle,
            timers: [None; Timer::ALL.len()],
            connection: None,
            local_address: None,
            negotiated: None,
            input: Vec::new(),
            consumed: 0,
            opening: Vec::new(),
            keepalive_due: false,
            farewell: Vec::new(),
            cause: None,
            effects: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        self.connection
    }

    pub(crate) fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Why it last fell back; taken by the caller.
    pub(crate) fn take_cause(&mut self) -> Option<Cause> {
        self.cause.take()
    }

    pub(crate) fn start(&mut self, now: Instant) {
        self.fire(now, fsm::Event::Start, With::Nothing);
    }

    pub(crate) fn start_passive(&mut self, now: Instant) {
        self.fire(now, fsm::Event::StartPassive, With::Nothing);
    }

    /// The answer to [`Effect::Dial`]: the attempt has this name.
    pub(crate) fn dialling(&mut self, connection: ConnectionId) {
        self.connection = Some(connection);
    }

    pub(crate) fn connected(&mut self, now: Instant, connection: ConnectionId, local: IpAddr) {
        self.connection = Some(connection);
        self.local_address = Some(local.to_canonical());
        self.fire(now, fsm::Event::TcpConnected, With::Nothing);
    }

    pub(crate) fn disconnected(&mut self, now: Instant, error: String) {
        self.counters.connections_failed += u64::from(self.state == State::Connect);
        self.cause = Some(Cause::Connection(error));
        self.fire(now, fsm::Event::TcpConnectionFails, With::Nothing);
    }

    /// Ends it, with the reason to give.
    pub(crate) fn stop(&mut self, now: Instant, reason: Notification) {
        self.fire(now, fsm::Event::Stop, With::Notification(reason));
    }

    /// Ends it with `messages` before the reason.
    pub(crate) fn stop_after(&mut self, now: Instant, messages: Vec<u8>, reason: Notification) {
        self.farewell = messages;
        self.stop(now, reason);
    }

    /// Ends it as the loser of a collision (RFC 4271 §6.8).
    pub(crate) fn dump(&mut self, now: Instant) {
        let reason = Notification::cease(notification::cease::CONNECTION_COLLISION_RESOLUTION);
        self.fire(now, fsm::Event::OpenCollisionDump, With::Notification(reason));
    }

    /// Takes in what came from the connection.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.input.drain(..self.consumed);
            self.consumed = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next whole message, or what is wrong with it; a wrong header is told before the rest is there.
    pub(crate) fn next_message(&mut self) -> Option<Result<Message, DecodeError>> {
        self.connection?;
        let pending = self.input.get(self.consumed..)?;
        let header = pending.first_chunk::<HEADER_LENGTH>()?;
        let header = match Header::decode(header) {
            Ok(header) => header,
            Err(notification) => return Some(Err(DecodeError::SessionReset(notification))),
        };
        let frame = pending.get(..header.length)?;
        let context = match &self.negotiated {
            Some(negotiated) => negotiated.context,
            None => Context::new(self.config.remote_as.peering(self.local.local_as)),
        };
        let message = Message::decode(frame, &context);
        self.consumed += header.length;
        Some(message)
    }

    /// Acts upon a message. An OPEN has passed [`check_open`](Self::check_open) and won all collisions.
    pub(crate) fn handle(&mut self, now: Instant, message: Result<Message, DecodeError>) {
        match message {
            Ok(Message::Open(open)) => match self.check_open(&open) {
                Ok(negotiated) => self.fire(now, fsm::Event::Open, With::Open(negotiated)),
                Err(reason) => self.fire(now, fsm::Event::MessageError, With::Notification(reason)),
            },
            Ok(Message::Keepalive) => self.fire(now, fsm::Event::Keepalive, With::Nothing),
            Ok(Message::Notification(notification)) => {
                self.counters.notifications_received += 1;
                self.cause = Some(Cause::Received(notification));
                self.fire(now, fsm::Event::NotificationReceived, With::Nothing);
            }
            Ok(Message::RouteRefresh(refresh)) => {
                self.fire(now, fsm::Event::RouteRefresh, With::Refresh(refresh));
            }
            Ok(Message::Update(update)) => {
                self.counters.updates_received += 1;
                self.counters.prefixes_dropped += update.announced().count() as u64;
                self.fire(now, fsm::Event::Update, With::Nothing);
            }
            Err(DecodeError::AttributeDiscard { update, .. }) => {
                self.counters.attributes_discarded += 1;
                self.counters.prefixes_dropped += update.announced().count() as u64;
                self.fire(now, fsm::Event::Update, With::Nothing);
            }
            Err(DecodeError::TreatAsWithdraw { .. }) => {
                self.counters.treated_as_withdraw += 1;
                self.fire(now, fsm::Event::Update, With::Nothing);
            }
            Err(DecodeError::SessionReset(reason)) => {
                let event = match reason.code {
                    notification::UPDATE_ERROR => fsm::Event::UpdateError,
                    _ => fsm::Event::MessageError,
                };
                self.fire(now, event, With::Notification(reason));
            }
        }
    }

    /// What follows from an OPEN, or why it is refused (RFC 4271 §6.2).
    pub(crate) fn check_open(&self, open: &Open) -> Result<Negotiated, Notification> {
        let refuse = |subcode| Err(Notification::new(notification::OPEN_ERROR, subcode));
        let (config, local) = (&self.config, &self.local);
        let remote_as = open.autonomous_system();
        if !config.remote_as.admits(local.local_as, remote_as) {
            return refuse(open_subcode::BAD_PEER_AS);
        }
        let peering = if remote_as == local.local_as { Peering::Internal } else { Peering::External };
        // RFC 6286 §2.2: within an AS the identifier tells speakers apart.
        if peering == Peering::Internal && open.identifier == local.router_id {
            return refuse(open_subcode::BAD_BGP_IDENTIFIER);
        }
        let families = open.families().intersection(config.families);
        if families.is_empty() {
            let mut wanted = Vec::new();
            multiprotocol(config.families).for_each(|capability| capability.encode(&mut wanted));
            return Err(Notification::with_data(
                notification::OPEN_ERROR,
                open_subcode::UNSUPPORTED_CAPABILITY,
                wanted,
            ));
        }
        let hold = Duration::from_secs(open.hold_time.min(config.hold_seconds()).into());
        let keepalive = (hold / 3).min(config.keepalive_time.unwrap_or(Duration::MAX));
        let context = Context::new(peering).four_octet_as(open.four_octet_as().is_some()).families(families);
        Ok(Negotiated { remote_as, remote_id: open.identifier, context, hold, keepalive })
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for timer in Timer::ALL {
            if self.timers[timer as usize].is_some_and(|deadline| deadline <= now) {
                self.timers[timer as usize] = None;
                self.fire(now, timer.event(), With::Nothing);
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.iter().flatten().min().copied()
    }

    /// Appends what is to be said apart from routes.
    pub(crate) fn poll_output(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.opening);
        if std::mem::take(&mut self.keepalive_due) {
            // A KEEPALIVE always fits.
            let _ = Message::Keepalive.encode(&Context::new(Peering::External), out);
        }
    }

    /// Whether [`poll_output`](Self::poll_output) has anything.
    pub(crate) fn has_output(&self) -> bool {
        self.keepalive_due || !self.opening.is_empty()
    }

    /// Some of what there was to say went out, and whether there is more. Starts, restarts or stops the SendHoldTimer
    /// (RFC 9687).
    pub(crate) fn progress(&mut self, now: Instant, wrote: bool, more: bool) {
        let timer = &mut self.timers[Timer::SendHold as usize];
        if !more || self.connection.is_none() {
            *timer = None;
        } else if wrote || timer.is_none() {
            let hold = self.negotiated.map_or(LARGE_HOLD, |negotiated| negotiated.hold);
            *timer = Some(now + SEND_HOLD.max(hold * 2));
        }
    }

    fn fire(&mut self, now: Instant, event: fsm::Event, mut with: With) {
        let fsm::Transition { next, actions } = fsm::transition(self.state, event);
        let from = std::mem::replace(&mut self.state, next);
        for action in actions {
            self.act(now, from, *action, &mut with);
        }
    }

    fn set(&mut self, timer: Timer, deadline: Option<Instant>) {
        self.timers[timer as usize] = deadline;
    }

    fn act(&mut self, now: Instant, from: State, action: Action, with: &mut With) {
        match action {
            Action::Dial => self.effects.push_back(Effect::Dial),
            Action::StartConnectRetry => {
                let time = if self.state == State::Connect { CONNECT_TIMEOUT } else { self.retry_pause };
                self.set(Timer::ConnectRetry, Some(now + time));
            }
            Action::StopConnectRetry => self.set(Timer::ConnectRetry, None),
            Action::SendOpen => self.send_open(),
            Action::StartLargeHold => self.set(Timer::Hold, Some(now + LARGE_HOLD)),
            Action::Negotiate => {
                if let With::Open(negotiated) = with {
                    self.negotiated = Some(*negotiated);
                }
                self.restart_hold(now);
            }
            Action::RestartHold => self.restart_hold(now),
            Action::SendKeepalive => {
                self.keepalive_due = true;
                // RFC 4271 §10 asks for jitter, so that a router with many peers has no peaks; we have few.
                let interval = self.negotiated.map(|negotiated| negotiated.keepalive);
                self.set(Timer::Keepalive, interval.filter(|time| !time.is_zero()).map(|time| now + time));
            }
            Action::SendNotification => {
                if let With::Notification(reason) = std::mem::replace(with, With::Nothing) {
                    self.send_notification(reason);
                }
            }
            Action::SendHoldTimerExpired => {
                self.send_notification(Notification::new(notification::HOLD_TIMER_EXPIRED, 0));
            }
            Action::SendSendHoldTimerExpired => {
                self.send_notification(Notification::new(notification::SEND_HOLD_TIMER_EXPIRED, 0));
            }
            Action::SendFsmError => {
                let subcode = match from {
                    State::OpenConfirm => fsm_subcode::UNEXPECTED_IN_OPEN_CONFIRM,
                    State::Established => fsm_subcode::UNEXPECTED_IN_ESTABLISHED,
                    _ => fsm_subcode::UNEXPECTED_IN_OPEN_SENT,
                };
                self.send_notification(Notification::new(notification::FSM_ERROR, subcode));
            }
            Action::Up => {
                self.counters.established += 1;
                self.effects.push_back(Effect::Up);
            }
            // An announcer learns nothing: what there was to count has been counted.
            Action::ProcessUpdate => (),
            Action::Refresh => {
                if let With::Refresh(refresh) = with {
                    self.effects.push_back(Effect::Refresh(refresh.family));
                }
            }
            Action::Release => self.release(),
        }
    }

    fn restart_hold(&mut self, now: Instant) {
        let hold = self.negotiated.map_or(LARGE_HOLD, |negotiated| negotiated.hold);
        self.set(Timer::Hold, (!hold.is_zero()).then(|| now + hold));
    }

    fn send_open(&mut self) {
        let mut capabilities: Vec<_> = multiprotocol(self.config.families).collect();
        capabilities.extend([Capability::RouteRefresh, Capability::FourOctetAs(self.local.local_as)]);
        let open =
            Open::new(self.local.local_as, self.config.hold_seconds(), self.local.router_id, capabilities);
        // Four short capabilities always fit.
        let _ = Message::Open(open).encode(&Context::new(Peering::External), &mut self.opening);
    }

    fn send_notification(&mut self, reason: Notification) {
        self.counters.notifications_sent += 1;
        self.cause = Some(Cause::Sent(reason.clone()));
        let mut farewell = std::mem::take(&mut self.opening);
        farewell.append(&mut self.farewell);
        // It is cut to what fits.
        let _ = Message::Notification(reason).encode(&Context::new(Peering::External), &mut farewell);
        self.farewell = farewell;
    }

    fn release(&mut self) {
        if let Some(connection) = self.connection.take() {
            let farewell = std::mem::take(&mut self.farewell);
            self.effects.push_back(Effect::Close { connection, farewell });
        }
        self.timers = [None; Timer::ALL.len()];
        self.local_address = None;
        self.negotiated = None;
        self.input = Vec::new();
        self.consumed = 0;
        self.opening.clear();
        self.farewell.clear();
        self.keepalive_due = false;
    }
}

fn multiprotocol(families: Families) -> impl Iterator<Item = Capability> {
    families.iter().map(|family| Capability::Multiprotocol(family.into()))
}
