//! Shares of a secret: any `threshold` of them give it back, fewer tell nothing (Shamir, over GF(256)).
//!
//! ```text
//! clvs1-3f9a1c20-2-3-<64 hexadecimal digits>-<8 hexadecimal digits>
//!       set      | |  the share's 32 bytes   CRC32C of the text before the last '-'
//!            number threshold
//! ```
//!
//! Invariant: a share that was mistyped, of another set, or not of those that were made is told by its number before
//! it is used. What a seal keeps of a share is a hash of 32 random bytes, which tells nothing of them.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blahaj::Sharks;
use claviger_core::{Error, Result};
use claviger_crypto::{SecretBytes, SecretKey, crc32c, fill_random, sha256};
use rand_core::{TryCryptoRng, TryRng};

use super::file::{Kind, damaged};
use crate::ciphertext::length_prefixed;

/// Shares of a secret, at most.
pub const MAX_SHARES: u8 = 32;
/// The longest text that is read as a share.
const MAX_TEXT: usize = 512;
const PREFIX: &str = "clvs1";
const DOMAIN: &[u8] = b"claviger.kms.share.v1";
const SET_BYTES: usize = 4;

/// One share.
pub struct Share {
    set: String,
    number: u8,
    threshold: u8,
    value: SecretBytes,
}

impl Share {
    /// The set that it belongs to: those that were made together.
    #[must_use]
    pub fn set(&self) -> &str {
        &self.set
    }

    /// Its number in the set, from 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// How many of the set are needed.
    #[must_use]
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// The share as text, to be kept by one person.
    #[must_use]
    pub fn expose_text(&self) -> SecretBytes {
        let mut text = format!("{PREFIX}-{}-{}-{}-", self.set, self.number, self.threshold).into_bytes();
        // As long as it gets, so that no copy is left behind.
        text.reserve_exact(2 * self.value.len() + 1 + 8);
        for byte in self.value.expose() {
            for digit in [byte >> 4, byte & 15] {
                text.push(b"0123456789abcdef".get(usize::from(digit)).copied().unwrap_or_default());
            }
        }
        let checksum = format!("-{:08x}", crc32c(&text));
        text.extend_from_slice(checksum.as_bytes());
        SecretBytes::new(text)
    }

    fn check(&self) -> String {
        let parts = length_prefixed(&[DOMAIN, self.set.as_bytes(), &[self.number]]);
        BASE64.encode(sha256(&[&parts, self.value.expose()]))
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} of the set {})", self.number, self.set)
    }
}

impl FromStr for Share {
    type Err = Error;

    /// Reads a share; blanks, dashes between them and the case of letters do not matter.
    fn from_str(text: &str) -> Result<Self> {
        let no_share =
            || Error::invalid(format!("this is no share: one begins with {PREFIX}- and has six parts"));
        if text.len() > MAX_TEXT {
            return Err(no_share());
        }
        let mut plain = Vec::with_capacity(text.len());
        plain.extend(
            text.bytes().filter(|byte| !byte.is_ascii_whitespace()).map(|byte| byte.to_ascii_lowercase()),
        );
        let plain = SecretBytes::new(plain);
        let plain = std::str::from_utf8(plain.expose()).map_err(|_| no_share())?;
        let parts: Vec<&str> = plain.split('-').collect();
        let &[PREFIX, set, number, threshold, value, checksum] = parts.as_slice() else {
            return Err(no_share());
        };
        let Some((before, _)) = plain.rsplit_once('-') else { return Err(no_share()) };
        if format!("{:08x}", crc32c(before.as_bytes())) != checksum {
            let shown: String = number.chars().take(3).collect();
            return Err(Error::invalid(format!(
                "share {shown} was not read as it was written: its checksum does not fit"
            )));
        }
        let value = super::secret::unhex(value.as_bytes()).map(SecretBytes::new);
        let value = value.filter(|value| value.len() == SecretKey::LEN).ok_or_else(no_share)?;
        let number = number.parse().map_err(|_| no_share())?;
        let threshold = threshold.parse().map_err(|_| no_share())?;
        Ok(Self { set: set.to_owned(), number, threshold, value })
    }
}

