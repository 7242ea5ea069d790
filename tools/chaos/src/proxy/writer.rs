//! Writes one direction of a connection, and applies the rules that look at bytes.

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::WriteHalf;
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep_until;

use super::connection::{Connection, End, Parcel};
use super::rule::{OnHeal, Way};

/// Bytes of one piece that are written one at a time; the rest follows at once. Every header and length of
/// the batches in question lies within, and a megabyte does not take a minute.
const SLICED_BYTES_MAX: usize = 2048;

/// Writes what the reader hands over, and closes the direction after it.
pub(super) async fn write(
    connection: &Connection<'_>,
    way: Way,
    mut target: WriteHalf<'_>,
    mut queue: Receiver<Parcel>,
) -> Result<(), End> {
    let shared = connection.shared;
    while let Some(Parcel { bytes, due }) = queue.recv().await {
        sleep_until(due).await;
        pass_holes(connection, way, bytes.len()).await?;
        let cut = shared.board.spend(way, bytes.len());
        let allowed = cut.map_or(bytes.clone(), |cut| bytes.slice(..cut.bytes));
        write_bytes(connection, &mut target, allowed).await.map_err(|_| End::Gone)?;
        if let Some(cut) = cut {
            return Err(End::Cut { reset: cut.reset });
        }
    }
    // The end of a stream falls into a hole just as bytes do.
    pass_holes(connection, way, 0).await?;
    target.shutdown().await.map_err(|_| End::Gone)
}

/// Waits while a hole is open.
pub(super) async fn pass_holes(connection: &Connection<'_>, way: Way, bytes: usize) -> Result<(), End> {
    let shared = connection.shared;
    let mut rules = shared.board.changes();
    let Some(mut on_heal) = shared.board.hole(way) else { return Ok(()) };
    shared.stats.held(bytes);
    shared.board.hit_hole(way);
    loop {
        // The board lives as long as its connections, so this only ever tells of changes.
        let _ = rules.changed().await;
        match shared.board.hole(way) {
            Some(OnHeal::Cut) => on_heal = OnHeal::Cut,
            Some(OnHeal::Deliver) => {}
            None if on_heal == OnHeal::Cut => return Err(End::Cut { reset: true }),
            None => return Ok(()),
        }
    }
}

async fn write_bytes(
    connection: &Connection<'_>,
    target: &mut WriteHalf<'_>,
    bytes: Bytes,
) -> std::io::Result<()> {
    let shared = connection.shared;
    if bytes.is_empty() || !shared.board.slices() {
        return target.write_all(&bytes).await;
    }
    let sliced = bytes.len().min(SLICED_BYTES_MAX);
    shared.stats.sliced(sliced);
    for byte in bytes[..sliced].chunks(1) {
        target.write_all(byte).await?;
        // Lets the other side read in between.
        tokio::task::yield_now().await;
    }
    target.write_all(&bytes[sliced..]).await
}
