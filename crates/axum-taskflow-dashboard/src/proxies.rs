//! Reverse proxies in front of the service, and who asks through them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Once,
};

use axum::http::HeaderMap;
use ipnet::{IpNet, Ipv4Net};

/// The proxies whose word about a client is believed.
#[derive(Debug)]
pub(crate) struct Proxies {
    networks: Vec<IpNet>,
    /// Proxies that cannot be recognised are warned of, once.
    warned: Once,
}

/// Not `Forwarded`: few proxies write it, and a header that the proxy does not write is the client's own.
const FORWARDED_FOR: &str = "x-forwarded-for";

impl Proxies {
    pub(crate) fn new(networks: Vec<IpNet>) -> Self {
        Self {
            networks,
            warned: Once::new(),
        }
    }

    /// The address of who asks, as far as it is known for certain.
    ///
    /// It is the other end of the connection, unless that is a trusted proxy. Each proxy writes who asked it to the right
    /// of what it was sent, so the list is read from there, as long as it was a trusted proxy who wrote. What stands
    /// further left is whatever the client made up.
    pub(crate) fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        if peer.is_none() && !self.networks.is_empty() {
            self.warned.call_once(|| {
                tracing::warn!(
                    "trusted_proxies has no effect: the service has to be served with \
                     into_make_service_with_connect_info::<SocketAddr>()"
                );
            });
        }
        let mut client = peer?.to_canonical();
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        // As bytes: what a client wrote may be no text, and must not hide what a proxy wrote beside it.
        for entry in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
            if !self.contains(client) {
                break;
            }
            // Of a client without an address, only the proxy that it came by is known.
            let Some(address) = address(entry) else { break };
            client = address;
        }
        Some(client)
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|known| known.contains(&address))
    }
}

/// `192.0.2.1`, `192.0.2.1:5000`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:5000`.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok()?.trim();
    let in_brackets = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    let address = in_brackets.unwrap_or(text).parse().or_else(|_| with_port());
    address.ok().map(|address| address.to_canonical())
}

/// A trusted proxy as the settings name it: an address, or a network. An error is a complaint about it.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let Ok(network) = text.parse().or_else(|_| address()) else {
        return Err(format!(
            "trusted_proxies must be addresses or networks, such as \"10.0.0.7\" or \"10.0.0.0/24\", not {text:?}"
        ));
    };
    let network = canonical(network);
    if network.prefix_len() == 0 {
        return Err(format!(
            "trusted_proxies {text:?} would believe everybody: name those of the proxies"
        ));
    }
    Ok(network)
}