/// Splits a key into shares, and what a seal keeps of them.
///
/// # Errors
/// `InvalidArgument` unless `2 <= threshold <= shares <= MAX_SHARES`.
pub(super) fn split(key: &SecretKey, shares: u8, threshold: u8) -> Result<(Kind, Vec<Share>)> {
    if threshold < 2 || shares < threshold || shares > MAX_SHARES {
        return Err(Error::invalid(format!(
            "{threshold} of {shares} shares cannot be: the threshold is at least 2 and at most the number of shares, which is at most {MAX_SHARES}"
        )));
    }
    let mut set = [0; SET_BYTES];
    fill_random(&mut set).map_err(super::no_random)?;
    let set = format!("{:08x}", u32::from_be_bytes(set));
    let mut machine = Machine::default();
    let made: Vec<Share> = Sharks(threshold)
        .dealer_rng(key.expose(), &mut machine)
        .take(usize::from(shares))
        .map(|share| {
            let bytes = SecretBytes::new(Vec::from(&share));
            let (number, value) = bytes.expose().split_first().unwrap_or((&0, &[]));
            Share { set: set.clone(), number: *number, threshold, value: SecretBytes::new(value.to_vec()) }
        })
        .collect();
    if machine.failed {
        return Err(Error::internal("the machine gives no random bytes"));
    }
    let checks = made.iter().map(Share::check).collect();
    Ok((Kind::Shares { set, shares, threshold, checks }, made))
}

/// Whether a share is one of a seal's. `None`: the seal has no shares.
///
/// # Errors
/// `FailedPrecondition` when it is of another set, or not the one that was made.
pub(super) fn check(share: &Share, kind: &Kind) -> Result<Option<()>> {
    let Kind::Shares { set, checks, .. } = kind else { return Ok(None) };
    if share.set != *set {
        return Err(Error::precondition(format!(
            "share {} is of the set {}, and this KMS is sealed with the set {set}",
            share.number, share.set
        )));
    }
    let made = usize::from(share.number).checked_sub(1).and_then(|place| checks.get(place));
    match made {
        Some(check) if *check == share.check() => Ok(Some(())),
        _ => Err(Error::precondition(format!(
            "share {} of the set {set} is not the one that was made for this KMS",
            share.number
        ))),
    }
}

/// The key that shares of one seal give. All were checked.
///
/// # Errors
/// `FailedPrecondition` when there are too few.
pub(super) fn combine(given: &[&Share], threshold: u8) -> Result<SecretKey> {
    let mut distinct: Vec<&Share> = Vec::new();
    for share in given {
        if distinct.iter().all(|other| other.number != share.number) {
            distinct.push(share);
        }
    }
    if distinct.len() < usize::from(threshold) {
        let numbers: Vec<String> = distinct.iter().map(|share| share.number.to_string()).collect();
        return Err(Error::precondition(format!(
            "{} of {threshold} shares were given: {}",
            distinct.len(),
            numbers.join(", ")
        )));
    }
    let read = |share: &&Share| {
        let mut bytes = Vec::with_capacity(1 + share.value.len());
        bytes.push(share.number);
        bytes.extend_from_slice(share.value.expose());
        let bytes = SecretBytes::new(bytes);
        blahaj::Share::try_from(bytes.expose()).map_err(Error::internal)
    };
    let shares = distinct.iter().take(usize::from(threshold)).map(read).collect::<Result<Vec<_>>>()?;
    let key = SecretBytes::new(Sharks(threshold).recover(&shares).map_err(Error::internal)?);
    SecretKey::from_slice(key.expose()).map_err(|e| damaged("holds shares of another length").because(e))
}

/// The random bytes of the machine, as the crate for shares takes them. It knows no failure, so that one is noted.
#[derive(Default)]
struct Machine {
    failed: bool,
}

impl Machine {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.failed |= fill_random(&mut bytes).is_err();
        bytes
    }
}

