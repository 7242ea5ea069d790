//! One connection through a proxy: two directions, each a reader and a writer with a queue between them.

use std::sync::atomic::AtomicBool;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::link::{Connection, End, Link, reset};
use super::rule::Direction;
use super::{reader, writer};

/// Chunks between a reader and its writer. A chunk is what one read returned, or one large frame.
const CHUNKS_MAX: usize = 64;

/// Carries bytes until both sides are done, one is gone, or a fault ends the connection.
pub(super) async fn carry(link: &Link, cut: CancellationToken, mut client: TcpStream, mut server: TcpStream) {
    let connection = Connection { link, commit_answer_lost: AtomicBool::new(false) };
    // What is read must be written at once, or the proxy would add delays that no rule asked for.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (up, up_queue) = mpsc::channel(CHUNKS_MAX);
        let (down, down_queue) = mpsc::channel(CHUNKS_MAX);
        let carrying = async {
            tokio::try_join!(
                reader::read(&connection, Direction::ToServer, from_client, up),
                writer::write(&connection, Direction::ToServer, to_server, up_queue),
                reader::read(&connection, Direction::ToClient, from_server, down),
                writer::write(&connection, Direction::ToClient, to_client, down_queue),
            )
        };
        // A cut from outside is counted there.
        cut.run_until_cancelled(carrying).await.unwrap_or(Err(End::Gone))
    };
    if matches!(ended, Err(End::Cut { .. })) {
        link.stats.cut.add(1);
    }
    if matches!(ended, Err(End::Gone | End::Cut { reset: true })) {
        reset(&client);
        reset(&server);
    }
}
