//! Connects sockets for a poll loop. Look here for how the publisher and the floor connect.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// Connects, waits until connected, and registers the socket with the poll.
pub(crate) fn connect(
    address: SocketAddr,
    token: Token,
    registry: &Registry,
) -> io::Result<TcpStream> {
    let socket = std::net::TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let mut socket = TcpStream::from_std(socket);
    registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
    Ok(socket)
}
