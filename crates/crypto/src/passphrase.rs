//! A key from a passphrase, by Argon2id (RFC 9106).
//!
//! Invariant: parameters below the floor are refused, so that a changed parameter file cannot make a
//! guess cheap, and above the ceiling, so that it cannot take the machine down.

use argon2::{Algorithm, Argon2, Block, Version};
use zeroize::Zeroize;

use crate::error::{Error, ErrorKind, Result};
use crate::secret::{SecretBytes, SecretKey};

/// What a guess costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Params {
    /// The second recommendation of RFC 9106: 64 MiB, 3 passes, 4 lanes.
    pub const RECOMMENDED: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
    /// The least that [`derive()`] takes.
    pub const FLOOR: Self = Self { memory_kib: 8 * 1024, passes: 1, lanes: 1 };
    /// The most that [`derive()`] takes.
    pub const CEILING: Self = Self { memory_kib: 4 * 1024 * 1024, passes: 64, lanes: 64 };

    fn within_limits(&self) -> bool {
        let (low, high) = (Self::FLOOR, Self::CEILING);
        (low.memory_kib..=high.memory_kib).contains(&self.memory_kib)
            && (low.passes..=high.passes).contains(&self.passes)
            && (low.lanes..=high.lanes).contains(&self.lanes)
    }
}

impl Default for Params {
    fn default() -> Self {
        Self::RECOMMENDED
    }
}

/// Bytes that a salt needs.
pub const MIN_SALT: usize = 16;

/// The key of a passphrase and a salt.
///
/// # Errors
/// [`ErrorKind::BadInput`] when the passphrase is empty, the salt shorter than [`MIN_SALT`], or the
/// parameters are outside their limits.
pub fn derive(passphrase: &SecretBytes, salt: &[u8], params: &Params) -> Result<SecretKey> {
    let bad = |message| Error::new(ErrorKind::BadInput, message);
    if passphrase.is_empty() {
        return Err(bad("the passphrase is empty"));
    }
    if salt.len() < MIN_SALT {
        return Err(bad("the passphrase's salt is too short"));
    }
    if !params.within_limits() {
        return Err(bad("the passphrase's parameters are outside their limits"));
    }
    let argon = argon2::Params::new(params.memory_kib, params.passes, params.lanes, Some(SecretKey::LEN))
        .map_err(|_| bad("the passphrase's parameters do not fit each other"))?;
    let mut memory = vec![Block::default(); argon.block_count()];
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, argon);
    let key = SecretKey::filled_by(|out| {
        hasher.hash_password_into_with_memory(passphrase.expose(), salt, out, &mut memory)
    });
    memory.iter_mut().for_each(Zeroize::zeroize);
    key.map_err(|_| bad("the passphrase or its salt is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Params = Params::FLOOR;

    #[test]
    fn the_key_depends_on_passphrase_salt_and_parameters() {
        let key = |pass: &str, salt: &[u8], params| {
            *derive(&SecretBytes::new(pass.into()), salt, &params).unwrap().expose()
        };
        let first = key("correct horse", b"sixteen bytes 00", CHEAP);
        assert_eq!(first, key("correct horse", b"sixteen bytes 00", CHEAP));
        assert_ne!(first, key("correct horsf", b"sixteen bytes 00", CHEAP));
        assert_ne!(first, key("correct horse", b"sixteen bytes 01", CHEAP));
        assert_ne!(first, key("correct horse", b"sixteen bytes 00", Params { passes: 2, ..CHEAP }));
    }

    #[test]
    fn parameters_that_make_a_guess_cheap_or_the_machine_fail_are_refused() {
        let pass = SecretBytes::new(b"p".to_vec());
        for params in [
            Params { memory_kib: 64, ..CHEAP },
            Params { passes: 0, ..CHEAP },
            Params { lanes: 0, ..CHEAP },
            Params { memory_kib: u32::MAX, ..CHEAP },
            Params { passes: u32::MAX, ..CHEAP },
        ] {
            assert_eq!(
                derive(&pass, &[0; 16], &params).unwrap_err().kind(),
                ErrorKind::BadInput,
                "{params:?}"
            );
        }
        assert!(derive(&pass, &[0; 15], &CHEAP).is_err());
        assert!(derive(&SecretBytes::new(Vec::new()), &[0; 16], &CHEAP).is_err());
    }
}
