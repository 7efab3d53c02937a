//! A TCP proxy that fails as networks do: it swallows bytes, delays them, resets connections,
//! refuses new ones, and changes its target. Look here for what each failure does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::ports::stable_port;

/// Bytes per read.
const CHUNK_BYTES: usize = 16 << 10;

/// Chunks in flight per direction; with more, the proxy stops reading. Chosen arbitrarily.
const CHUNKS_MAX: usize = 64;

/// The directions whose bytes are swallowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From clients to the target.
    ToTarget,
    /// From the target to clients.
    ToClients,
    /// Both.
    Both,
}

/// A running proxy; its connections close when it is dropped. Must be started in a Tokio runtime.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

struct State {
    target: SocketAddr,
    latency: Duration,
    refuses: bool,
    /// What happens to connections that are opened now.
    swallows: Option<Direction>,
    /// How many reads from its client a connection that is opened now forwards before it swallows
    /// everything.
    reads_max: usize,
    connections: Vec<Weak<Connection>>,
}

struct Connection {
    /// How many reads from its client are forwarded before everything is swallowed.
    reads_left: AtomicUsize,
    swallows_to_target: AtomicBool,
    swallows_to_clients: AtomicBool,
    cut: Notify,
}

impl Proxy {
    /// Starts a proxy on a free port.
    ///
    /// # Panics
    /// When it cannot listen, or there is no runtime.
    pub fn start(target: SocketAddr) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], stable_port()));
        let listener = std::net::TcpListener::bind(address).expect("a listener");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let listener = TcpListener::from_std(listener).expect("a listener in the runtime");
        let state = Arc::new(Mutex::new(State {
            target,
            latency: Duration::ZERO,
            refuses: false,
            swallows: None,
            reads_max: usize::MAX,
            connections: Vec::new(),
        }));
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, task }
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go to another target. Existing ones stay where they are.
    pub fn set_target(&self, target: SocketAddr) {
        lock(&self.state).target = target;
    }

    /// Delays all bytes that are read from now on, in both directions.
    pub fn set_latency(&self, latency: Duration) {
        lock(&self.state).latency = latency;
    }

    /// Resets new connections at once, or no longer.
    pub fn refuse(&self, refuses: bool) {
        lock(&self.state).refuses = refuses;
    }

    /// Swallows all bytes of existing connections from now on: they are read and not forwarded, and
    /// the end of a connection is not forwarded either. Such a connection never works again.
    pub fn swallow_existing(&self, direction: Direction) {
        for connection in lock(&self.state).existing() {
            connection.swallow(direction);
        }
    }

    /// Like [`swallow_existing`](Self::swallow_existing), and new connections are swallowed as well
    /// until [`pass`](Self::pass).
    pub fn swallow(&self, direction: Direction) {
        lock(&self.state).swallows = Some(direction);
        self.swallow_existing(direction);
    }

    /// New connections forward what their clients send in this many reads, and then swallow all
    /// bytes, until [`pass`](Self::pass).
    pub fn swallow_after(&self, reads: usize) {
        lock(&self.state).reads_max = reads;
    }

    /// Resets all existing connections.
    pub fn cut(&self) {
        for connection in lock(&self.state).existing() {
            connection.cut.notify_one();
        }
    }

    /// New connections work again, without latency. Connections that lost bytes do not.
    pub fn pass(&self) {
        let mut state = lock(&self.state);
        state.latency = Duration::ZERO;
        state.refuses = false;
        state.swallows = None;
        state.reads_max = usize::MAX;
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        lock(&self.state).existing().count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn existing(&self) -> impl Iterator<Item = Arc<Connection>> {
        self.connections.iter().filter_map(Weak::upgrade)
    }
}

impl Connection {
    fn new(reads_max: usize) -> Self {
        Self {
            reads_left: AtomicUsize::new(reads_max),
            swallows_to_target: AtomicBool::new(false),
            swallows_to_clients: AtomicBool::new(false),
            cut: Notify::new(),
        }
    }

    /// Notes that bytes of the client were read.
    fn count_read(&self) {
        if self.reads_left.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.swallow(Direction::Both);
        }
    }

    fn swallow(&self, direction: Direction) {
        if direction != Direction::ToClients {
            self.swallows_to_target.store(true, Ordering::Relaxed);
        }
        if direction != Direction::ToTarget {
            self.swallows_to_clients.store(true, Ordering::Relaxed);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Dropping the set closes all connections.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (connection, target) = {
            let mut state = lock(&state);
            let connection = Arc::new(Connection::new(state.reads_max));
            if state.refuses {
                reset(&client);
                continue;
            }
            if let Some(direction) = state.swallows {
                connection.swallow(direction);
            }
            state.connections.retain(|connection| connection.strong_count() > 0);
            state.connections.push(Arc::downgrade(&connection));
            (connection, state.target)
        };
        connections.spawn(carry(client, target, connection, Arc::clone(&state)));
    }
}

