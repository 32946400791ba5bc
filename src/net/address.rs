//! Which addresses count as one.

use std::net::{IpAddr, Ipv6Addr};

/// Who is told apart on the network: an IPv4 address, or the /64 of an IPv6 one, since that much a
/// single household gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IPv4 address, also where it comes mapped into IPv6.
    Four([u8; 4]),
    /// The first half of an IPv6 address.
    Six([u16; 4]),
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let six = match address {
            IpAddr::V4(four) => return Self::Four(four.octets()),
            IpAddr::V6(six) => six,
        };
        match Ipv6Addr::to_canonical(&six) {
            IpAddr::V4(four) => Self::Four(four.octets()),
            IpAddr::V6(six) => {
                let [a, b, c, d, ..] = six.segments();
                Self::Six([a, b, c, d])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn an_address_is_an_ipv4_address_or_half_an_ipv6_one() {
        assert_eq!(address("2001:db8:1:2::1"), address("2001:db8:1:2:ffff::7"));
        assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
        assert_eq!(address("::ffff:192.0.2.7"), address("192.0.2.7"));
        assert_ne!(address("192.0.2.7"), address("192.0.2.8"));
        assert_ne!(address("::"), address("0.0.0.0"));
    }
}
