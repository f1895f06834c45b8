//! Page tokens of lists of the log.
//!
//! ```text
//! base64url( version 1 byte | list 4 bytes | number 8 bytes | told 25 bytes at most )
//! ```
//!
//! Invariant: a token is taken only by the list that gave it: the same projects, filter and order.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use claviger_core::{Error, Result};
use claviger_crypto::crc32c;

const VERSION: u8 = 1;
const BITS: usize = 8;

/// Where a list goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Token {
    list: u32,
    /// Zero at the beginning.
    number: u64,
    /// Which names of logs were told already, as bits.
    told: Vec<u8>,
}

impl Token {
    /// What makes a list another one.
    pub(super) fn list<const N: usize>(parts: [&str; N], projects: &BTreeSet<String>) -> u32 {
        let mut text = Vec::new();
        for part in parts.into_iter().chain(projects.iter().map(String::as_str)) {
            text.extend_from_slice(&part.len().to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        crc32c(&text)
    }

    /// A list of entries goes on past a number.
    pub(super) fn after(number: u64, list: u32) -> Self {
        Self { list, number, told: Vec::new() }
    }

    /// A list of logs goes on past a number, with names told already.
    pub(super) fn after_logs(number: u64, list: u32, told: &[bool]) -> Self {
        let byte = |bits: &[bool]| {
            bits.iter().enumerate().fold(0, |byte, (bit, told)| byte | (u8::from(*told) << bit))
        };
        Self { list, number, told: told.chunks(BITS).map(byte).collect() }
    }

    /// The number to go on past.
    pub(super) fn past(&self) -> Option<u64> {
        (self.number > 0).then_some(self.number)
    }

    /// Which of so many names were told already.
    pub(super) fn told(&self, names: usize) -> Vec<bool> {
        let bit = |name: usize| self.told.get(name / BITS).is_some_and(|byte| byte >> (name % BITS) & 1 == 1);
        (0..names).map(bit).collect()
    }

    /// The token as a client keeps it.
    pub(super) fn write(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.list.to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.told);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what a client sent for a list; nothing is the beginning.
    pub(super) fn read(text: &str, list: u32) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self { list, ..Self::default() });
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        let token = Self::decode(&bytes).filter(|token| token.list == list && token.number > 0);
        token.ok_or_else(|| {
            Error::invalid_field(
                "page_token",
                "is not one that a list with this filter, order and projects gave",
            )
        })
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, bytes) = bytes.split_first()?;
        let (list, bytes) = bytes.split_first_chunk()?;
        let (number, told) = bytes.split_first_chunk()?;
        (*version == VERSION).then(|| Self {
            list: u32::from_be_bytes(*list),
            number: u64::from_be_bytes(*number),
            told: told.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_to_its_own_list_and_to_no_other() {
        let projects = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let list = Token::list(["entries", "a"], &projects(&["p"]));
        let told: Vec<bool> = (0..11).map(|bit| bit % 3 == 0).collect();
        let token = Token::after_logs(7, list, &told);
        let back = Token::read(&token.write(), list).unwrap();
        assert_eq!((back.past(), back.told(11)), (Some(7), told));
        assert_eq!(Token::read("", list).unwrap().past(), None);
        for other in [
            Token::list(["entries", "b"], &projects(&["p"])),
            Token::list(["entries", "a"], &projects(&["p", "q"])),
            Token::list(["entriesa", ""], &projects(&["p"])),
        ] {
            assert!(Token::read(&token.write(), other).is_err());
        }
        for wrong in ["x", "AQ", "é", &Token::after(0, list).write(), &token.write()[1..]] {
            assert!(Token::read(wrong, list).is_err(), "{wrong}");
        }
    }
}