impl TryRng for Machine {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.bytes()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.failed |= fill_random(bytes).is_err();
        Ok(())
    }
}

impl TryCryptoRng for Machine {}

#[cfg(test)]
mod tests {
    use claviger_core::ErrorKind;

    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_slice(&[0x5c; 32]).unwrap()
    }

    fn text(share: &Share) -> String {
        String::from_utf8(share.expose_text().expose().to_vec()).unwrap()
    }

    #[test]
    fn any_three_of_five_give_the_key_and_two_do_not() {
        let (_, shares) = split(&key(), 5, 3).unwrap();
        for a in 0..5 {
            for b in a + 1..5 {
                for c in b + 1..5 {
                    let given = [&shares[c], &shares[a], &shares[b]];
                    assert_eq!(combine(&given, 3).unwrap().expose(), key().expose());
                }
                // The same one twice is still one.
                let error = combine(&[&shares[a], &shares[b], &shares[a]], 3).unwrap_err();
                assert!(error.message().starts_with("2 of 3 shares were given"), "{error}");
            }
        }
    }

    #[test]
    fn fewer_shares_than_needed_do_not_hold_the_key() {
        // Whoever lowers the threshold in the text combines two shares to something else.
        let (_, shares) = split(&key(), 3, 3).unwrap();
        assert_ne!(combine(&[&shares[0], &shares[1]], 2).unwrap().expose(), key().expose());
    }

    #[test]
    fn a_share_is_read_as_it_was_written_however_it_was_typed() {
        let (kind, shares) = split(&key(), 3, 2).unwrap();
        for share in &shares {
            let text = text(share);
            assert!(text.starts_with(&format!("clvs1-{}-{}-2-", share.set(), share.number())), "{text}");
            let spaced = format!("  {}\r\n", text.to_uppercase().replace('-', " - "));
            for typed in [text, spaced] {
                let read: Share = typed.parse().unwrap();
                assert_eq!((read.set(), read.number()), (share.set(), share.number()));
                check(&read, &kind).unwrap().unwrap();
            }
        }
    }

    #[test]
    fn a_share_with_any_other_letter_is_refused_with_its_number() {
        let (_, shares) = split(&key(), 3, 2).unwrap();
        let good = text(&shares[1]);
        for place in 17..good.len() {
            let mut wrong = good.clone().into_bytes();
            if wrong[place] == b'-' {
                continue;
            }
            wrong[place] = if wrong[place] == b'0' { b'1' } else { b'0' };
            let error = String::from_utf8(wrong).unwrap().parse::<Share>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.message().starts_with("share 2 was not read"), "{error}");
        }
        for text in ["", "clvs1", "a passphrase", "clvs2-a-1-2-b-c", &"x".repeat(600)] {
            assert!(text.parse::<Share>().unwrap_err().message().starts_with("this is no share"), "{text}");
        }
    }

    #[test]
    fn shares_of_another_set_and_forged_ones_are_told_by_number() {
        let (kind, shares) = split(&key(), 3, 2).unwrap();
        let (_, others) = split(&key(), 3, 2).unwrap();
        let mixed = check(&others[2], &kind).unwrap_err();
        assert!(mixed.message().starts_with("share 3 is of the set"), "{mixed}");
        let forged = Share {
            set: shares[0].set.clone(),
            value: SecretBytes::new(vec![1; 32]),
            ..text(&others[1]).parse().unwrap()
        };
        let forged = check(&forged, &kind).unwrap_err();
        assert!(forged.message().starts_with("share 2 of the set"), "{forged}");
        assert!(check(&shares[0], &Kind::KeyFile).unwrap().is_none());
    }

    #[test]
    fn counts_that_cannot_be_are_refused() {
        for (shares, threshold) in [(5, 1), (2, 3), (0, 0), (33, 2), (255, 255)] {
            assert_eq!(split(&key(), shares, threshold).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        assert_eq!(split(&key(), MAX_SHARES, MAX_SHARES).unwrap().1.len(), 32);
    }
}
