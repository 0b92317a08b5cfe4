//! The finite state machine of RFC 4271 §8.2, as a table.
//!
//! ```text
//!            start                    TCP up                OPEN               KEEPALIVE
//!  ┌──────┐ ───────► ┌─────────┐ ───────────► ┌──────────┐ ──────► ┌─────────────┐ ──────► ┌─────────────┐
//!  │ Idle │          │ Connect │              │ OpenSent │         │ OpenConfirm │         │ Established │
//!  └──────┘ ───────► └─────────┘              └──────────┘         └─────────────┘         └─────────────┘
//!      ▲    passive    │     ▲   retry timer    ▲     │ TCP lost         │                       │
//!      │    start      ▼     │                  │     ▼                  │                       │
//!      │             ┌────────┐    TCP up       │                        │                       │
//!      │             │ Active │ ────────────────┘                        │                       │
//!      │             └────────┘                                          │                       │
//!      └──── anything else ◄─────────────────────────────────────────────┴───────────────────────┘
//! ```
//!
//! Every connection has one. The optional DelayOpen is not offered; what the RFC does with an attribute for it is
//! here as if it were off. What to wait before the next start (DampPeerOscillations) is the peer's matter.

use std::fmt;

/// The state of a session (RFC 4271 §8.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Refuses connections and starts none.
    #[default]
    Idle,
    /// Waits for the connection that it asked for.
    Connect,
    /// Waits to be called, or to call again.
    Active,
    /// Has said who it is, and waits for the peer to do so.
    OpenSent,
    /// Waits for the peer to agree.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl State {
    /// All of them, in the order of the RFC.
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::Connect, Self::Active, Self::OpenSent, Self::OpenConfirm, Self::Established];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What can happen to a session, with the number of the event in RFC 4271 §8.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// 1 ManualStart, 3 AutomaticStart.
    Start,
    /// 4 ManualStart_with_PassiveTcpEstablishment, 5 AutomaticStart_with_PassiveTcpEstablishment.
    StartPassive,
    /// 2 ManualStop, 8 AutomaticStop; with the reason to give.
    Stop,
    /// 9 ConnectRetryTimer_Expires.
    ConnectRetryTimerExpires,
    /// 10 HoldTimer_Expires.
    HoldTimerExpires,
    /// 11 KeepaliveTimer_Expires.
    KeepaliveTimerExpires,
    /// 29 SendHoldTimer_Expires (RFC 9687).
    SendHoldTimerExpires,
    /// 16 Tcp_CR_Acked, 17 TcpConnectionConfirmed.
    TcpConnected,
    /// 18 TcpConnectionFails.
    TcpConnectionFails,
    /// 19 BGPOpen.
    Open,
    /// 21 BGPHeaderErr, 22 BGPOpenMsgErr; with the NOTIFICATION for it.
    MessageError,
    /// 28 UpdateMsgErr; with the NOTIFICATION for it.
    UpdateError,
    /// 23 OpenCollisionDump.
    OpenCollisionDump,
    /// 24 NotifMsgVerErr, 25 NotifMsg.
    NotificationReceived,
    /// 26 KeepAliveMsg.
    Keepalive,
    /// 27 UpdateMsg.
    Update,
    /// A ROUTE-REFRESH (RFC 2918).
    RouteRefresh,
}

impl Event {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 17] = [
        Self::Start,
        Self::StartPassive,
        Self::Stop,
        Self::ConnectRetryTimerExpires,
        Self::HoldTimerExpires,
        Self::KeepaliveTimerExpires,
        Self::SendHoldTimerExpires,
        Self::TcpConnected,
        Self::TcpConnectionFails,
        Self::Open,
        Self::MessageError,
        Self::UpdateError,
        Self::OpenCollisionDump,
        Self::NotificationReceived,
        Self::Keepalive,
        Self::Update,
        Self::RouteRefresh,
    ];
}

/// What a transition does, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask for a connection.
    Dial,
    /// (Re)start the ConnectRetryTimer.
    StartConnectRetry,
    /// Stop it.
    StopConnectRetry,
    /// Send OPEN.
    SendOpen,
    /// Start the HoldTimer with the large value of RFC 4271 §8.2.2.
    StartLargeHold,
    /// Take over what the peer's OPEN says, and (re)start HoldTimer and KeepaliveTimer with the negotiated time.
    Negotiate,
    /// Restart the HoldTimer with the negotiated time.
    RestartHold,
    /// Send KEEPALIVE and restart the KeepaliveTimer.
    SendKeepalive,
    /// Send the NOTIFICATION that came with the event.
    SendNotification,
    /// Send "Hold Timer Expired".
    SendHoldTimerExpired,
    /// Send "Send Hold Timer Expired".
    SendSendHoldTimerExpired,
    /// Send "Finite State Machine Error" with the subcode of the state.
    SendFsmError,
    /// The session is up.
    Up,
    /// Take in the UPDATE.
    ProcessUpdate,
    /// Send the routes of a family once more.
    Refresh,
    /// Close the connection, stop all timers, forget all that was negotiated.
    Release,
}

