//! A token: the secret that a request comes with. Invariant: it is shown by nothing but [`Token::reveal`].

use std::fmt;
use std::io::{self, BufRead, Read};

use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

use super::ClientError;

/// Longest token in bytes: as the server takes them. Ours are short, an issuer's (JWT) may hold many groups.
const LEN_MAX: u64 = 16 << 10;

/// A token.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

/// Why this is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It could not be read.
    #[error("the token cannot be read")]
    Read(#[source] io::Error),
    /// It is empty, too long, or has characters that no token has.
    #[error("this is no token: one line of up to {LEN_MAX} printable characters is expected")]
    Malformed,
}

impl Token {
    /// A token from text, without the white space around it.
    ///
    /// # Errors
    /// [`TokenError::Malformed`].
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let len = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if text.is_empty() || len > LEN_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Malformed);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// Reads a file or a pipe that holds nothing but a token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn read(source: impl Read) -> Result<Self, TokenError> {
        let mut text = Zeroizing::new(String::new());
        // Room for one byte too many, by which a longer one is recognised, and for the end of the line.
        source.take(LEN_MAX + 3).read_to_string(&mut text).map_err(TokenError::Read)?;
        Self::new(&text)
    }

    /// Reads one line, as a person types it.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn read_line(source: impl BufRead) -> Result<Self, TokenError> {
        let mut text = Zeroizing::new(String::new());
        source.take(LEN_MAX + 3).read_line(&mut text).map_err(TokenError::Read)?;
        Self::new(&text)
    }

    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub(super) fn bearer(&self) -> Result<HeaderValue, ClientError> {
        let text = Zeroizing::new(format!("Bearer {}", *self.0));
        let mut value =
            HeaderValue::from_str(&text).map_err(|_| ClientError::Token(TokenError::Malformed))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn a_token_is_one_printable_line_and_never_shown() {
        let token = Token::new(" sb_secret\n").unwrap();
        assert_eq!(token.reveal(), "sb_secret");
        assert!(!format!("{token:?} {:?}", token.bearer().unwrap()).contains("secret"));
        for bad in ["", " \n", "two words", "a\nb", "\u{e4}", &"x".repeat(16_385)] {
            assert!(Token::new(bad).is_err(), "{bad:?}");
            assert!(Token::read(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
