//! Connections that go from worker to worker while they are used, and what is handed over to workers, on real sockets:
//! nothing is lost, doubled or mixed up.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread, ThreadId};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use cometmq_protocol::{ConnectionId, Fields, Frame, FrameLimits, Header, SerializeType, frame};
use cometmq_remoting::{CloseReason, Connection, Handler, Out, Server, ServerOptions, Workers, push_all};
use tokio::sync::oneshot;

/// Asks for the body back.
const ECHO: i32 = 1000;
/// Asks for the body back, which takes a while.
const TOIL: i32 = 1001;
const TOIL_TIME: Duration = Duration::from_millis(2);

/// Frames of one connection come from four sources; each numbers its own, in steps of four.
const SOURCES: i32 = 4;

#[derive(Default)]
struct Echo {
    connections: Mutex<HashMap<ConnectionId, Connection>>,
    /// The thread that each connection was last on, and on how many it was, one after the other.
    threads: Mutex<HashMap<ConnectionId, (ThreadId, usize)>>,
    connected: AtomicUsize,
    disconnected: AtomicUsize,
    frames: AtomicUsize,
}

impl Handler for Echo {
    fn connected(&self, connection: &Connection) {
        self.connected.fetch_add(1, Ordering::Relaxed);
        self.connections.lock().unwrap().insert(connection.peer().connection, connection.clone());
    }

    fn frames(
        &self,
        connection: &Connection,
        frames: &mut Vec<Frame>,
        out: &mut Out,
    ) -> Result<(), CloseReason> {
        let thread = thread::current().id();
        let mut threads = self.threads.lock().unwrap();
        let (last, changes) = threads.entry(connection.peer().connection).or_insert((thread, 0));
        *changes += usize::from(*last != thread);
        *last = thread;
        drop(threads);
        // A few at a time, so that some are left over when the connection moves.
        let count = frames.len().min(3);
        for frame in frames.drain(..count) {
            let header = Header::decode(&frame)?;
            assert!(matches!(header.code, ECHO | TOIL));
            if header.code == TOIL {
                // It takes the worker's time as work would, and needs no processor.
                thread::sleep(TOIL_TIME);
            }
            self.frames.fetch_add(1, Ordering::Relaxed);
            let reply = Header::response(0, header.opaque, None, None);
            reply.encode(frame.serialize_type, frame.body.len(), out.buffer());
            out.push_bytes(frame.body.clone());
        }
        Ok(())
    }

    fn disconnected(&self, connection: &Connection) {
        self.disconnected.fetch_add(1, Ordering::Relaxed);
        self.connections.lock().unwrap().remove(&connection.peer().connection).expect("connected before");
    }
}

/// A server with three workers on a thread of its own.
struct Running {
    address: SocketAddr,
    handler: Arc<Echo>,
    workers: Arc<Workers>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Running {
    fn start() -> Running {
        let server = Server::bind(&["127.0.0.1:0".parse().unwrap()], ServerOptions::default()).unwrap();
        let address = server.local_addresses().unwrap()[0];
        let handler = Arc::new(Echo::default());
        let workers = Arc::new(Workers::start(3.try_into().unwrap(), || ()).unwrap());
        let (stop, stopped) = oneshot::channel();
        let (served_by, served_to) = (workers.clone(), handler.clone());
        let served = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let served = server.serve(&served_by, served_to, async { drop(stopped.await) });
            runtime.block_on(served).unwrap();
        });
        Running { address, handler, workers, stop, served }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn connection_of(&self, stream: &TcpStream) -> Connection {
        let own = stream.local_addr().unwrap();
        let mut found = None;
        until(|| {
            let connections = self.handler.connections.lock().unwrap();
            found = connections.values().find(|connection| connection.peer().remote == own).cloned();
            found.is_some()
        });
        found.unwrap()
    }

    /// Moves all connections each few milliseconds until the guard is dropped.
    fn keep_moving(&self, pause: Duration) -> Moving {
        let ends = Arc::new(AtomicBool::new(false));
        let (workers, end) = (self.workers.clone(), ends.clone());
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                workers.shift();
                thread::park_timeout(pause);
            }
        });
        Moving { ends, waker: thread.thread().clone(), thread: Some(thread) }
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        self.served.join().unwrap();
        let told = [&self.handler.connected, &self.handler.disconnected];
        let [connected, disconnected] = told.map(|count| count.load(Ordering::Relaxed));
        assert_eq!(connected, disconnected, "the handler hears of each connection's begin and end once");
        assert!(self.handler.connections.lock().unwrap().is_empty());
        drop(Arc::into_inner(self.workers).expect("nobody else has the workers"));
    }
}

