//! A connection to a KMS elsewhere, and why TLS failed, which the HTTP on top of it does not tell.
//!
//! Invariant: bytes pass as they are.

use std::io::{Error, IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;

/// Why one end did not take the other's certificate.
#[derive(Debug, Default)]
pub(super) struct Noted(Mutex<Option<String>>);

impl Noted {
    /// Keeps an error of TLS.
    pub(super) fn note(&self, error: &Error) {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return;
        };
        let text = match error {
            rustls::Error::InvalidCertificate(why) => {
                format!("its certificate is not one that --kms-ca vouches for, by that name and now ({why})")
            }
            rustls::Error::AlertReceived(alert) => format!(
                "it refuses TLS ({alert:?}): it may want a certificate (--kms-cert, --kms-key) that its --client-ca \
                 vouches for"
            ),
            _ => return,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn peek(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See the file's text.
pub(super) struct Socket(Kind);

enum Kind {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>, Arc<Noted>),
}

impl Socket {
    pub(super) fn clear(stream: TcpStream) -> Self {
        Self(Kind::Clear(stream))
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, trouble: Arc<Noted>) -> Self {
        Self(Kind::Tls(Box::new(stream), trouble))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match &mut self.0 {
            Kind::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
            Kind::Tls(stream, trouble) => {
                let read = Pin::new(stream).poll_read(cx, buf);
                if let Poll::Ready(Err(error)) = &read {
                    trouble.note(error);
                }
                read
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        match &mut self.0 {
            Kind::Clear(stream) => Pin::new(stream).poll_write(cx, buf),
            Kind::Tls(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        match &mut self.0 {
            Kind::Clear(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Kind::Tls(stream, _) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.0 {
            Kind::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.0 {
            Kind::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
