//! Tickets: secrets that are good for one enrolment, of one name and role, for a short time.
//!
//! What it is: a [`Ticket`], the text that a host is given in place of the site's passphrase where what it was given stays readable (custom data of a
//! virtual machine). What it never does: know whether a ticket may still be used; that is for whoever records enrolments ([`crate::Newcomer`]).
//!
//! Nothing secret is stored of a ticket: its passphrase follows from its id and the site's passphrase,
//! ```text
//! symbols = the low five bits of each of the first 28 bytes of HMAC-SHA-256(site passphrase, "switchback-ticket/1" | id)
//! ```
//! so that who has it learns nothing of the site's, and a rotated passphrase voids all tickets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::passphrase::{self, GROUP, InvalidPassphrase, SYMBOLS};
use crate::{Authority, AuthorityError, Passphrase};

const ID_SYMBOLS: usize = 8;
const CONTEXT: &[u8] = b"switchback-ticket/1";

/// Which ticket: eight symbols of the passphrase's alphabet, 40 bits. No secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TicketId(String);

/// A text that is no ticket's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ticket's id has {ID_SYMBOLS} letters and digits")]
pub struct InvalidTicketId;

impl TicketId {
    /// A new one from the system's random source.
    #[must_use]
    pub fn generate() -> Self {
        Self(Passphrase::generate().as_str().chars().take(ID_SYMBOLS).collect())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TicketId {
    type Error = InvalidTicketId;

    fn try_from(text: String) -> Result<Self, InvalidTicketId> {
        let fits = text.len() == ID_SYMBOLS && text.bytes().all(passphrase::is_symbol);
        if fits { Ok(Self(text)) } else { Err(InvalidTicketId) }
    }
}

impl From<TicketId> for String {
    fn from(id: TicketId) -> Self {
        id.0
    }
}

/// A ticket with its secret. Shows the id alone in `Debug`.
#[derive(Clone)]
pub struct Ticket {
    id: TicketId,
    passphrase: Passphrase,
}

impl Ticket {
    /// Nine groups of four symbols: two are the id, seven the passphrase.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let (first, second) = self.id.0.split_at(GROUP);
        Zeroizing::new(format!("{first}-{second}-{}", *self.passphrase.reveal()))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({}, ..)", self.id.0)
    }
}

impl Authority {
    /// The ticket of an id, as of the site's present passphrase.
    ///
    /// # Errors
    /// As [`Authority::passphrase`].
    pub fn ticket(&self, id: &TicketId) -> Result<Ticket, AuthorityError> {
        Ok(Ticket { id: id.clone(), passphrase: self.passphrase()?.derive(CONTEXT, id.0.as_bytes()) })
    }
}

/// With what somebody enrols: the site's passphrase, or a ticket.
#[derive(Clone, Debug)]
pub struct EnrolmentSecret {
    pub(crate) ticket: Option<TicketId>,
    pub(crate) passphrase: Passphrase,
}

impl From<Passphrase> for EnrolmentSecret {
    fn from(passphrase: Passphrase) -> Self {
        Self { ticket: None, passphrase }
    }
}

impl From<Ticket> for EnrolmentSecret {
    fn from(ticket: Ticket) -> Self {
        Self { ticket: Some(ticket.id), passphrase: ticket.passphrase }
    }
}

impl FromStr for EnrolmentSecret {
    type Err = InvalidPassphrase;

    /// Told apart by their lengths; read as [`Passphrase`] is.
    fn from_str(text: &str) -> Result<Self, InvalidPassphrase> {
        let symbols = passphrase::read(text, ID_SYMBOLS + SYMBOLS).ok_or(InvalidPassphrase)?;
        let (id, passphrase) = match symbols.len() {
            SYMBOLS => ("", symbols.as_str()),
            len if len == ID_SYMBOLS + SYMBOLS => symbols.split_at(ID_SYMBOLS),
            _ => return Err(InvalidPassphrase),
        };
        let ticket = (!id.is_empty()).then(|| TicketId(id.to_owned()));
        Ok(Self { ticket, passphrase: passphrase.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{EnrolmentSecret, TicketId};
    use crate::Authority;
    use crate::memory::{MemoryVolume, TestClock};

    fn authority() -> Authority {
        Authority::create(Arc::new(MemoryVolume::default()), TestClock::at(1_700_000_000_000)).unwrap()
    }

    #[test]
    fn a_ticket_is_made_again_and_read_back() {
        let authority = authority();
        let (id, other) = (TicketId::generate(), TicketId::generate());
        let shown = authority.ticket(&id).unwrap().reveal();
        assert_eq!(shown.len(), 9 * 4 + 8, "nine groups of four and eight dashes");
        assert_eq!(*shown, *authority.ticket(&id).unwrap().reveal());
        assert_ne!(*shown, *authority.ticket(&other).unwrap().reveal());
        let read: EnrolmentSecret = shown.to_lowercase().parse().unwrap();
        assert_eq!(read.ticket, Some(id));
        assert!(shown.ends_with(&*read.passphrase.reveal()));
        let site: EnrolmentSecret = authority.passphrase().unwrap().reveal().parse().unwrap();
        assert_eq!(site.ticket, None);
        for bad in [&shown[1..], &format!("{}A", *shown), ""] {
            assert!(bad.parse::<EnrolmentSecret>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rotated_passphrase_voids_tickets() {
        let authority = authority();
        let id = TicketId::generate();
        let before = authority.ticket(&id).unwrap().reveal();
        authority.rotate_passphrase().unwrap();
        assert_ne!(*before, *authority.ticket(&id).unwrap().reveal());
    }

    #[test]
    fn debug_shows_the_id_alone() {
        let authority = authority();
        let id = TicketId::generate();
        let ticket = authority.ticket(&id).unwrap();
        assert_eq!(format!("{ticket:?}"), format!("Ticket({}, ..)", id.as_str()));
        for bad in ["short", "ABCDEFGU", "ABCDEFGHJ"] {
            assert!(TicketId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
