//! Message ids: the broker's (where a message lies) and the client's (which message it is).

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use crate::units::LogOffset;

/// The offset message id: hex of store address, port (4 bytes) and log offset; 32 characters, 56 with IPv6.
pub fn offset_id(host: SocketAddr, offset: LogOffset) -> String {
    let mut text = String::with_capacity(56);
    match host.ip() {
        IpAddr::V4(ip) => push_hex(&mut text, &ip.octets()),
        IpAddr::V6(ip) => push_hex(&mut text, &ip.octets()),
    }
    push_hex(&mut text, &u32::from(host.port()).to_be_bytes());
    push_hex(&mut text, &offset.0.to_be_bytes());
    text
}

/// The place that an offset message id names.
pub fn parse_offset_id(id: &str) -> Option<(SocketAddr, LogOffset)> {
    let bytes = parse_hex(id)?;
    let (ip, rest) = match bytes.len() {
        16 => (IpAddr::from(*bytes.first_chunk::<4>()?), &bytes[4..]),
        28 => (IpAddr::from(*bytes.first_chunk::<16>()?), &bytes[16..]),
        _ => return None,
    };
    let port = u16::try_from(u32::from_be_bytes(*rest.first_chunk::<4>()?)).ok()?;
    let offset = i64::from_be_bytes(*rest[4..].first_chunk::<8>()?);
    Some((SocketAddr::new(ip, port), LogOffset(offset)))
}

/// Makes client message ids as the official clients do: address, process, a number per process start, milliseconds
/// since `epoch_millis`, a counter.
#[derive(Clone, Debug)]
pub struct UniqueIds {
    prefix: String,
    counter: u16,
}

impl UniqueIds {
    /// `salt` distinguishes two generators of one process.
    pub fn new(ip: IpAddr, pid: u32, salt: u32) -> UniqueIds {
        let mut prefix = String::with_capacity(44);
        match ip {
            IpAddr::V4(ip) => push_hex(&mut prefix, &ip.octets()),
            IpAddr::V6(ip) => push_hex(&mut prefix, &ip.octets()),
        }
        push_hex(&mut prefix, &(pid as u16).to_be_bytes());
        push_hex(&mut prefix, &salt.to_be_bytes());
        UniqueIds { prefix, counter: 0 }
    }

    /// The next id; `elapsed_millis` since a moment of the generator's choice.
    pub fn next(&mut self, elapsed_millis: u32) -> String {
        let mut id = self.prefix.clone();
        push_hex(&mut id, &elapsed_millis.to_be_bytes());
        push_hex(&mut id, &self.counter.to_be_bytes());
        self.counter = self.counter.wrapping_add(1);
        id
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    bytes.iter().for_each(|byte| text.extend(hex_of(*byte).map(char::from)));
}

fn hex_of(byte: u8) -> [u8; 2] {
    PAIRS[usize::from(byte)]
}

/// The two digits of each byte.
const PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// The offset message id of a message of a broker with an IPv4 address.
pub(crate) fn offset_id_v4(host: SocketAddrV4, offset: LogOffset) -> [[u8; 2]; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&host.ip().octets());
    bytes[4..8].copy_from_slice(&u32::from(host.port()).to_be_bytes());
    bytes[8..].copy_from_slice(&offset.0.to_be_bytes());
    bytes.map(hex_of)
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() > 56 || !text.len().is_multiple_of(2) {
        return None;
    }
    // Digit by digit: the standard library's parser of numbers takes a sign as well.
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_id_names_its_place_and_back() {
        let host: SocketAddr = "127.0.0.1:20911".parse().unwrap();
        let id = offset_id(host, LogOffset(240));
        // From a recorded reply of the Java broker.
        assert_eq!(id, "7F000001000051AF00000000000000F0");
        assert_eq!(parse_offset_id(&id), Some((host, LogOffset(240))));
        let SocketAddr::V4(v4) = host else { unreachable!() };
        assert_eq!(offset_id_v4(v4, LogOffset(240)).as_flattened(), id.as_bytes());
        let host: SocketAddr = "[2001:db8::7]:10911".parse().unwrap();
        assert_eq!(parse_offset_id(&offset_id(host, LogOffset(9))), Some((host, LogOffset(9))));
        for wrong in [
            "",
            "7F",
            "zz000001000051AF00000000000000F0",
            "7F000001000151AF00000000000000F0ü",
            "7F+00001000051AF00000000000000F0",
        ] {
            assert_eq!(parse_offset_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn client_ids_of_one_generator_differ() {
        let mut ids = UniqueIds::new("10.0.0.1".parse().unwrap(), 31428, 7);
        let (first, second) = (ids.next(5), ids.next(5));
        assert_eq!(first.len(), 32);
        assert_ne!(first, second);
    }
}
