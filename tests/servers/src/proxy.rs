//! A network between a client and a server that can be hurt.

use std::{
    io,
    net::TcpListener as StdListener,
    thread::{self, JoinHandle},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime,
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{HOST, port::Port};

/// How often another port is tried when a stranger was faster.
const PORTS_MAX: usize = 5;

/// Stands between clients and a server, and passes bytes on in both directions, until it is told otherwise.
///
/// It runs on a thread of its own, so tests with and without a runtime can use it. All its connections end when it
/// is dropped.
pub struct Proxy {
    port: Port,
    target: String,
    /// None while dropping, which ends the thread. Each order is waited for, so there is never more than one a caller.
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// What becomes of bytes.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    Open,
    Stalled,
    Cut,
}

enum Act {
    /// All connections, and new ones.
    Let(Flow),
    /// Those that are open, and not new ones.
    Freeze,
    /// New ones lead there.
    Lead(String),
}

struct Order {
    act: Act,
    /// Told when the order is carried out.
    done: std::sync::mpsc::Sender<io::Result<()>>,
}

impl Proxy {
    /// Starts a proxy to an address such as `127.0.0.1:20123`.
    pub fn to(address: &str) -> Self {
        let (port, listener) = listen();
        let target = address.to_owned();
        let (orders, received) = mpsc::unbounded_channel();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_io().build();
            let runtime = runtime.expect("the proxy's runtime starts");
            runtime.block_on(serve(listener, target, received));
        });
        Self {
            port,
            target: address.to_owned(),
            orders: Some(orders),
            thread: Some(thread),
        }
    }

    /// Where clients connect: `127.0.0.1:20124`.
    pub fn address(&self) -> String {
        format!("{HOST}:{}", self.port.number)
    }

    /// The server's URL, with the proxy in the server's place.
    ///
    /// # Panics
    ///
    /// If the URL is not one of this proxy's server.
    pub fn url(&self, url_of_server: &str) -> String {
        let target = &self.target;
        assert!(
            url_of_server.contains(target.as_str()),
            "{url_of_server} does not lead to {target}"
        );
        url_of_server.replacen(target, &self.address(), 1)
    }

    /// Closes all connections and refuses new ones. On return both have happened.
    pub fn cut(&self) {
        self.order(Act::Let(Flow::Cut));
    }

    /// Passes nothing on, in neither direction, not even that one side has closed. Connections stay, and new ones are
    /// accepted and hear nothing.
    pub fn stall(&self) {
        self.order(Act::Let(Flow::Stalled));
    }

    /// Passes nothing on of the connections that are open, as a firewall does that has forgotten them. New ones work.
    pub fn freeze(&self) {
        self.order(Act::Freeze);
    }

    /// Passes bytes on again. What was held back during a stall or since a freeze arrives now.
    pub fn heal(&self) {
        self.order(Act::Let(Flow::Open));
    }

    /// Leads new connections to another address, as a name does that was given to another server.
    pub fn lead_to(&self, address: &str) {
        self.order(Act::Lead(address.to_owned()));
    }

    fn order(&self, act: Act) {
        let (done, is_done) = std::sync::mpsc::channel();
        let orders = self.orders.as_ref().expect("there until it is dropped");
        // An error here means that the thread is gone, and shows below.
        let _ = orders.send(Order { act, done });
        is_done
            .recv()
            .expect("the proxy's thread runs")
            .unwrap_or_else(|error| panic!("cannot listen on {}: {error}", self.address()));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was printed already
        }
    }
}

fn listen() -> (Port, StdListener) {
    for _ in 0..PORTS_MAX {
        let port = Port::free();
        if let Ok(listener) = StdListener::bind((HOST, port.number)) {
            listener
                .set_nonblocking(true)
                .expect("a socket can be told not to block");
            return (port, listener);
        }
    }
    panic!("cannot listen on any of {PORTS_MAX} ports that were free");
}

/// Runs until there is nobody left who could give orders.
async fn serve(
    listener: StdListener,
    mut target: String,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let address = listener.local_addr().expect("it is bound");
    let mut listener = TcpListener::from_std(listener).ok();
    let mut flow = watch::Sender::new(Flow::Open);
    // Of connections that were frozen.
    let mut frozen: Vec<watch::Sender<Flow>> = Vec::new();
    let mut connections = JoinSet::new();

    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(order) = order else { return };
                let mut result = Ok(());
                match order.act {
                    Act::Let(to) => {
                        flow.send_replace(to);
                        for flow in &frozen {
                            flow.send_replace(to);
                        }
                        if to == Flow::Cut {
                            listener = None;
                            connections.shutdown().await;
                        } else if listener.is_none() {
                            result = TcpListener::bind(address).await.map(|bound| listener = Some(bound));
                        }
                    }
                    Act::Freeze => {
                        let of_new = watch::Sender::new(*flow.borrow());
                        let of_old = std::mem::replace(&mut flow, of_new);
                        of_old.send_replace(Flow::Stalled);
                        frozen.push(of_old);
                    }
                    Act::Lead(to) => target = to,
                }
                let _ = order.done.send(result); // it waits for us
            }
            client = accept(&listener) => {
                // An error is that of one connection, which its client sees as well.
                if let Ok(client) = client {
                    connections.spawn(connect(client, target.clone(), flow.subscribe()));
                }
            }
            _ = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn accept(listener: &Option<TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// One client's connection. It ends when one of its sides does, and both are closed then.
async fn connect(client: TcpStream, target: String, flow: watch::Receiver<Flow>) -> io::Result<()> {
    is_open(&mut flow.clone()).await?;
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        ended = pass(from_client, to_server, flow.clone()) => ended,
        ended = pass(from_server, to_client, flow) => ended,
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut flow: watch::Receiver<Flow>,
) -> io::Result<()> {
    let mut buffer = [0; 8 * 1024];
    loop {
        let n_bytes = from.read(&mut buffer).await;
        is_open(&mut flow).await?; // also before an end is passed on
        match n_bytes? {
            0 => return Ok(()),
            n_bytes => to.write_all(&buffer[..n_bytes]).await?,
        }
    }
}

/// Returns once bytes may pass.
async fn is_open(flow: &mut watch::Receiver<Flow>) -> io::Result<()> {
    match flow.wait_for(|flow| *flow == Flow::Open).await {
        Ok(_) => Ok(()),
        Err(_) => Err(io::ErrorKind::ConnectionAborted.into()), // the proxy is being dropped
    }
}
