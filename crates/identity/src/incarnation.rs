//! Which life of the configuration server is the one: the word of the site's authority, so that nobody else can say so.
//!
//! A restore makes the statement, as a backup has the authority's key in it; answers carry it, components check it before they keep it, and report it to
//! whoever answers them next. So a component cannot have the configuration server take itself for replaced, and whoever has a configuration server's
//! certificate alone cannot lock components out. What is signed cannot be a part of a certificate, which the same key signs: those begin with 0x30.
//! ```text
//! signature = ECDSA P-256 with SHA-256, DER, over "switchback-incarnation/1" | BLAKE3 of the authority's certificate | number, u64 LE
//! ```

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{KeyPair, SigningKey};
use switchback_model::component::IncarnationProof;

use crate::Authority;
use crate::authority::read_authority;

const CONTEXT: &[u8] = b"switchback-incarnation/1";

fn statement(authority: &[u8], number: u64) -> Vec<u8> {
    [CONTEXT, blake3::hash(authority).as_bytes(), &number.to_le_bytes()].concat()
}

fn prove(key: &KeyPair, authority: &[u8], number: u64) -> IncarnationProof {
    let signature = key.sign(&statement(authority, number)).expect("a sound key signs what it is given");
    IncarnationProof { number, signature }
}

impl Authority {
    /// Its word that a configuration server of this incarnation replaces all lower ones.
    ///
    /// # Panics
    /// When the system has no random source.
    #[must_use]
    pub fn prove_incarnation(&self, number: u64) -> IncarnationProof {
        prove(self.key(), self.certificate(), number)
    }
}

/// [`Authority::prove_incarnation`] by an authority's file (`authority.pem`) that is to be restored.
///
/// # Errors
/// What is wrong with the file.
///
/// # Panics
/// When the system has no random source.
pub fn prove_incarnation(authority_file: &[u8], number: u64) -> Result<IncarnationProof, String> {
    let (issuer, certificate) = read_authority(authority_file)?;
    Ok(prove(issuer.key(), &certificate, number))
}

/// Whether the authority with this certificate (DER) has said so.
#[must_use]
pub fn is_proved(proof: &IncarnationProof, authority: &[u8]) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(authority) else { return false };
    let key = &parsed.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(&statement(authority, proof.number), &proof.signature)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use switchback_disk::Volume;

    use super::*;
    use crate::memory::{MemoryVolume, TestClock};

    #[test]
    fn the_authority_alone_can_say_which_incarnation_is_the_one() {
        let volume = Arc::new(MemoryVolume::default());
        let clock = TestClock::at(1_700_000_000_000);
        let authority = Authority::create(volume.clone(), clock.clone()).unwrap();
        let proof = authority.prove_incarnation(7);
        assert!(is_proved(&proof, authority.certificate()));
        let restored = prove_incarnation(&volume.read_all("authority.pem", 1 << 16).unwrap(), 8).unwrap();
        assert!(is_proved(&restored, authority.certificate()), "a restore has nothing but the file");
        let higher = IncarnationProof { number: 8, ..proof.clone() };
        assert!(!is_proved(&higher, authority.certificate()), "the number is what is signed");
        let unsigned = IncarnationProof { signature: Vec::new(), ..proof.clone() };
        assert!(!is_proved(&unsigned, authority.certificate()));
        let other = Authority::ephemeral(clock);
        assert!(!is_proved(&proof, other.certificate()), "another site's");
        assert!(!is_proved(&other.prove_incarnation(7), authority.certificate()));
        assert!(!is_proved(&proof, b"no certificate"));
        assert!(prove_incarnation(b"no authority", 7).is_err());
    }
}
