//! What has come and is not dealt with yet.

/// Bytes of a request that is answered without hyper, head and body together. It is what an idle
/// connection takes of memory, nearly.
pub(super) const RECEIVED_BYTES_MAX: usize = 4 << 10;

/// A buffer of [`RECEIVED_BYTES_MAX`].
#[derive(Debug)]
pub(super) struct Received {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Received {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; RECEIVED_BYTES_MAX].into_boxed_slice(), start: 0, end: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes().len() == self.bytes.len()
    }

    /// Room for more; none, if it is full.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    /// Notes that the first `count` bytes of the room have been filled.
    pub(super) fn fill(&mut self, count: usize) {
        self.end = self.bytes.len().min(self.end + count);
    }

    /// Drops the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_behind_keeps_its_place() {
        let mut received = Received::new();
        let mut next = 0_u8;
        let mut expected = Vec::new();
        for (filled, consumed) in [(10, 3), (4_000, 4_000), (4_096 - 7, 1), (0, 4_000), (5, 100)] {
            for byte in &mut received.room()[..filled] {
                *byte = next;
                expected.push(next);
                next = next.wrapping_add(1);
            }
            received.fill(filled);
            assert_eq!(received.bytes(), expected);
            assert_eq!(received.is_full(), expected.len() == RECEIVED_BYTES_MAX);
            received.consume(consumed);
            expected.drain(..consumed.min(expected.len()));
            assert_eq!(received.bytes(), expected);
        }
        assert_eq!(received.room().len(), RECEIVED_BYTES_MAX);
    }
}
