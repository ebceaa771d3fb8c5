//! JSON with a first line that says what it is and proves that it is whole: the form of manifests.
//!
//! ```text
//! <magic> <format> <BLAKE3 of the body, 64 hexadecimal digits>\n
//! <body>
//! ```
//! Text, so that it can be read on the worst day with nothing but a pager; the version before the checksum, so that a newer format is
//! told apart from damage.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The text of `body`.
pub(crate) fn encode(magic: &str, version: u32, body: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec_pretty(body).expect("maps with text keys, no failing Serialize");
    let mut out = format!("{magic} {version} {}\n", blake3::hash(&body).to_hex()).into_bytes();
    out.extend(body);
    out
}

/// The version and the body of a text, or what is wrong with it.
pub(crate) fn decode<T: DeserializeOwned>(
    magic: &str,
    versions: &[u32],
    data: &[u8],
) -> Result<(u32, T), String> {
    let line_end =
        data.iter().take(200).position(|byte| *byte == b'\n').ok_or("its first line is missing")?;
    let line = std::str::from_utf8(&data[..line_end]).map_err(|_| "its first line is not text")?;
    let body = &data[line_end + 1..];
    let mut words = line.split(' ');
    if words.next() != Some(magic) {
        return Err("it does not begin as a manifest".into());
    }
    let version = words.next().and_then(|version| version.parse::<u32>().ok());
    let version = version.ok_or("its format version is missing")?;
    if !versions.contains(&version) {
        return Err(format!("it has format {version}, this build reads {versions:?}; use the newer build"));
    }
    if words.next() != Some(blake3::hash(body).to_hex().as_str()) || words.next().is_some() {
        return Err("it does not match its checksum".into());
    }
    let body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    Ok((version, body))
}
