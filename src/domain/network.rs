//! A network of addresses, as those who may connect are named.

use std::fmt;
use std::net::IpAddr;

/// Addresses with a common beginning, as `192.168.10.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// An address in it.
    pub address: IpAddr,
    /// Bits that its addresses have in common.
    pub bits: u8,
}

impl Network {
    /// Reads an address, alone or with `/BITS`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(all), |bits| bits.parse().ok())?;
        (bits <= all).then_some(Self { address, bits })
    }

    /// Whether an address is in it; an IPv4 address that came by IPv6 is itself.
    pub fn holds(&self, address: IpAddr) -> bool {
        let shared = |a: u128, b: u128, width: u32| {
            let rest = width - u32::from(self.bits);
            rest >= width || a >> rest == b >> rest
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => shared(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => shared(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_the_addresses_that_begin_as_it_does() {
        let network = |text: &str| Network::parse(text).unwrap();
        let holds = |text: &str, address: &str| network(text).holds(address.parse().unwrap());
        assert!(holds("192.168.10.0/24", "192.168.10.77") && !holds("192.168.10.0/24", "192.168.11.77"));
        assert!(holds("10.0.0.7", "10.0.0.7") && !holds("10.0.0.7", "10.0.0.8"));
        assert!(holds("0.0.0.0/0", "8.8.8.8") && !holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("192.168.10.0/24", "::ffff:192.168.10.5"), "IPv4 by IPv6");
        assert!(holds("2001:db8::/32", "2001:db8:7::1") && !holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("::/0", "::1"));
        for bad in ["", "plc", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129", "10.0.0.0/24/8"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
        assert_eq!(network("10.0.0.7").to_string(), "10.0.0.7/32");
    }
}