/// Closing the socket will send a reset.
fn reset(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    connection: Arc<Connection>,
    state: Arc<Mutex<State>>,
) {
    let Ok(mut server) = TcpStream::connect(target).await else { return reset(&client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let is_cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let count_read = || connection.count_read();
        let to_target =
            pump(from_client, to_server, &connection.swallows_to_target, count_read, &state);
        let to_clients =
            pump(from_server, to_client, &connection.swallows_to_clients, || {}, &state);
        tokio::select! {
            ((), ()) = async { tokio::join!(to_target, to_clients) } => false,
            () = connection.cut.notified() => true,
        }
    };
    if is_cut {
        reset(&client);
        reset(&server);
    }
}

/// Forwards the bytes of one direction until its end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    swallows: &AtomicBool,
    on_read: impl Fn(),
    state: &Mutex<State>,
) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let read = async move {
        loop {
            let mut bytes = Vec::with_capacity(CHUNK_BYTES);
            if from.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                break;
            }
            on_read();
            let due = Instant::now() + lock(state).latency;
            if !swallows.load(Ordering::Relaxed) && sender.send((due, bytes)).await.is_err() {
                return;
            }
        }
        if swallows.load(Ordering::Relaxed) {
            // The end is swallowed too.
            std::future::pending::<()>().await;
        }
    };
    let write = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if !swallows.load(Ordering::Relaxed) && to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Longer than bytes take over the loopback interface.
    const SILENCE: Duration = Duration::from_millis(200);

    /// A server that sends every byte back, plus a constant.
    async fn echo(plus: u8) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while let Ok(byte) = socket.read_u8().await {
                        let _ = socket.write_u8(byte + plus).await;
                    }
                });
            }
        });
        address
    }

    /// The answer to a byte, or `None` if there is none.
    async fn answer(socket: &mut TcpStream, byte: u8) -> Option<std::io::Result<u8>> {
        if let Err(error) = socket.write_u8(byte).await {
            return Some(Err(error));
        }
        timeout(SILENCE, socket.read_u8()).await.ok()
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address()).await.expect("a connection")
    }

    async fn works(socket: &mut TcpStream, byte: u8, expected: u8) -> bool {
        matches!(answer(socket, byte).await, Some(Ok(byte)) if byte == expected)
    }

    #[tokio::test]
    async fn it_passes_bytes_and_changes_its_target_for_new_connections() {
        let proxy = Proxy::start(echo(1).await);
        let mut before = connect(&proxy).await;
        assert!(works(&mut before, 7, 8).await);
        assert_eq!(proxy.connections(), 1);
        proxy.set_target(echo(2).await);
        assert!(works(&mut connect(&proxy).await, 7, 9).await);
        assert!(works(&mut before, 8, 9).await);
    }

    #[tokio::test]
    async fn it_swallows_in_each_direction() {
        for direction in [Direction::ToTarget, Direction::ToClients, Direction::Both] {
            let proxy = Proxy::start(echo(1).await);
            let mut before = connect(&proxy).await;
            assert!(works(&mut before, 1, 2).await);
            proxy.swallow_existing(direction);
            assert!(answer(&mut before, 1).await.is_none(), "{direction:?}");
            assert!(works(&mut connect(&proxy).await, 1, 2).await, "{direction:?}");
            proxy.swallow(direction);
            assert!(answer(&mut connect(&proxy).await, 1).await.is_none(), "{direction:?}");
            proxy.pass();
            assert!(works(&mut connect(&proxy).await, 1, 2).await, "{direction:?}");
            // What lost bytes never works again.
            assert!(answer(&mut before, 1).await.is_none(), "{direction:?}");
        }
    }

    #[tokio::test]
    async fn it_cuts_and_refuses() {
        let proxy = Proxy::start(echo(1).await);
        let mut before = connect(&proxy).await;
        assert!(works(&mut before, 1, 2).await);
        proxy.cut();
        assert!(matches!(timeout(SILENCE, before.read_u8()).await, Ok(Err(_))));
        assert!(works(&mut connect(&proxy).await, 1, 2).await);
        proxy.refuse(true);
        assert!(matches!(answer(&mut connect(&proxy).await, 1).await, Some(Err(_))));
        proxy.pass();
        assert!(works(&mut connect(&proxy).await, 1, 2).await);
    }

    #[tokio::test]
    async fn it_delays_bytes_and_keeps_their_order() {
        let proxy = Proxy::start(echo(0).await);
        let mut socket = connect(&proxy).await;
        let latency = Duration::from_millis(60);
        proxy.set_latency(latency);
        let begin = Instant::now();
        for byte in 0..20 {
            socket.write_u8(byte).await.expect("a byte is sent");
        }
        for byte in 0..20 {
            assert_eq!(socket.read_u8().await.expect("a byte"), byte);
        }
        // Once in each direction, and not once for each byte.
        assert!((2 * latency..10 * latency).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    }
}
