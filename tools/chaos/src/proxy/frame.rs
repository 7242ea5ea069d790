//! A frame of a protocol, with what rules want to know about it.

use bytes::Bytes;

use super::rule::Matcher;

/// The largest frame that is gathered before it is passed on. NATS refuses payloads over 8 MiB by default, and
/// no statement of this system is nearly as large.
pub(super) const FRAME_BYTES_MAX: usize = 16 << 20;

/// How far into a payload a matcher looks.
const MATCHED_PAYLOAD_BYTES: usize = 8 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    pub(super) kind: Kind,
}

/// The kinds of frames that some rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A NATS message, to the server or from it.
    Message {
        subject: Bytes,
        subscription: Option<Bytes>,
        reply: Option<Bytes>,
        /// Headers, if there are any, and payload.
        payload: Bytes,
        /// How much of it is headers.
        headers: usize,
    },
    /// The parameters of a statement that commits claims or a coupon.
    Commit,
    /// The end of an answer.
    Completed,
    /// An error: what was asked has not been committed.
    Failed,
    Other,
}

impl Frame {
    pub(super) fn matches(&self, matcher: &Matcher) -> bool {
        let Kind::Message { subject, payload, .. } = &self.kind else { return false };
        let payload = &payload[..payload.len().min(MATCHED_PAYLOAD_BYTES)];
        let within = |text: &Option<String>, bytes: &[u8]| {
            text.as_ref().is_none_or(|text| contains(bytes, text.as_bytes()))
        };
        within(&matcher.subject, subject) && within(&matcher.payload, payload)
    }

    /// The subscription that a message belongs to.
    pub(super) fn subscription(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Message { subscription, .. } => subscription.as_ref(),
            _ => None,
        }
    }
}

pub(super) fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

/// The stream does not follow its protocol.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LostFraming;
