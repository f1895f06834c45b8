//! A connection's bytes to the client, held back until the connection's task has done all it can.
//!
//! HTTP/2's library writes and flushes each data frame by itself: with answers of 1 KB, a system call for each.
//! Here all frames that one turn of the connection's task makes leave with one.
//!
//! Invariant: nothing is held back over a turn: [`corked`] gives the socket all it takes after each. At most
//! [`HELD_BYTES`] are held; what is larger waits for the socket, as without this.

use std::future::Future;
use std::io::{Error, IoSlice, Result};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held back at most.
const HELD_BYTES: usize = 64 * 1024;

/// The socket's way out, and what is held back for it.
struct Out<W> {
    socket: W,
    held: BytesMut,
}

impl<W: AsyncWrite + Unpin> Out<W> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(Error::from(std::io::ErrorKind::WriteZero)));
            }
            self.held.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes all of `parts`, or gives what is large to the socket itself.
    fn poll_take(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if self.held.len() + bytes > HELD_BYTES {
            ready!(self.poll_drain(cx))?;
            if bytes > HELD_BYTES {
                return Pin::new(&mut self.socket).poll_write_vectored(cx, parts);
            }
        }
        for part in parts {
            self.held.extend_from_slice(part);
        }
        Poll::Ready(Ok(bytes))
    }
}

/// A connection as its protocol sees it.
pub(super) struct Corked<R, W> {
    from: R,
    out: Arc<Mutex<Out<W>>>,
}

impl<R, W> Corked<R, W> {
    fn out(&self) -> MutexGuard<'_, Out<W>> {
        // A turn that panicked ends its connection; the bytes before it are whole.
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: AsyncRead + Unpin, W: Unpin> AsyncRead for Corked<R, W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.from).poll_read(cx, buf)
    }
}

impl<R: Unpin, W: AsyncWrite + Unpin> AsyncWrite for Corked<R, W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.out().poll_take(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.out().poll_take(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        // At the end of the turn.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut out = self.out();
        ready!(out.poll_drain(cx))?;
        Pin::new(&mut out.socket).poll_shutdown(cx)
    }
}

/// Runs a connection over the two halves of a socket; `serve` makes its future from the corked socket.
///
/// # Errors
/// When the socket takes no more bytes.
pub(super) async fn corked<R, W, F>(
    from: R,
    to: W,
    serve: impl FnOnce(Corked<R, W>) -> F,
) -> Result<F::Output>
where
    W: AsyncWrite + Unpin,
    F: Future,
{
    let out = Arc::new(Mutex::new(Out { socket: to, held: BytesMut::new() }));
    let mut connection = pin!(serve(Corked { from, out: out.clone() }));
    let mut ended = None;
    std::future::poll_fn(move |cx| {
        if ended.is_none()
            && let Poll::Ready(end) = connection.as_mut().poll(cx)
        {
            ended = Some(end);
        }
        let drained = out.lock().unwrap_or_else(PoisonError::into_inner).poll_drain(cx);
        match (drained, ended.take()) {
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Some(end)) => Poll::Ready(Ok(end)),
            (_, unfinished) => {
                ended = unfinished;
                Poll::Pending
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};

    use super::*;

    /// A socket of which each write is counted.
    struct Counted(tokio::io::WriteHalf<DuplexStream>, Arc<Mutex<usize>>);

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
            *self.1.lock().unwrap() += 1;
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_one_turn_writes_and_flushes_leaves_at_once_when_it_ends() {
        let (near, mut far) = duplex(1 << 20);
        let (from, to) = split(near);
        let writes = Arc::new(Mutex::new(0));
        corked(from, Counted(to, writes.clone()), |mut socket| async move {
            for word in ["one ", "two ", "three"] {
                socket.write_all(word.as_bytes()).await.unwrap();
                socket.flush().await.unwrap();
            }
            // The turn ends here, and the client answers what it got.
            let mut answer = [0; 2];
            socket.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"ok");
        })
        .ends_with_peer(async {
            let mut words = [0; 13];
            far.read_exact(&mut words).await.unwrap();
            assert_eq!(&words, b"one two three");
            far.write_all(b"ok").await.unwrap();
        })
        .await;
        assert_eq!(*writes.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn more_than_the_socket_takes_waits_for_it_and_nothing_is_lost_or_changed() {
        // A socket that takes little at a time.
        let (near, mut far) = duplex(1000);
        let (from, to) = split(near);
        let sent: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let mut got = Vec::new();
        let all = sent.clone();
        corked(from, to, |mut socket| async move {
            let mut rest = all.as_slice();
            for size in [1, 10_000, HELD_BYTES, 70_000, 3, 100_000].into_iter().cycle() {
                let (part, left) = rest.split_at(size.min(rest.len()));
                socket.write_all(part).await.unwrap();
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            socket.shutdown().await.unwrap();
        })
        .ends_with_peer(async {
            far.read_to_end(&mut got).await.unwrap();
        })
        .await;
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    }

    #[tokio::test]
    async fn a_client_that_is_gone_ends_the_connection() {
        let (near, far) = duplex(1000);
        drop(far);
        let (from, to) = split(near);
        let ended = corked(from, to, |mut socket| async move {
            socket.write_all(b"to nobody").await.unwrap();
            std::future::pending::<()>().await;
        });
        assert!(ended.await.is_err());
    }

    /// Runs both to their ends.
    trait EndsWithPeer: Future<Output = Result<()>> + Sized {
        async fn ends_with_peer(self, other: impl Future<Output = ()>) {
            tokio::join!(self, other).0.unwrap();
        }
    }
    impl<F: Future<Output = Result<()>>> EndsWithPeer for F {}
}
