//! A socket that a poll loop writes to and reads from. Look here for how the generator and the floor connect.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// Connects, waits for it, and has the loop watch it.
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
