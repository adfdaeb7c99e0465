//! Who is at the other end, as far as an address says.
//!
//! ```text
//! socket address --a proxy on this machine, [web] public_url set--> last entry of X-Forwarded-For
//!                '--otherwise--> itself                                      '--> Home
//! ```

use axum::http::HeaderMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where a connection comes from; an extension of its requests, as its [`Home`] is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub SocketAddr);

/// Addresses that count as one: an IPv4 address, or a network of 64 bits, of which a host with IPv6 has
/// every address that it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Home(IpAddr);

impl From<IpAddr> for Home {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl Peer {
    /// Whose request this is. A proxy is believed where the config has one and it runs on this machine:
    /// anybody else could write what he likes into the header.
    pub(super) fn home(self, has_proxy: bool, headers: &HeaderMap) -> Home {
        let proxied = has_proxy && self.0.ip().to_canonical().is_loopback();
        let forwarded = headers.get_all("x-forwarded-for").into_iter().next_back();
        let last = forwarded.and_then(|v| v.to_str().ok()?.rsplit(',').next()?.trim().parse::<IpAddr>().ok());
        last.filter(|_| proxied).unwrap_or_else(|| self.0.ip()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_home() {
        let home = |text: &str| Home::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(home("2001:db8:1:2::1"), home("2001:db8:1:2:ffff::9"));
        assert_ne!(home("2001:db8:1:2::1"), home("2001:db8:1:3::1"));
        assert_ne!(home("10.0.0.1"), home("10.0.0.2"));
        assert_eq!(home("::ffff:10.0.0.1"), home("10.0.0.1"));
    }
}
