//! Requests over a TLS connection, as text. Look here for how an answer is awaited.

use headwater_test_support::PATIENCE;
use headwater_test_support::tls::Socket;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Sends a request and reads on until a text comes.
pub(crate) async fn ask(socket: &mut Socket, request: &str, until: &str) -> String {
    socket.write_all(request.as_bytes()).await.expect("the request is sent");
    read_until(socket, until).await
}

pub(crate) async fn read_until(socket: &mut Socket, until: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(until) {
        let read = timeout(PATIENCE, socket.read_buf(&mut bytes)).await;
        let so_far = String::from_utf8_lossy(&bytes);
        let count = read.unwrap_or_else(|_| panic!("{until:?} in time: {so_far}"));
        assert_ne!(count.expect("an open connection"), 0, "{until:?} before the end: {so_far}");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn certificate_of(socket: &Socket) -> CertificateDer<'static> {
    let chain = socket.get_ref().1.peer_certificates().expect("a certificate");
    chain[0].clone().into_owned()
}
