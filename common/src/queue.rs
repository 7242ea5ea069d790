//! The connection to NATS: made once, kept for ever, its state watched.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{ConnectOptions, Event};
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::config;

/// How often the connection is probed; two unanswered probes end it.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait for one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for an answer of the JetStream API.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest pause between two attempts to reconnect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(250);

/// How often the state of the connection is compared with what was told of it.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How often an error that repeats is logged.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// Messages that wait for the process before the client library drops them. (A gap in a stream is
/// noticed and read again; a lost reply is looked up.)
const SUBSCRIPTION_CAPACITY: usize = 8_192;

/// What became of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// How often it has come up: what was learnt of the server under another number may be void.
    pub number: u64,
}

/// A connection and the news about it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client; it reconnects by itself.
    pub client: async_nats::Client,
    /// The state of the connection, as it changes.
    pub link: watch::Receiver<Link>,
}

/// NATS does not accept our user and password.
#[derive(Debug, thiserror::Error)]
#[error(
    "NATS refuses the connection: authorization violation (NATS_USER and NATS_PASSWORD, or those in NATS_URL)"
)]
pub struct Refused;

/// Connects as `role` (which names the connection, and its private inbox for requests).
///
/// # Errors
/// When the server refuses our credentials. A server that is not there yet is waited for, for ever.
pub async fn connect(config: &config::Nats, role: &str) -> Result<Connection, Refused> {
    let addresses: Vec<_> = config.url.split(',').map(|address| address.trim().to_owned()).collect();
    let mut backoff = Backoff::for_server();
    loop {
        let (sender, link) = watch::channel(Link { up: true, number: 1 });
        match options(config, role, sender.clone()).connect(addresses.clone()).await {
            Ok(client) => {
                tokio::spawn(watch(client.clone(), sender));
                return Ok(Connection { client, link });
            }
            Err(error) => {
                use async_nats::ConnectErrorKind::{Authentication, AuthorizationViolation};
                if matches!(error.kind(), Authentication | AuthorizationViolation) {
                    return Err(Refused);
                }
                tracing::warn!(%error, "waiting for NATS");
            }
        }
        backoff.wait().await;
    }
}

/// Corrects the link until nobody looks at it any more. The client library tells of changes, but drops the news when
/// nobody takes it fast enough; its state counts, and how often it has connected.
async fn watch(client: async_nats::Client, link: watch::Sender<Link>) {
    let statistics = client.statistics();
    let connects = || statistics.connects.load(Ordering::Relaxed);
    let mut audit = Audit { connects: connects(), number: link.borrow().number, differed: None };
    loop {
        tokio::select! {
            () = link.closed() => return,
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
        }
        let up = client.connection_state() == State::Connected;
        let told = *link.borrow();
        if let Some(corrected) = audit.look(told, up, connects()) {
            tracing::warn!(up, "news of the NATS connection was missed");
            // Unless the news has come this very moment.
            link.send_if_modified(|link| *link == told && std::mem::replace(link, corrected) == told);
        }
    }
}

/// What was told of a connection, compared with its state.
struct Audit {
    /// How often it had connected, and what had been told, when the two agreed.
    connects: u64,
    number: u64,
    /// What was told at the last look, if that was wrong.
    differed: Option<Link>,
}

impl Audit {
    /// The link as it is, if what was told of it is wrong. Two looks in a row, as the news may only be under way.
    fn look(&mut self, told: Link, up: bool, connects: u64) -> Option<Link> {
        // Lost and made again, and told of neither.
        let is_behind = told.number - self.number < connects - self.connects;
        if up == told.up && !is_behind {
            *self = Self { connects, number: told.number, differed: None };
            return None;
        }
        let again = self.differed.replace(told) == Some(told);
        again.then_some(Link { up, number: told.number + 1 })
    }
}

