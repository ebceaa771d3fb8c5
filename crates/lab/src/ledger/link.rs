//! How a machine shows its newest record to another one: over TCP, one line per connection, `NUMBER HASH`.
//!
//! Only what is durable on both disks is shown ([`Shown::show`]). One connection at a time, each for a second at most: nothing piles up.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::record::{Hash, Seen};

/// How long a connection may take to come about, and each of its reads and writes.
const LIMIT: Duration = Duration::from_secs(1);
/// A number of 20 digits, a space, a hash of 32.
const LINE_LEN_MAX: u64 = 64;

/// A newest record, kept by one thread and looked at by another.
#[derive(Clone, Debug, Default)]
pub struct Shown(Arc<Mutex<Option<Seen>>>);

impl Shown {
    /// Replaces it.
    pub fn show(&self, record: Seen) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(record);
    }

    /// It.
    #[must_use]
    pub fn get(&self) -> Option<Seen> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers everybody who connects, for ever.
pub fn serve(listener: &TcpListener, shown: &Shown) {
    for connection in listener.incoming() {
        // Who goes away or is slow asks again.
        let _ = connection.and_then(|connection| answer(connection, shown.get()));
    }
}

fn answer(mut connection: TcpStream, shown: Option<Seen>) -> io::Result<()> {
    connection.set_write_timeout(Some(LIMIT))?;
    connection.write_all(line(shown).as_bytes())
}

fn line(shown: Option<Seen>) -> String {
    shown.map_or_else(String::new, |seen| {
        let hash: String = seen.hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {hash}\n", seen.number)
    })
}

/// Asks a machine for its newest record. `None`: it has none yet.
///
/// # Errors
/// It does not answer in time, or something else answers.
pub fn ask(address: SocketAddr) -> io::Result<Option<Seen>> {
    let connection = TcpStream::connect_timeout(&address, LIMIT)?;
    connection.set_read_timeout(Some(LIMIT))?;
    let mut text = String::new();
    connection.take(LINE_LEN_MAX).read_to_string(&mut text)?;
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no record"));
    parse(&text).map(Some).ok_or_else(wrong)
}

fn parse(text: &str) -> Option<Seen> {
    let (number, hash) = text.strip_suffix('\n')?.split_once(' ')?;
    let mut bytes = [0; 16];
    if hash.len() != 2 * bytes.len() || !hash.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hash[2 * index..2 * index + 2], 16).ok()?;
    }
    let number = number.parse().ok().filter(|number| *number > 0)?;
    Some(Seen { number, hash: Hash(bytes) })
}

/// The address of a host of the network that an interface is in: its addresses change when a machine wakes up elsewhere, its place in them does not.
/// `routes` is the text of `/proc/net/route`. `None`: the interface is in no network yet.
#[must_use]
pub fn address_in_network(routes: &str, interface: &str, host: u32) -> Option<IpAddr> {
    routes.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| u32::from_str_radix(words.get(index)?, 16).ok().map(u32::from_be);
        // Interface, destination, gateway, and as the eighth the mask; the numbers are in the network's order.
        let (destination, mask) = (number(1)?, number(7)?);
        let is_network = words.first() == Some(&interface) && destination != 0 && host & mask == 0;
        is_network.then(|| IpAddr::V4(Ipv4Addr::from_bits(destination | host)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shown = Shown::default();
        let other = shown.clone();
        std::thread::spawn(move || serve(&listener, &other));
        assert_eq!(ask(address).unwrap(), None);
        let seen = Seen { number: u64::MAX, hash: Hash(*b"0123456789abcdef") };
        shown.show(seen);
        assert_eq!(ask(address).unwrap(), Some(seen));
    }

    #[test]
    fn other_answers_are_refused() {
        for text in
            ["", "7", "0 00000000000000000000000000000000\n", "7 0\n", "7 zz000000000000000000000000000000\n"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert!(parse("7 00000000000000000000000000000001\n").is_some());
    }

    #[test]
    fn a_host_is_found_in_the_network_of_an_interface() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                      eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                      eth1\t0400010A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n\
                      eth1\t0000010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(address_in_network(routes, "eth1", 11), Some("10.1.0.11".parse().unwrap()));
        assert_eq!(address_in_network(routes, "eth0", 11), None);
        assert_eq!(address_in_network(routes, "eth2", 11), None);
    }
}