/// Where an event leads, and what is done on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) next: State,
    pub(crate) actions: &'static [Action],
}

/// The table. An event that a state has no line for is the "any other event" of the RFC.
pub(crate) const fn transition(state: State, event: Event) -> Transition {
    use Action as A;
    use Event as E;
    use State as S;

    let (next, actions): (S, &'static [A]) = match (state, event) {
        (S::Idle, E::Start) => (S::Connect, &[A::StartConnectRetry, A::Dial]),
        (S::Idle, E::StartPassive) => (S::Active, &[]),
        (S::Idle, _) => (S::Idle, &[]),

        (_, E::Start | E::StartPassive) => (state, &[]),

        (S::Connect, E::ConnectRetryTimerExpires) => {
            (S::Connect, &[A::Release, A::StartConnectRetry, A::Dial])
        }
        (S::Active, E::ConnectRetryTimerExpires) => (S::Connect, &[A::StartConnectRetry, A::Dial]),
        (S::Connect | S::Active, E::TcpConnected) => {
            (S::OpenSent, &[A::StopConnectRetry, A::SendOpen, A::StartLargeHold])
        }
        (S::Connect | S::Active, _) => (S::Idle, &[A::Release]),

        (S::OpenSent, E::TcpConnectionFails) => (S::Active, &[A::Release, A::StartConnectRetry]),
        (S::OpenSent, E::Open) => (S::OpenConfirm, &[A::StopConnectRetry, A::Negotiate, A::SendKeepalive]),

        (S::OpenConfirm, E::Keepalive) => (S::Established, &[A::RestartHold, A::Up]),
        (S::OpenConfirm | S::Established, E::KeepaliveTimerExpires) => (state, &[A::SendKeepalive]),

        (S::Established, E::Keepalive) => (S::Established, &[A::RestartHold]),
        (S::Established, E::Update) => (S::Established, &[A::RestartHold, A::ProcessUpdate]),
        (S::Established, E::RouteRefresh) => (S::Established, &[A::Refresh]),

        // Of a wrong header in Established, §8.2.2 makes an FSM error; §6.1 and everybody else, a header error.
        (S::OpenSent | S::OpenConfirm | S::Established, E::Stop | E::MessageError | E::OpenCollisionDump)
        | (S::Established, E::UpdateError) => (S::Idle, &[A::SendNotification, A::Release]),
        (S::OpenSent | S::OpenConfirm | S::Established, E::HoldTimerExpires) => {
            (S::Idle, &[A::SendHoldTimerExpired, A::Release])
        }
        (S::OpenSent | S::OpenConfirm | S::Established, E::SendHoldTimerExpires) => {
            (S::Idle, &[A::SendSendHoldTimerExpired, A::Release])
        }
        // In OpenSent the RFC answers a NOTIFICATION with one ("any other event"); no implementation that we know
        // of does, and §6.4 would have no use for it.
        (S::OpenSent | S::OpenConfirm | S::Established, E::NotificationReceived) => (S::Idle, &[A::Release]),
        (S::OpenConfirm | S::Established, E::TcpConnectionFails) => (S::Idle, &[A::Release]),
        (S::OpenSent | S::OpenConfirm | S::Established, _) => (S::Idle, &[A::SendFsmError, A::Release]),
    };
    Transition { next, actions }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole matrix, one line a pair. On a difference the test prints what to put into the file, to be read
    /// before it is put there.
    #[test]
    fn the_matrix_is_as_recorded() {
        let mut actual = String::new();
        for state in State::ALL {
            for event in Event::ALL {
                let Transition { next, actions } = transition(state, event);
                let actions: Vec<_> = actions.iter().map(|action| format!("{action:?}")).collect();
                let (state, event, next) = (state.to_string(), format!("{event:?}"), next.to_string());
                let line = format!("{state:<12} {event:<25} {next:<12} {}", actions.join(" "));
                actual += line.trim_end();
                actual.push('\n');
            }
        }
        let recorded = include_str!("fsm.snapshot");
        assert!(actual == recorded, "src/machine/fsm.snapshot should be:\n{actual}");
    }

    #[test]
    fn whatever_leads_to_idle_lets_go_of_the_connection() {
        for state in State::ALL.into_iter().filter(|state| *state != State::Idle) {
            for event in Event::ALL {
                let transition = transition(state, event);
                if transition.next == State::Idle {
                    assert_eq!(transition.actions.last(), Some(&Action::Release), "{state} {event:?}");
                }
            }
        }
    }
}