/// Addresses of IPv4 are compared as such, also if they came to a socket of IPv6.
fn canonical(network: IpNet) -> IpNet {
    let as_v4 = || {
        let IpNet::V6(v6) = network else { return None };
        let prefix_len = v6.prefix_len().checked_sub(96)?;
        Ipv4Net::new(v6.addr().to_ipv4_mapped()?, prefix_len).ok()
    };
    as_v4().map_or(network, IpNet::from)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const PROXIES: [&str; 3] = ["10.0.0.7", "192.168.0.0/16", "2001:db8:1::/48"];

    fn proxies(networks: &[&str]) -> Proxies {
        Proxies::new(networks.iter().map(|text| network(text).unwrap()).collect())
    }

    /// Whom those proxies see if `peer` sends these lines of the header.
    fn seen(peer: &str, lines: &[&[u8]]) -> String {
        let lines = lines.iter().map(|line| {
            let value = HeaderValue::from_bytes(line).unwrap();
            (FORWARDED_FOR.parse().unwrap(), value)
        });
        let headers = lines.fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append::<axum::http::HeaderName>(name, value);
            headers
        });
        let peer = Some(peer.parse().unwrap());
        proxies(&PROXIES)
            .client(peer, &headers)
            .unwrap()
            .to_string()
    }

    #[test]
    fn a_trusted_proxy_tells_who_asks() {
        for (entry, client) in [
            ("203.0.113.5", "203.0.113.5"),
            (" 203.0.113.5 ", "203.0.113.5"),
            ("203.0.113.5:61000", "203.0.113.5"),
            ("2001:db8::5", "2001:db8::5"),
            ("[2001:db8::5]", "2001:db8::5"),
            ("[2001:db8::5]:61000", "2001:db8::5"),
            ("::ffff:203.0.113.5", "203.0.113.5"),
            ("[::ffff:203.0.113.5]:61000", "203.0.113.5"),
        ] {
            assert_eq!(seen("10.0.0.7", &[entry.as_bytes()]), client, "{entry}");
        }
        for proxy in ["192.168.3.4", "2001:db8:1::9", "::ffff:10.0.0.7"] {
            assert_eq!(seen(proxy, &[b"203.0.113.5"]), "203.0.113.5", "{proxy}");
        }
        assert_eq!(seen("10.0.0.7", &[]), "10.0.0.7", "it may ask for itself");
    }

    #[test]
    fn nobody_else_is_believed() {
        for peer in ["10.0.0.8", "203.0.113.5", "2001:db8:2::1", "127.0.0.1"] {
            assert_eq!(seen(peer, &[b"198.51.100.1"]), peer);
            assert_eq!(seen(peer, &[b"198.51.100.1, 10.0.0.7"]), peer);
        }
        let headers = HeaderMap::from_iter([(
            FORWARDED_FOR.parse().unwrap(),
            HeaderValue::from_static("198.51.100.1"),
        )]);
        let peer = Some(IpAddr::from([203, 0, 113, 5]));
        assert_eq!(proxies(&[]).client(peer, &headers), peer);
        assert_eq!(proxies(&PROXIES).client(None, &headers), None);
    }

    #[test]
    fn what_a_client_wrote_itself_stands_left_of_its_address() {
        for line in [
            "198.51.100.1, 203.0.113.5",
            "10.0.0.7, 203.0.113.5",
            "198.51.100.1, 10.0.0.7, 203.0.113.5",
            "nonsense,,;, 203.0.113.5",
        ] {
            assert_eq!(
                seen("10.0.0.7", &[line.as_bytes()]),
                "203.0.113.5",
                "{line}"
            );
        }
        assert_eq!(seen("10.0.0.7", &[b"\xff\xfe, 203.0.113.5"]), "203.0.113.5");
        // Several lines are one list.
        assert_eq!(
            seen("10.0.0.7", &[b"198.51.100.1", b"10.0.0.7", b"203.0.113.5"]),
            "203.0.113.5"
        );
    }

    #[test]
    fn several_proxies_in_a_row_are_followed_to_the_first_that_is_not_trusted() {
        let chain = b"198.51.100.1, 203.0.113.5, 192.168.3.4, [2001:db8:1::9]:443";
        assert_eq!(seen("10.0.0.7", &[chain]), "203.0.113.5");
        let lines: [&[u8]; 3] = [
            b"198.51.100.1, 203.0.113.5",
            b"192.168.3.4",
            b"2001:db8:1::9",
        ];
        assert_eq!(seen("10.0.0.7", &lines), "203.0.113.5");
        // Somebody within the trusted networks asks.
        assert_eq!(
            seen("10.0.0.7", &[b"192.168.9.9, 192.168.3.4"]),
            "192.168.9.9"
        );
    }

    #[test]
    fn what_is_no_address_is_as_if_it_were_not_there() {
        for garbage in [
            "",
            ",",
            " , ",
            "unknown",
            "_hidden",
            "203.0.113",
            "203.0.113.5:",
            "203.0.113.5:99999",
            "203.0.113.5/24",
            "[203.0.113.5",
            "2001:db8::5]",
            "[]",
            "[]:1",
            ":::",
            "\"203.0.113.5\"",
            "203.0.113.5 198.51.100.1",
            "localhost",
        ] {
            assert_eq!(
                seen("10.0.0.7", &[garbage.as_bytes()]),
                "10.0.0.7",
                "{garbage}"
            );
            let behind = format!("198.51.100.1, {garbage}");
            assert_eq!(
                seen("10.0.0.7", &[behind.as_bytes()]),
                "10.0.0.7",
                "{behind}"
            );
        }
        assert_eq!(seen("10.0.0.7", &[b"\xff\xfe\x80"]), "10.0.0.7");
        let long = "198.51.100.1,".repeat(10_000) + "unknown, 192.168.3.4";
        assert_eq!(seen("10.0.0.7", &[long.as_bytes()]), "192.168.3.4");
    }

    #[test]
    fn a_trusted_proxy_is_an_address_or_a_network() {
        for (text, is) in [
            ("10.0.0.7", "10.0.0.7/32"),
            ("10.0.0.0/24", "10.0.0.0/24"),
            ("::1", "::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:10.0.0.0/120", "10.0.0.0/24"),
            ("::ffff:10.0.0.7", "10.0.0.7/32"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), is);
        }
        for wrong in [
            "",
            "proxy.example",
            "10.0.0.0/33",
            "10.0.0",
            "10.0.0.7:80",
            "[::1]",
            "0.0.0.0/0",
            "::/0",
            "::ffff:0.0.0.0/96",
        ] {
            let complaint = network(wrong).unwrap_err();
            assert!(complaint.contains(&format!("{wrong:?}")), "{complaint}");
        }
    }
}