struct Moving {
    ends: Arc<AtomicBool>,
    waker: Thread,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.waker.unpark();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn until(mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "waited 20 s in vain");
        thread::sleep(Duration::from_millis(2));
    }
}

fn request(code: i32, opaque: i32, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    Header::request(code, opaque, Fields::default()).encode_with_body(SerializeType::Json, body, &mut out);
    out.to_vec()
}

fn response(opaque: i32, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    Header::response(0, opaque, None, None).encode_with_body(SerializeType::Json, body, &mut out);
    out.freeze()
}

/// Small ones, ones beyond the limit up to which bytes are copied, and now and then some that no socket takes at once.
fn body(seed: usize, opaque: i32) -> Vec<u8> {
    let number = opaque as usize + seed;
    let length = if number.is_multiple_of(97) { (1 << 20) + number } else { number * 37 % 12_000 };
    (0..length).map(|place| (place.wrapping_mul(31) + number) as u8).collect()
}

/// The next frame of `stream`.
fn read_frame(stream: &mut TcpStream, input: &mut BytesMut) -> Frame {
    let mut scrap = vec![0; 64 * 1024];
    loop {
        if let Some(frame) = frame::cut(input, FrameLimits::default()).unwrap() {
            return frame;
        }
        let count = stream.read(&mut scrap).unwrap();
        assert_ne!(count, 0, "the server closed");
        input.extend_from_slice(&scrap[..count]);
    }
}

/// Three threads push, of which two write themselves, and one asks; all is read and compared.
fn use_connection(server: &Running, seed: usize, each: i32) {
    let mut stream = server.connect();
    let connection = server.connection_of(&stream);
    let mut asking = stream.try_clone().unwrap();
    thread::scope(|scope| {
        for source in 0..SOURCES - 1 {
            let connection = &connection;
            scope.spawn(move || {
                for opaque in (0..each).map(|number| number * SOURCES + source) {
                    until(|| connection.queued_bytes() < 4 << 20);
                    let frame = response(opaque, &body(seed, opaque));
                    if source == 0 { connection.push(frame) } else { connection.push_now(frame) }
                }
            });
        }
        scope.spawn(move || {
            for opaque in (0..each).map(|number| number * SOURCES + SOURCES - 1) {
                asking.write_all(&request(ECHO, opaque, &body(seed, opaque))).unwrap();
            }
        });
        let mut next: Vec<i32> = (0..SOURCES).collect();
        let mut input = BytesMut::new();
        while next.iter().any(|opaque| *opaque < each * SOURCES) {
            let frame = read_frame(&mut stream, &mut input);
            let opaque = Header::decode(&frame).unwrap().opaque;
            let expected = &mut next[(opaque % SOURCES) as usize];
            assert_eq!(opaque, *expected, "frames of one source keep their order");
            assert!(
                frame.body == body(seed, opaque),
                "frame {opaque} of {} bytes is whole",
                frame.body.len()
            );
            *expected += SOURCES;
        }
        assert!(input.is_empty(), "nothing comes twice");
    });
    until(|| connection.queued_bytes() == 0);
}

#[test]
fn connections_that_move_all_the_time_lose_and_mix_up_nothing() {
    let server = Running::start();
    let moving = server.keep_moving(Duration::from_millis(1));
    thread::scope(|scope| {
        for seed in 0..4 {
            let server = &server;
            scope.spawn(move || use_connection(server, seed, 600));
        }
    });
    // The handler hardly saw that: it is not called while much waits to be written. This one has nothing to write.
    let mut stream = server.connect();
    let id = server.connection_of(&stream).peer().connection;
    until(|| {
        stream.write_all(&request(ECHO, 1, b"x")).unwrap();
        assert_eq!(read_frame(&mut stream, &mut BytesMut::new()).body, "x");
        server.handler.threads.lock().unwrap()[&id].1 > 20
    });
    drop(moving);
    server.stop();
}

#[test]
fn a_push_at_the_moment_of_a_move_does_not_end_the_connection() {
    const PUSHES: i32 = 100_000;
    let server = Running::start();
    let mut stream = server.connect();
    let connection = server.connection_of(&stream);
    let moving = server.keep_moving(Duration::from_micros(50));
    thread::scope(|scope| {
        scope.spawn(|| {
            for opaque in 0..PUSHES {
                until(|| connection.queued_bytes() < 1 << 20);
                connection.push_now(response(opaque, b""));
            }
        });
        let mut input = BytesMut::new();
        for opaque in 0..PUSHES {
            assert_eq!(Header::decode(&read_frame(&mut stream, &mut input)).unwrap().opaque, opaque);
        }
    });
    assert!(connection.close_reason().is_none());
    drop((moving, connection));
    server.stop();
}

