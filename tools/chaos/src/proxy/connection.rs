//! One connection through a proxy: two directions, each a reader and a writer with a queue between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rule::Way;
use super::{Shared, reader, reset, writer};

/// Pieces between a reader and its writer. A piece is what one read gave, or one large frame.
const PIECES_MAX: usize = 64;

/// Why a connection ended before both sides had said all they wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A rule cut it.
    Cut {
        /// With a reset instead of an orderly close.
        reset: bool,
    },
    /// One of the two sides is gone.
    Gone,
}

/// Bytes on their way from a reader to its writer.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) bytes: Bytes,
    /// Not written before this moment.
    pub(super) due: Instant,
}

/// What both directions of a connection share.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    pub(super) shared: &'a Shared,
    cut: CancellationToken,
    /// Set once a commit was passed on whose answer is to be discarded.
    pub(super) commit_answer_lost: AtomicBool,
    pub(super) encryption_answers: Arc<AtomicU32>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(shared: &'a Shared, cut: CancellationToken) -> Self {
        Self {
            shared,
            cut,
            commit_answer_lost: AtomicBool::new(false),
            encryption_answers: Arc::new(AtomicU32::new(0)),
        }
    }

    /// Carries bytes until both sides are done, one is gone, or a fault ends it.
    pub(super) async fn run(self, mut client: TcpStream, mut server: TcpStream) {
        let _open = self.shared.stats.accepted();
        // What is read must be written at once, or the proxy would add delays that nobody asked for.
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let ended = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let (up, up_queue) = mpsc::channel(PIECES_MAX);
            let (down, down_queue) = mpsc::channel(PIECES_MAX);
            let carrying = async {
                tokio::try_join!(
                    reader::read(&self, Way::ToServer, from_client, up),
                    writer::write(&self, Way::ToServer, to_server, up_queue),
                    reader::read(&self, Way::ToClient, from_server, down),
                    writer::write(&self, Way::ToClient, to_client, down_queue),
                )
            };
            tokio::select! {
                // Counted by whoever cancelled.
                () = self.cut.cancelled() => Err(End::Gone),
                carried = carrying => carried.map(|_| ()),
            }
        };
        if let Err(end) = ended {
            if matches!(end, End::Cut { .. }) {
                self.shared.stats.cut(1);
            }
            if end != (End::Cut { reset: false }) {
                reset(&client);
                reset(&server);
            }
        }
    }
}
