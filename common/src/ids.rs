//! Names and ids, valid from the moment they are made.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest coupon name and user id, in characters (Unicode scalar values).
pub const NAME_CHARS_MAX: usize = 255;

/// Longest `Idempotency-Key`, in characters.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;

/// Why a text cannot be a coupon name or a user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing but white space, or nothing at all.
    #[error("must not be blank")]
    Blank,
    /// More than [`NAME_CHARS_MAX`] characters.
    #[error("must have at most {NAME_CHARS_MAX} characters")]
    TooLong,
    /// A control character, such as a line break or U+0000, which Postgres cannot store.
    #[error("must not contain control characters")]
    ControlCharacter,
}

fn validate(text: &str) -> Result<(), InvalidName> {
    // Bytes bound characters from above, so that short ASCII, the common case, is not counted.
    if text.len() > NAME_CHARS_MAX && text.chars().nth(NAME_CHARS_MAX).is_some() {
        return Err(InvalidName::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidName::ControlCharacter);
    }
    if text.trim().is_empty() {
        return Err(InvalidName::Blank);
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Any Unicode text of 1 to [`NAME_CHARS_MAX`] characters that is not blank and holds no
        /// control characters, kept byte for byte as it came. Cheap to clone.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text and makes it a name.
            ///
            /// # Errors
            /// The rule that the text breaks.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                validate(text)?;
                Ok(Self(text.into()))
            }

            /// The text as it came.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of a coupon.
    CouponName
}

name_type! {
    /// Whoever claims a coupon.
    UserId
}

/// The identity of one claim: applying the same id again gives the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimId(Uuid);

impl ClaimId {
    /// A claim without an `Idempotency-Key`: a random id, from a generator of the thread's own
    /// (the operating system's shows up in profiles).
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The claim that a client names by its key: the same key, user and coupon always give the
    /// same id (a name-based UUID, RFC 9562 version 5).
    pub fn from_key(key: IdempotencyKey<'_>, user_id: &UserId, coupon_name: &CouponName) -> Self {
        /// Sets these ids apart from all other name-based ones.
        const NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_0e5c_93b4_4c3e_9b1f_52a8_7d40_c61a);
        // U+0000 cannot be part of any of the three: no two triples give the same text.
        let name = [key.0, user_id.as_str(), coupon_name.as_str()].join("\0");
        Self(Uuid::new_v5(&NAMESPACE, name.as_bytes()))
    }

    /// The id as the database keeps it.
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for ClaimId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A client's own name for a request that it may repeat (the `Idempotency-Key` header).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyKey<'a>(&'a str);

/// Why a header cannot be an [`IdempotencyKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters, none of them a control character")]
pub struct InvalidKey;

impl<'a> IdempotencyKey<'a> {
    /// Reads the header's value: bare, or quoted as the IETF draft has it (`"…"`), which names the
    /// same key.
    ///
    /// # Errors
    /// When the key is empty, too long or holds control characters.
    pub fn new(header: &'a str) -> Result<Self, InvalidKey> {
        let text = header.trim();
        let key = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        if key.is_empty()
            || key.chars().count() > IDEMPOTENCY_KEY_CHARS_MAX
            || key.chars().any(char::is_control)
        {
            return Err(InvalidKey);
        }
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_any_text_but_blank_long_or_control() {
        for good in ["a", "a/b", "..", "*", ">", "O'Brien \"x\"", "🎉", "日本", &"é".repeat(255)] {
            assert_eq!(CouponName::new(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", InvalidName::Blank),
            ("  ", InvalidName::Blank),
            ("\u{3000}", InvalidName::Blank),
            ("a\0b", InvalidName::ControlCharacter),
            ("\n", InvalidName::ControlCharacter),
            ("\u{85}", InvalidName::ControlCharacter),
            (&"é".repeat(256), InvalidName::TooLong),
        ] {
            assert_eq!(UserId::new(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn the_same_key_user_and_coupon_give_the_same_claim() {
        let (user, coupon) = (UserId::new("u").unwrap(), CouponName::new("c").unwrap());
        let id = |key: &str| ClaimId::from_key(IdempotencyKey::new(key).unwrap(), &user, &coupon);
        assert_eq!(id("k"), id("\"k\""));
        assert_ne!(id("k"), id("l"));
        let other = UserId::new("v").unwrap();
        assert_ne!(id("k"), ClaimId::from_key(IdempotencyKey::new("k").unwrap(), &other, &coupon));
        assert_ne!(ClaimId::random(), ClaimId::random());
    }

    #[test]
    fn keys_have_limits() {
        assert!(IdempotencyKey::new(&"k".repeat(255)).is_ok());
        for bad in ["", "\"\"", &"k".repeat(256), "a\tb"] {
            assert_eq!(IdempotencyKey::new(bad), Err(InvalidKey), "{bad:?}");
        }
    }
}
