//! The server and the client of this crate against each other and against peers that misbehave, on real sockets.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cometmq_protocol::{Fields, Frame, FrameLimits, Header, Peer, Reply, SerializeType, frame};
use cometmq_remoting::{
    ClientConnection, ClientOptions, CloseReason, Connection, Handler, Incoming, Out, RemotingError, Server,
    ServerOptions, Workers,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Asks for the body back.
const ECHO: i32 = 1000;
/// Asks for an answer only when the server stops.
const HOLD: i32 = 1001;
/// Asks for as many MiB as the body says.
const FLOOD: i32 = 1002;
/// Asks for the body back as the remark of the header.
const REMARK: i32 = 1003;

#[derive(Default)]
struct Echo {
    connections: Mutex<Vec<Connection>>,
    held: Mutex<Vec<(Connection, i32)>>,
    ended: Mutex<Vec<String>>,
    frames: AtomicUsize,
    queued_max: AtomicUsize,
    /// Take one frame per call only.
    one_by_one: AtomicBool,
    /// A call came before the answers to the one before were written.
    was_pressed: AtomicBool,
}

impl Handler for Echo {
    fn connected(&self, connection: &Connection) {
        self.connections.lock().unwrap().push(connection.clone());
    }

    fn frames(
        &self,
        connection: &Connection,
        frames: &mut Vec<Frame>,
        out: &mut Out,
    ) -> Result<(), CloseReason> {
        self.was_pressed.fetch_or(!out.is_empty(), Ordering::Relaxed);
        let count = if self.one_by_one.load(Ordering::Relaxed) { 1 } else { frames.len() };
        for frame in frames.drain(..count) {
            self.frames.fetch_add(1, Ordering::Relaxed);
            let header = Header::decode(&frame)?;
            match header.code {
                ECHO => {
                    Header::response(0, header.opaque, None, None).encode(
                        frame.serialize_type,
                        frame.body.len(),
                        out.buffer(),
                    );
                    out.push_bytes(frame.body.clone());
                }
                REMARK => {
                    let remark = std::str::from_utf8(&frame.body).unwrap().into();
                    let reply = Header::response(0, header.opaque, Some(remark), None);
                    reply.encode(frame.serialize_type, 0, out.buffer());
                }
                HOLD => self.held.lock().unwrap().push((connection.clone(), header.opaque)),
                FLOOD => {
                    for _ in 0..frame.body[0] {
                        connection.push(response(header.opaque, &vec![7; 1 << 20]));
                        self.queued_max.fetch_max(connection.queued_bytes(), Ordering::Relaxed);
                    }
                }
                code => return Err(CloseReason::Refused(format!("no such code: {code}"))),
            }
        }
        Ok(())
    }

    fn disconnected(&self, connection: &Connection) {
        self.connections.lock().unwrap().retain(|other| other.peer() != connection.peer());
        self.ended.lock().unwrap().push(connection.close_reason().unwrap().to_string());
    }

    fn stopping(&self) {
        for (connection, opaque) in self.held.lock().unwrap().drain(..) {
            connection.push(response(opaque, b"held"));
        }
    }

    fn unanswered(&self) -> usize {
        self.held.lock().unwrap().len()
    }
}

fn response(opaque: i32, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    Header::response(0, opaque, None, None).encode_with_body(SerializeType::Json, body, &mut out);
    out.freeze()
}

fn request(code: i32, opaque: i32, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    Header::request(code, opaque, Fields::default()).encode_with_body(SerializeType::Json, body, &mut out);
    out.to_vec()
}

struct Running {
    address: SocketAddr,
    handler: Arc<Echo>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Running {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap().unwrap();
    }

    async fn client(&self) -> ClientConnection {
        ClientConnection::connect(&self.address.to_string(), &ClientOptions::default(), Arc::new(()))
            .await
            .unwrap()
    }

    /// Waits until the handler was told of an end that `text` describes.
    async fn ended(&self, text: &str) {
        until(|| self.handler.ended.lock().unwrap().iter().any(|reason| reason.contains(text))).await;
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited 10 s in vain");
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("an answer within 10 s")
}

fn serve(options: ServerOptions) -> Running {
    let server = Server::bind(&["127.0.0.1:0".parse().unwrap()], options).unwrap();
    let address = server.local_addresses().unwrap()[0];
    let handler = Arc::new(Echo::default());
    let (stop, stopped) = oneshot::channel();
    let echo = handler.clone();
    let served = tokio::spawn(async move {
        let workers = Workers::start(2.try_into().unwrap(), || ())?;
        server.serve(&workers, echo, async move { drop(stopped.await) }).await
    });
    Running { address, handler, stop, served }
}

/// Reads frames off `stream` until `count` came.
async fn read_frames(stream: &mut TcpStream, count: usize) -> Vec<Frame> {
    let mut input = BytesMut::new();
    let mut frames = Vec::new();
    while frames.len() < count {
        if let Some(frame) = frame::cut(&mut input, FrameLimits::default()).unwrap() {
            frames.push(frame);
        } else {
            assert_ne!(within(stream.read_buf(&mut input)).await.unwrap(), 0, "the server closed");
        }
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_in_a_row_are_answered_in_order() {
    let server = serve(ServerOptions::default());
    for one_by_one in [false, true] {
        server.handler.one_by_one.store(one_by_one, Ordering::Relaxed);
        let (mut reader, mut writer) = TcpStream::connect(server.address).await.unwrap().into_split();
        let writing = tokio::spawn(async move {
            for opaque in 0..10_000 {
                let body = vec![opaque as u8; opaque as usize % 9000];
                writer.write_all(&request(ECHO, opaque, &body)).await.unwrap();
            }
            writer
        });
        let mut input = BytesMut::new();
        for opaque in 0..10_000 {
            let frame = loop {
                match frame::cut(&mut input, FrameLimits::default()).unwrap() {
                    Some(frame) => break frame,
                    None => assert_ne!(within(reader.read_buf(&mut input)).await.unwrap(), 0),
                }
            };
            assert_eq!(Header::decode(&frame).unwrap().opaque, opaque);
            assert_eq!(frame.body, vec![opaque as u8; opaque as usize % 9000]);
        }
        writing.await.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn a_frame_that_comes_byte_by_byte_is_answered() {
    let server = serve(ServerOptions::default());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in request(ECHO, 7, b"slow") {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(read_frames(&mut stream, 1).await[0].body, "slow");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_comes_with_the_end_is_taken_and_the_end_is_seen() {
    const ROUNDS: usize = 2000;
    let server = serve(ServerOptions::default());
    for round in 1..=ROUNDS {
        let body = vec![1; round * 17 % 9000];
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&request(ECHO, 1, &body)).await.unwrap();
        stream.shutdown().await.unwrap();
        if round % 2 == 0 {
            let mut all = Vec::new();
            // Ends only if the server has seen the end.
            within(stream.read_to_end(&mut all)).await.unwrap();
            assert!(all == response(1, &body), "{} bytes came", all.len());
        }
    }
    until(|| server.handler.ended.lock().unwrap().len() == ROUNDS).await;
    assert_eq!(server.handler.frames.load(Ordering::Relaxed), ROUNDS);
    server.stop().await;
}

#[tokio::test]
async fn a_large_frame_arrives_whole() {
    let server = serve(ServerOptions::default());
    let body = Bytes::from((0..15_000_000u32).map(|n| n as u8).collect::<Vec<u8>>());
    let client = server.client().await;
    let reply = client.request(ECHO, Fields::default(), body.clone(), Duration::from_secs(20)).await.unwrap();
    assert_eq!(reply.body(), &body);
    server.stop().await;
}

#[tokio::test]
async fn a_reply_that_is_all_header_arrives() {
    let server = serve(ServerOptions::default());
    let text = "x".repeat(4 << 20);
    let client = server.client().await;
    let asked = client.request(REMARK, Fields::default(), text.clone().into(), Duration::from_secs(10));
    assert_eq!(asked.await.unwrap().remark(), text);
    server.stop().await;
}

#[tokio::test]
async fn nonsense_costs_its_own_connection_only() {
    let server = serve(ServerOptions::default());
    let good = server.client().await;
    let lie = [0, 0xFF, 0xFF, 0xFF, 0, 0, 0, 2, b'{'];
    let cases: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (&[0x16, 3, 1, 2, 0, 1], "TLS"),
        (&[0xFF; 64], "exceeds the limit"),
        (&[0, 0, 0, 9, 9, 0, 0, 1, 1], "unknown serialize type 9"),
        (&[0, 0, 0, 6, 0, 0, 0, 2, b'n', b'o'], "not the JSON"),
        (&request(77, 0, b""), "no such code: 77"),
    ];
    for (bytes, reason) in cases {
        let mut bad = TcpStream::connect(server.address).await.unwrap();
        // An honest request before the nonsense is still answered.
        bad.write_all(&[&request(ECHO, 1, b"x"), bytes].concat()).await.unwrap();
        assert_eq!(read_frames(&mut bad, 1).await[0].body, "x");
        let mut rest = Vec::new();
        let _ = within(bad.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"");
        server.ended(reason).await;
    }
    // A frame that is announced and never comes holds nobody up.
    let mut liar = TcpStream::connect(server.address).await.unwrap();
    liar.write_all(&lie).await.unwrap();
    let reply = good
        .request(ECHO, Fields::default(), Bytes::from_static(b"y"), Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(reply.body(), "y");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_before_nonsense_is_answered_no_faster_than_it_is_read() {
    const COUNT: usize = 500;
    let server = serve(ServerOptions::default());
    server.handler.one_by_one.store(true, Ordering::Relaxed);
    let mut bad = TcpStream::connect(server.address).await.unwrap();
    let asked = (0..COUNT).flat_map(|opaque| request(ECHO, opaque as i32, b"x"));
    bad.write_all(&asked.chain([0xFF; 64]).collect::<Vec<u8>>()).await.unwrap();
    let answers = read_frames(&mut bad, COUNT).await;
    assert!(answers.iter().all(|answer| answer.body == "x"));
    server.ended("exceeds the limit").await;
    assert_eq!(server.handler.frames.load(Ordering::Relaxed), COUNT);
    assert!(!server.handler.was_pressed.load(Ordering::Relaxed), "answers were not written first");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_is_cut_off_at_the_outbox_limit() {
    let limit = 8 << 20;
    let server = serve(ServerOptions { outbox_bytes_max: limit, ..ServerOptions::default() });
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(&request(FLOOD, 0, &[200])).await.unwrap();
    server.ended("does not read").await;
    let queued = server.handler.queued_max.load(Ordering::Relaxed);
    assert!(queued <= limit + (2 << 20), "{queued} bytes were queued");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_peers_that_do_not_read_hold_no_more_than_the_budget_and_cost_nobody_else() {
    const MIB: usize = 1 << 20;
    let budget = 64 * MIB;
    let server = serve(ServerOptions { unread_bytes_max: budget, ..ServerOptions::default() });
    let honest = server.client().await;
    let mut slow = Vec::new();
    for opaque in 0..40 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&request(FLOOD, opaque, &[12])).await.unwrap();
        slow.push(stream);
        honest.request(ECHO, Fields::default(), Bytes::new(), Duration::from_secs(10)).await.unwrap();
    }
    server.ended("with those of others").await;
    let held =
        || -> usize { server.handler.connections.lock().unwrap().iter().map(Connection::queued_bytes).sum() };
    until(|| held() <= budget).await;
    assert!(held() > budget / 2, "{} bytes are held: more were closed than had to be", held());
    assert!(!honest.is_closed());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_asks_without_reading_is_not_read_and_ends_by_the_write_timeout() {
    let options = ServerOptions { write_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let server = serve(options);
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let body = vec![1; 256 * 1024];
    let asked = async {
        for opaque in 0..4000 {
            slow.write_all(&request(ECHO, opaque, &body)).await?;
        }
        std::io::Result::Ok(())
    };
    assert!(within(asked).await.is_err(), "a GiB was read from a peer that does not read");
    server.ended("took nothing").await;
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_live_one_is_not() {
    let server =
        serve(ServerOptions { idle_timeout: Duration::from_millis(200), ..ServerOptions::default() });
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let live = server.client().await;
    let talking = async {
        loop {
            live.request(ECHO, Fields::default(), Bytes::new(), Duration::from_secs(5)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut scrap = [0];
    tokio::select! {
        () = talking => {}
        read = within(idle.read(&mut scrap)) => assert_eq!(read.unwrap(), 0),
    }
    server.ended("idle").await;
    assert!(!live.is_closed());
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_answers_what_it_has_taken() {
    let server = serve(ServerOptions::default());
    let client = server.client().await;
    let waiting = client.request(HOLD, Fields::default(), Bytes::new(), Duration::from_secs(10));
    let stopping = async {
        until(|| server.handler.unanswered() == 1).await;
        let address = server.address;
        server.stop().await;
        assert!(TcpStream::connect(address).await.is_err(), "a stopped server accepts nothing");
    };
    let (reply, ()) = tokio::join!(waiting, stopping);
    assert_eq!(reply.unwrap().body(), "held");
    within(client.closed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_costs_nobody_the_last_answer_of_a_stopping_server() {
    let options = ServerOptions { stop_timeout: Duration::from_millis(600), ..ServerOptions::default() };
    let server = serve(options);
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(&request(FLOOD, 0, &[32])).await.unwrap();
    let client = server.client().await;
    let waiting = client.request(HOLD, Fields::default(), Bytes::new(), Duration::from_secs(10));
    let stopping = async {
        until(|| server.handler.unanswered() == 1 && server.handler.frames.load(Ordering::Relaxed) == 2)
            .await;
        server.stop().await;
    };
    let (reply, ()) = tokio::join!(waiting, stopping);
    assert_eq!(reply.unwrap().body(), "held");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let server = serve(ServerOptions { connections_max: 2, ..ServerOptions::default() });
    let (first, _second) = (server.client().await, server.client().await);
    until(|| server.handler.connections.lock().unwrap().len() == 2).await;
    let mut third = TcpStream::connect(server.address).await.unwrap();
    assert!(matches!(within(third.read(&mut [0])).await, Ok(0) | Err(_)));
    first.close();
    until(|| server.handler.connections.lock().unwrap().len() == 1).await;
    let fourth = server.client().await;
    fourth.request(ECHO, Fields::default(), Bytes::new(), Duration::from_secs(5)).await.unwrap();
    server.stop().await;
}

/// Answers the server's requests with their own body, and counts them.
#[derive(Default)]
struct Obliging(AtomicUsize);

impl Incoming for Obliging {
    fn request(&self, _: Peer, header: &Header<'_>, body: &Bytes) -> Option<Reply> {
        assert_eq!(header.code, 40);
        self.0.fetch_add(1, Ordering::Relaxed);
        Some(Reply::success().with_body(body.clone()))
    }
}

#[tokio::test]
async fn frames_pushed_by_other_threads_arrive_all() {
    let server = serve(ServerOptions::default());
    let obliging = Arc::new(Obliging::default());
    let client =
        ClientConnection::connect(&server.address.to_string(), &ClientOptions::default(), obliging.clone())
            .await
            .unwrap();
    until(|| !server.handler.connections.lock().unwrap().is_empty()).await;
    let connection = server.handler.connections.lock().unwrap()[0].clone();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let connection = connection.clone();
            std::thread::spawn(move || {
                let mut oneway = BytesMut::new();
                Header::oneway(40, 0, Fields::default()).encode(SerializeType::Compact, 0, &mut oneway);
                (0..500).for_each(|_| connection.push(oneway.clone().freeze()));
            })
        })
        .collect();
    until(|| obliging.0.load(Ordering::Relaxed) == 2000).await;
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(connection.queued_bytes(), 0);
    drop(client);
    server.ended("closed by the peer").await;
    server.stop().await;
}

/// Frames of three threads of which two write to the socket themselves, and replies of the task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_writes_to_the_socket_frames_stay_whole_and_in_order() {
    const EACH: i32 = 1500;
    let body = |opaque: i32| vec![opaque as u8; opaque as usize * 37 % 30_000];
    let server = serve(ServerOptions::default());
    let (mut reader, mut writer) = TcpStream::connect(server.address).await.unwrap().into_split();
    until(|| !server.handler.connections.lock().unwrap().is_empty()).await;
    let connection = server.handler.connections.lock().unwrap()[0].clone();
    let threads: Vec<_> = (0..3)
        .map(|source| {
            let connection = connection.clone();
            std::thread::spawn(move || {
                for opaque in (0..EACH).map(|number| number * 4 + source) {
                    while connection.queued_bytes() > 1 << 20 {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                    let frame = response(opaque, &body(opaque));
                    if source == 0 { connection.push(frame) } else { connection.push_now(frame) }
                }
            })
        })
        .collect();
    let asking = tokio::spawn(async move {
        for opaque in (0..EACH).map(|number| number * 4 + 3) {
            writer.write_all(&request(ECHO, opaque, &body(opaque))).await.unwrap();
        }
        writer
    });
    let (mut input, mut next) = (BytesMut::new(), [0, 1, 2, 3]);
    while next.iter().any(|opaque| *opaque < EACH * 4) {
        let Some(frame) = frame::cut(&mut input, FrameLimits::default()).unwrap() else {
            assert_ne!(within(reader.read_buf(&mut input)).await.unwrap(), 0);
            continue;
        };
        let opaque = Header::decode(&frame).unwrap().opaque;
        let expected = &mut next[opaque as usize % 4];
        assert_eq!(opaque, *expected, "frames of one source keep their order");
        assert!(frame.body == body(opaque), "frame {opaque} of {} bytes is whole", frame.body.len());
        *expected += 4;
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // What was written is counted a moment after it can be read.
    until(|| connection.queued_bytes() == 0).await;
    drop(asking.await.unwrap());
    server.stop().await;
}

#[tokio::test]
async fn a_request_fails_in_a_way_that_tells_what_to_do() {
    let server = serve(ServerOptions::default());
    let client = server.client().await;
    let ask = |code, body: Vec<u8>, wait| {
        client.request(code, Fields::default(), body.into(), Duration::from_millis(wait))
    };
    assert!(matches!(ask(HOLD, vec![], 30).await, Err(RemotingError::Timeout { code: HOLD, .. })));
    assert!(matches!(ask(ECHO, vec![0; 16 << 20], 9).await, Err(RemotingError::TooLarge { .. })));
    assert!(matches!(ask(77, vec![], 5000).await, Err(RemotingError::Closed { .. })));
    assert!(matches!(ask(ECHO, vec![], 5000).await, Err(RemotingError::Closed { .. })));
    let address = server.address.to_string();
    server.stop().await;
    let error =
        ClientConnection::connect(&address, &ClientOptions::default(), Arc::new(())).await.unwrap_err();
    assert!(error.to_string().contains(&format!("cannot connect to {address}")), "{error}");
}
