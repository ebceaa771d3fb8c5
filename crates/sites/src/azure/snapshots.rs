//! Points that a machine is taken back to: notes in its description. The point itself is the replica's, which stands at it.

use super::AzureSite;
use super::description::Card;
use super::error::failed;
use super::networks;
use crate::SiteError;

impl AzureSite {
    pub(super) fn note_point(&self, id: &str, name: &str) -> Result<(), SiteError> {
        let noting = format!("taking the snapshot {name:?} of {id}");
        let is = self.described(id, &noting)?.is;
        if is.snapshots.iter().any(|one| one == name) {
            return Ok(());
        }
        if is.begun {
            self.must_be_off(&is, "taking a snapshot", &noting)?;
        }
        self.change(id, &noting, |is| {
            if is.begun {
                let detail = "its virtual machine has been made: only what the replica stands at can be gone back to [azure-snapshot]";
                return Err(SiteError::failed(&noting, detail));
            }
            if !is.snapshots.iter().any(|one| one == name) {
                is.snapshots.push(name.to_owned());
            }
            Ok(())
        })
        .map(drop)
    }

    pub(super) fn go_back(&self, id: &str, name: &str) -> Result<(), SiteError> {
        let reverting = format!("taking {id} back to {name:?}");
        let is = self.described(id, &reverting)?.is;
        let missing = || SiteError::NoSuchSnapshot { id: id.to_owned(), name: name.to_owned() };
        if !is.snapshots.iter().any(|one| one == name) {
            return Err(missing());
        }
        if is.begun {
            self.must_be_off(&is, "taking it back to a snapshot", &reverting)?;
            self.delete_made(id, None, &reverting)?;
        }
        let life = is.life;
        self.change(id, &reverting, |is| {
            let at = is.snapshots.iter().position(|one| one == name).ok_or_else(missing)?;
            is.snapshots.truncate(at + 1);
            // One that has begun meanwhile is not the one that was deleted.
            if is.life == life {
                is.end_life();
            }
            Ok(())
        })
        .map(drop)
    }

    pub(super) fn forget_point(&self, id: &str, name: &str) -> Result<(), SiteError> {
        self.change(id, &format!("removing the snapshot {name:?} of {id}"), |is| {
            is.snapshots.retain(|one| one != name);
            Ok(())
        })
        .map(drop)
    }

    pub(super) fn connect(&self, id: &str, names: &[Option<String>]) -> Result<(), SiteError> {
        let connecting = format!("connecting the network cards of {id}");
        // Its absence is to be told before that of a network.
        self.described(id, &connecting)?;
        let places = self.places().map_err(failed(&connecting))?;
        names.iter().flatten().try_for_each(|name| networks::named(&places, name).map(drop))?;
        let wanted: Vec<Card> = names.iter().map(|name| Card { network: name.clone() }).collect();
        self.change(id, &connecting, |is| {
            if is.cards == wanted {
                return Ok(());
            }
            let detail = match (is.cards.len() == wanted.len(), is.begun) {
                (true, false) => {
                    is.cards.clone_from(&wanted);
                    return Ok(());
                }
                (false, _) => format!("it has {} network cards, networks were named for {}", is.cards.len(), wanted.len()),
                (true, true) => "its virtual machine has been made, and Azure moves no card to another network: fail over anew [azure-nic]".into(),
            };
            Err(SiteError::failed(&connecting, detail))
        })
        .map(drop)
    }
}
