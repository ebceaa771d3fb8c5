//! The passphrase by which a new component is admitted to a site.
//!
//! Always generated, never chosen: 28 symbols of Crockford's base 32 (no I, L, O, U) in groups of four,
//! 140 bits. That is more than anybody can try, whatever becomes of the exchange it is used in.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
pub(crate) const SYMBOLS: usize = 28;
pub(crate) const GROUP: usize = 4;

/// A site's passphrase. Shows nothing of itself in `Debug`; [`Passphrase::reveal`] does, for the one place that
/// prints it. Wiped from memory when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

/// A text that cannot be a passphrase. Does not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a passphrase: one has 28 letters and digits, in groups of four; \
     `switchback identity passphrase` on the target shows the current one"
)]
pub struct InvalidPassphrase;

impl Passphrase {
    /// A new one from the system's random source.
    ///
    /// # Panics
    /// When the system has no random source, without which nothing here can be safe.
    #[must_use]
    pub fn generate() -> Self {
        let mut random = Zeroizing::new([0_u8; SYMBOLS]);
        SystemRandom::new().fill(&mut random[..]).expect("the system gives random bytes");
        Self::of_bytes(&random[..])
    }

    /// 256 is a multiple of 32, so taking five bits of a byte is uniform.
    fn of_bytes(bytes: &[u8]) -> Self {
        let symbols = bytes.iter().take(SYMBOLS).map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
        Self(Zeroizing::new(symbols.collect()))
    }

    /// Another one, which follows from this one and what it is for; who has that one learns nothing of this one.
    pub(crate) fn derive(&self, context: &[u8], of: &[u8]) -> Self {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.symbols()));
        mac.update(context);
        mac.update(of);
        Self::of_bytes(mac.sign().as_ref())
    }

    /// The passphrase for a person: groups of four.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(SYMBOLS + SYMBOLS / GROUP));
        for (at, symbol) in self.0.chars().enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(symbol);
        }
        text
    }

    /// What both ends feed into the key exchange: the symbols without groups.
    pub(crate) fn symbols(&self) -> &[u8] {
        self.as_str().as_bytes()
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

impl FromStr for Passphrase {
    type Err = InvalidPassphrase;

    /// Reads what a person typed: any case, any grouping by spaces or dashes, and the letters Crockford's alphabet
    /// leaves out as the digits they look like.
    fn from_str(text: &str) -> Result<Self, InvalidPassphrase> {
        read(text, SYMBOLS).filter(|symbols| symbols.len() == SYMBOLS).map(Self).ok_or(InvalidPassphrase)
    }
}

pub(crate) fn is_symbol(byte: u8) -> bool {
    ALPHABET.contains(&byte)
}

/// The symbols of what a person typed, `most` at most; `None`: something else is among them, or there are more.
pub(crate) fn read(text: &str, most: usize) -> Option<Zeroizing<String>> {
    let mut symbols = Zeroizing::new(String::with_capacity(most));
    for c in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
        let symbol = match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        };
        let known = u8::try_from(symbol).is_ok_and(is_symbol);
        if !known || symbols.len() == most {
            return None;
        }
        symbols.push(symbol);
    }
    Some(symbols)
}

#[cfg(test)]
mod tests {
    use super::Passphrase;

    #[test]
    fn is_read_back_however_it_was_typed() {
        let passphrase = Passphrase::generate();
        let shown = passphrase.reveal();
        assert_eq!(shown.len(), 34, "seven groups of four and six dashes");
        for typed in [
            shown.to_lowercase(),
            shown.replace('-', " "),
            shown.replace('-', ""),
            shown.replace('1', "l").replace('0', "o"),
        ] {
            assert_eq!(typed.parse::<Passphrase>().unwrap().symbols(), passphrase.symbols());
        }
        for bad in [&shown[1..], &format!("{}A", *shown), "", "U000-0000-0000-0000-0000-0000-0000"] {
            assert!(bad.parse::<Passphrase>().is_err(), "{bad}");
        }
        assert_ne!(Passphrase::generate().symbols(), passphrase.symbols());
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Passphrase::generate()), "Passphrase(..)");
    }
}