fn options(config: &config::Nats, role: &str, link: watch::Sender<Link>) -> ConnectOptions {
    let mut connected_before = false;
    let mut repetitions = Repetitions::default();
    let role_name = role.to_owned();
    let on_event = move |event: &Event| {
        match event {
            Event::Connected => link.send_modify(|link| {
                link.up = true;
                link.number += u64::from(std::mem::replace(&mut connected_before, true));
            }),
            Event::Disconnected | Event::Closed => link.send_modify(|link| link.up = false),
            _ => {}
        }
        // Attempts to connect again fail several times a second, and mostly for the same reason.
        if !matches!(event, Event::ClientError(_)) || repetitions.is_news(&event.to_string(), Instant::now())
        {
            log(event, &role_name);
        }
    };
    let on_event = std::sync::Mutex::new(on_event);
    let options = ConnectOptions::new()
        .name(role)
        .custom_inbox_prefix(format!("_INBOX.{role}"))
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            RECONNECT_DELAY_MAX
                .min(Duration::from_millis(25) * u32::try_from(attempts).unwrap_or(u32::MAX).min(64))
        })
        .event_callback(move |event| {
            if let Ok(mut on_event) = on_event.lock() {
                on_event(&event);
            }
            std::future::ready(())
        });
    match &config.credentials {
        Some((user, password)) => options.user_and_password(user.clone(), password.clone()),
        None => options,
    }
}

/// Knows what was logged.
#[derive(Default)]
struct Repetitions {
    logged: Option<(String, Instant)>,
}

impl Repetitions {
    /// Whether to log a text: not if it was the last one, less than [`LOG_AGAIN`] ago.
    fn is_news(&mut self, text: &str, now: Instant) -> bool {
        let is_known =
            |(logged, at): &(String, Instant)| logged == text && now.duration_since(*at) < LOG_AGAIN;
        let is_news = !self.logged.as_ref().is_some_and(is_known);
        if is_news {
            self.logged = Some((text.to_owned(), now));
        }
        is_news
    }
}

fn log(event: &Event, role: &str) {
    match event {
        Event::Connected => tracing::info!(role, "connected to NATS"),
        // Only we close it, when we stop.
        Event::Closed => tracing::debug!(role, "NATS connection closed"),
        event => tracing::warn!(role, %event, "NATS connection"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: Link = Link { up: true, number: 3 };

    fn audit() -> Audit {
        Audit { connects: 3, number: 3, differed: None }
    }

    #[test]
    fn news_that_was_missed_is_made_up_for() {
        // That it is down, that it is up again, and that it was away.
        let down = Link { up: false, ..TOLD };
        for (told, up, connects) in [(TOLD, false, 3), (down, true, 4), (TOLD, true, 4)] {
            let mut audit = audit();
            assert_eq!(audit.look(told, up, connects), None);
            let corrected = audit.look(told, up, connects);
            assert_eq!(corrected, Some(Link { up, number: 4 }), "{told:?} {up} {connects}");
            for _ in 0..2 {
                assert_eq!(audit.look(corrected.unwrap(), up, connects), None);
            }
        }
    }

    #[test]
    fn what_is_repeated_is_logged_once_a_minute() {
        let (start, mut repetitions) = (Instant::now(), Repetitions::default());
        let logged = [("a", 0), ("a", 59), ("b", 59), ("a", 60), ("a", 119), ("a", 120), ("a", 121)]
            .map(|(text, second)| repetitions.is_news(text, start + Duration::from_secs(second)));
        assert_eq!(logged, [true, false, true, true, false, true, false]);
    }

    #[test]
    fn news_that_is_late_or_right_is_left_alone() {
        let mut audit = audit();
        assert_eq!(audit.look(TOLD, false, 3), None);
        assert_eq!(audit.look(Link { up: false, ..TOLD }, false, 3), None);
        assert_eq!(audit.look(Link { up: false, ..TOLD }, true, 4), None);
        assert_eq!(audit.look(Link { number: 4, ..TOLD }, true, 4), None);
        assert_eq!(audit.look(Link { number: 4, ..TOLD }, true, 4), None);
    }
}