#[test]
fn a_connection_that_closes_while_it_moves_is_gone() {
    const ROUNDS: usize = 300;
    let server = Running::start();
    let moving = server.keep_moving(Duration::from_micros(100));
    for round in 0..ROUNDS {
        let mut stream = server.connect();
        stream.write_all(&request(ECHO, 1, b"x")).unwrap();
        assert_eq!(read_frame(&mut stream, &mut BytesMut::new()).body, "x");
        match round % 3 {
            0 => drop(stream),
            1 => {
                server.connection_of(&stream).close(CloseReason::Local);
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
            _ => {
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
        }
    }
    until(|| server.handler.disconnected.load(Ordering::Relaxed) == ROUNDS);
    drop(moving);
    server.stop();
}

#[test]
fn what_is_handed_over_for_many_connections_arrives_in_order_also_when_the_server_stops() {
    const ROUNDS: i32 = 194;
    let server = Running::start();
    let streams: Vec<_> = (0..8).map(|_| server.connect()).collect();
    let connections: Vec<_> = streams.iter().map(|stream| server.connection_of(stream)).collect();
    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || {
                let mut input = BytesMut::new();
                for opaque in 0..ROUNDS {
                    let frame = read_frame(&mut stream, &mut input);
                    assert_eq!(Header::decode(&frame).unwrap().opaque, opaque);
                    assert!(frame.body == body(0, opaque), "frame {opaque} is whole");
                }
                assert_eq!((stream.read(&mut [0]).unwrap(), input.len()), (0, 0), "then the end");
            })
        })
        .collect();
    for opaque in 0..ROUNDS {
        let frame = response(opaque, &body(0, opaque));
        push_all(connections.iter().map(|connection| (connection.clone(), frame.clone())));
    }
    assert!(connections.iter().any(|connection| connection.queued_bytes() > 0), "all of it counts at once");
    drop(connections);
    server.stop();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

#[test]
fn a_server_stops_in_order_while_its_connections_move() {
    let server = Running::start();
    let mut streams: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let moving = server.keep_moving(Duration::from_micros(100));
    for stream in &mut streams {
        stream.write_all(&request(ECHO, 1, &body(0, 97))).unwrap();
    }
    until(|| server.handler.frames.load(Ordering::Relaxed) == 20);
    let Running { address, handler, workers, stop, served } = server;
    stop.send(()).unwrap();
    // Each gets what it had asked for, then the end.
    for stream in &mut streams {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert!(all == response(1, &body(0, 97)), "{} bytes came", all.len());
    }
    served.join().unwrap();
    assert_eq!(handler.disconnected.load(Ordering::Relaxed), 20);
    assert!(TcpStream::connect(address).is_err());
    drop(moving);
    drop(workers);
}

#[test]
fn two_busy_connections_on_one_worker_part() {
    let server = Running::start();
    // Four connections on three workers: the first and the fourth have the same.
    let streams: Vec<_> = (0..4)
        .map(|_| {
            let stream = server.connect();
            server.connection_of(&stream);
            stream
        })
        .collect();
    let ids = [0, 3].map(|place| server.connection_of(&streams[place]).peer().connection);
    let threads = || {
        let threads = server.handler.threads.lock().unwrap();
        ids.map(|id| threads.get(&id).map(|(thread, _)| *thread))
    };
    let parted = AtomicBool::new(false);
    thread::scope(|scope| {
        for place in [0, 3] {
            let (mut stream, parted) = (streams[place].try_clone().unwrap(), &parted);
            scope.spawn(move || {
                let (ask, mut input) = (request(TOIL, 1, b""), BytesMut::new());
                // Always several in flight.
                stream.write_all(&ask.repeat(8)).unwrap();
                while !parted.load(Ordering::Relaxed) {
                    read_frame(&mut stream, &mut input);
                    stream.write_all(&ask).unwrap();
                }
            });
        }
        until(|| threads().iter().all(Option::is_some));
        let [one, other] = threads();
        let began_together = one == other;
        until(|| threads()[0] != threads()[1]);
        parted.store(true, Ordering::Relaxed);
        assert!(began_together, "they were on two workers from the beginning");
    });
    let moves: usize = server.handler.threads.lock().unwrap().values().map(|(_, changes)| *changes).sum();
    assert_eq!(moves, 1);
    drop(streams);
    server.stop();
}
