//! Writes one direction of a connection, and applies the rules that look at bytes.

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::WriteHalf;
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep_until;

use super::link::{Chunk, Connection, End, Link};
use super::rule::Direction;

/// Bytes of one chunk that are written one at a time; the rest follows at once. Every header and length of
/// the batches in question lies within, and a megabyte does not take a minute.
const SLICED_BYTES_MAX: usize = 2048;

/// Writes what the reader hands over, and then closes the direction.
pub(super) async fn write(
    connection: &Connection<'_>,
    direction: Direction,
    mut target: WriteHalf<'_>,
    mut queue: Receiver<Chunk>,
) -> Result<(), End> {
    let link = connection.link;
    while let Some(Chunk { mut bytes, due }) = queue.recv().await {
        sleep_until(due).await;
        connection.pass_black_holes(direction, bytes.len()).await?;
        let cut = link.rules.spend(direction, bytes.len());
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.bytes));
        write_bytes(link, &mut target, bytes).await.map_err(|_| End::Gone)?;
        if let Some(cut) = cut {
            return Err(End::Cut { reset: cut.reset });
        }
    }
    // A black hole holds the end of a stream as well.
    connection.pass_black_holes(direction, 0).await?;
    target.shutdown().await.map_err(|_| End::Gone)
}

async fn write_bytes(link: &Link, target: &mut WriteHalf<'_>, bytes: Bytes) -> std::io::Result<()> {
    let mut sliced = 0;
    if !bytes.is_empty() && link.rules.slices() {
        sliced = bytes.len().min(SLICED_BYTES_MAX);
        link.stats.bytes_sliced.add(sliced);
    }
    for byte in bytes[..sliced].chunks(1) {
        target.write_all(byte).await?;
        // Lets the other side read in between.
        tokio::task::yield_now().await;
    }
    target.write_all(&bytes[sliced..]).await
}
