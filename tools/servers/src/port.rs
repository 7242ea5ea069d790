//! Free ports on the loopback interface.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use rand::RngExt as _;

/// Ports below this one are left to servers with well-known numbers.
const PORT_MIN: u16 = 20_000;

/// Where the system's own choices begin when it does not say (Linux's default).
const EPHEMERAL_MIN_DEFAULT: u16 = 32_768;

/// Random ports tried before the system is asked for one.
const TRIES_MAX: usize = 200;

/// Ports this process has handed out. Whoever asked may not listen yet, so a bind test alone would hand
/// the same port out twice.
static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on 127.0.0.1 that nothing listens on and that this process has not handed out before.
///
/// It lies outside the range from which the system picks ports for outgoing connections: a client that
/// keeps trying to reach a stopped server on a port of that range can be given that very port, connect
/// to itself, and so keep the server from coming back.
///
/// # Errors
/// When no port can be bound at all.
pub fn free() -> io::Result<u16> {
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let end = ephemeral_min();
    let mut rng = rand::rng();
    for _ in 0..TRIES_MAX {
        let wanted = if end > PORT_MIN { rng.random_range(PORT_MIN..end) } else { 0 };
        if handed_out.contains(&wanted) {
            continue;
        }
        if let Ok(port) = bindable(wanted)
            && handed_out.insert(port)
        {
            return Ok(port);
        }
    }
    let port = bindable(0)?;
    handed_out.insert(port);
    Ok(port)
}

/// Binds `port` (0: any) for a moment and returns the port bound.
fn bindable(port: u16) -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr()?.port())
}

/// The first port the system may pick for outgoing connections.
fn ephemeral_min() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(EPHEMERAL_MIN_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_no_port_twice() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }
}
