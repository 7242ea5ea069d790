//! Where the requests go.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use anyhow::{Context, ensure};
use client::Uri;

/// A server, named by a plain `http://` address, with an optional path in front of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
    base: String,
}

impl Target {
    /// The value of the `Host` header.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The path of the request for `path` (which starts with a slash).
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The address to connect to.
    ///
    /// # Errors
    /// When the host's name has no address.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        // `localhost` often lists ::1 first while the server listens on 127.0.0.1 only.
        let name = self.host.trim_start_matches('[').trim_end_matches(']');
        let mut found = (name, self.port).to_socket_addrs()?.collect::<Vec<_>>();
        found.sort_by_key(SocketAddr::is_ipv6);
        found.first().copied().ok_or_else(|| io::Error::other(format!("{name} has no address")))
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("not an address: {url}"))?;
        let plain = uri.scheme_str() == Some("http");
        ensure!(plain, "the address has to start with http:// (TLS would measure the cipher): {url}");
        let authority = uri.authority().with_context(|| format!("no host in {url}"))?;
        ensure!(!authority.as_str().contains('@'), "credentials in the address are not supported: {url}");
        let host = authority.host();
        let port = match authority.as_str()[host.len()..].strip_prefix(':') {
            Some(port) => port.parse().with_context(|| format!("bad port in {url}"))?,
            None => 80,
        };
        Ok(Self { host: host.to_owned(), port, base: uri.path().trim_end_matches('/').to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let target: Target = "http://localhost:8080".parse().unwrap();
        assert_eq!(target.authority(), "localhost:8080");
        assert_eq!(target.path("/api/coupons"), "/api/coupons");

        let target: Target = "http://[::1]/front/".parse().unwrap();
        assert_eq!(target.authority(), "[::1]:80");
        assert_eq!(target.path("/x"), "/front/x");
        assert!(target.resolve().unwrap().is_ipv6());
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() {
        for url in ["https://localhost", "localhost:8080", "http://", "http://a:b", "http://u:p@host"] {
            assert!(url.parse::<Target>().is_err(), "{url}");
        }
        assert!("http://a:99999".parse::<Target>().is_err());
    }
}
