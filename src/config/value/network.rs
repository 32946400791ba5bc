//! Sets of addresses: `["10.0.0.0/8", "192.0.2.7", "2001:db8::/48"]`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::de::Unexpected;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{BadValue, listen::pieces};

/// Addresses and prefixes (CIDR, RFC 4632) of either family; an address is a prefix of full length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

const NETWORKS: &str = "addresses or prefixes such as \"192.0.2.7\" or \"10.0.0.0/8\", with no \
    bits set behind the prefix, or a list of them";

impl Networks {
    /// For tests and defaults: the networks in `text`, or none if it is not a list of them.
    pub fn of(text: &str) -> Self {
        text.parse().unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the address is in one of them. An IPv4 address that comes through an IPv6 socket
    /// (`::ffff:192.0.2.7`) is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = plain(address);
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The address without the mapping of IPv4 into IPv6 (RFC 4291 §2.5.5.2).
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => Ipv6Addr::to_canonical(&six),
        IpAddr::V4(_) => address,
    }
}

/// One address or prefix. A prefix with bits behind it, such as `10.1.2.3/8`, is more likely a
/// mistake than a wish to let sixteen million addresses in.
fn network(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse() {
        return Some(IpNet::from(plain(address)));
    }
    text.parse().ok().filter(|network: &IpNet| network.addr() == network.network())
}

impl FromStr for Networks {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let networks = pieces(text).map(|piece| {
            network(piece).ok_or_else(|| BadValue { expected: NETWORKS, got: piece.to_owned() })
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

/// An address without the length of its prefix, where that says nothing.
struct Short(IpNet);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|network| Short(*network).to_string()))
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NetworksVisitor)
    }
}

struct NetworksVisitor;

impl<'de> de::Visitor<'de> for NetworksVisitor {
    type Value = Networks;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(NETWORKS)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Networks, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Networks, A::Error> {
        let mut networks = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            let network = network(text.trim());
            networks.push(
                network.ok_or_else(|| de::Error::invalid_value(Unexpected::Str(&text), &self))?,
            );
        }
        Ok(Networks(networks))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Result<Networks, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_is_in_its_networks_of_either_family() {
        let networks = read(r#"["10.0.0.0/8", "192.0.2.7", "2001:db8::/48"]"#).unwrap();
        for (address, inside) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.0.0.1", true),
            ("2001:db8:0:1::1", true),
            ("2001:db8:1::1", false),
            ("::1", false),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!(!Networks::default().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused_with_an_example() {
        for wrong in [r#""10.0.0.0/33""#, r#""10.1.2.3/8""#, r#""localhost""#, r#"["::/129"]"#, "5"]
        {
            let fault = read(wrong).unwrap_err();
            assert!(fault.contains("such as \"192.0.2.7\""), "{fault}");
        }
    }

    proptest! {
        #[test]
        fn networks_survive_their_own_text(addresses: Vec<(IpAddr, u8)>) {
            let networks = addresses.iter().map(|(address, length)| {
                let most = if address.is_ipv4() { 33 } else { 129 };
                IpNet::new(*address, length % most).unwrap().trunc()
            });
            let networks = Networks(networks.collect());
            // A mapped IPv4 address of full length is written and read as IPv4.
            let mapped = |n: &IpNet| n.prefix_len() == 128 && plain(n.addr()) != n.addr();
            prop_assume!(!networks.0.iter().any(mapped));
            prop_assert_eq!(read(&serde_json::to_string(&networks).unwrap()), Ok(networks));
        }

        #[test]
        fn garbage_is_refused_and_never_panics(text in ".*") {
            let _ = text.parse::<Networks>();
        }
    }
}
