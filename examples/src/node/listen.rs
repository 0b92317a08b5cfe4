//! TCP sockets that stand a takeover.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// So many connections may wait to be accepted, if `net.core.somaxconn` permits. All clients of an address that has
/// just moved come back at once; the standard library's 128 would make most of them wait a second for their next SYN.
const BACKLOG: i32 = 4096;

/// Listens on `address`.
///
/// # Errors
/// Those of `bind`: the address is not of this machine, or in use, or its port needs a permission.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::time::Duration;

    #[test]
    fn two_hundred_wait_without_being_accepted() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(900)).unwrap();
        let waiting: Vec<_> = (0..200).map(connect).collect();
        assert_eq!(waiting.len(), 200);
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let again = listen(listener.local_addr().unwrap());
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
