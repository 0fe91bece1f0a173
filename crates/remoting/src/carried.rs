//! A server's connection on its worker: from its first poll to its last, wherever these are.
//!
//! It moves between two polls, and all of it does: the socket, what is halfway in either direction, its places in the
//! registry and at the worker. Others that push meanwhile leave what they have in the outbox.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::time::timeout;

use crate::close::CloseReason;
use crate::connection::{Halt, Task};
use crate::server::Entry;
use crate::socket::Socket;
use crate::workers::{Seat, Worker};

/// How long a peer has to notice that the server said its last, before unread input resets the connection.
pub(crate) const LINGER: Duration = Duration::from_millis(250);

/// A connection with its places. The order in which these are left: the handler is told first.
pub(crate) struct Carried {
    task: Task,
    entry: Entry,
    seat: Seat,
}

impl Carried {
    pub(crate) fn new(task: Task, entry: Entry, seat: Seat) -> Carried {
        Carried { task, entry, seat }
    }

    /// Has its worker begin.
    pub(crate) fn start(self) {
        // Not awaited by handle: a server that stops waits until every entry has left the registry.
        self.seat.worker().clone().spawn(async move {
            self.task.begin();
            self.carry().await;
        });
    }

    /// Goes on with it until it ends or goes elsewhere.
    async fn carry(mut self) {
        loop {
            let halt = poll_fn(|cx| {
                let began = Instant::now();
                let polled = self.task.poll(cx);
                self.task.connection().worked(began.elapsed());
                polled
            });
            match halt.await {
                // The next poll takes up what was stopped.
                Halt::Moves(worker) if Arc::ptr_eq(&worker, self.seat.worker()) => {}
                Halt::Moves(worker) => return self.move_to(worker),
                Halt::Ended(reason) => {
                    let Carried { task, entry, seat } = self;
                    let (reason, socket) = task.end(reason);
                    if matches!(reason, CloseReason::Stopping) {
                        // Boxed, or every connection would carry its buffer along.
                        Box::pin(linger(socket)).await;
                    }
                    drop((entry, seat));
                    return;
                }
            }
        }
    }

    fn move_to(self, worker: Arc<Worker>) {
        let Carried { task, entry, seat: left } = self;
        let Some(task) = task.moved(&worker) else { return };
        let seat = Seat::take(worker.clone(), task.connection());
        drop(left);
        worker.spawn(Carried { task, entry, seat }.carry());
    }
}

/// Closes so that the peer can still read what was written: a socket closed with unread input resets instead.
async fn linger(socket: Socket) {
    let discard = async {
        SockRef::from(socket.stream()).shutdown(Shutdown::Write)?;
        let mut scrap = [0; 1024];
        loop {
            socket.stream().readable().await?;
            match socket.stream().try_read(&mut scrap) {
                Ok(0) => return io::Result::Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    };
    let _ = timeout(LINGER, discard).await;
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    use bytes::BytesMut;
    use cometmq_protocol::{Fields, Frame, Header, SerializeType};
    use tokio::runtime::Builder;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{Connection, Handler, Out, Server, ServerOptions, Workers};

    /// Answers with an empty frame; keeps on which thread, and for whom.
    #[derive(Default)]
    struct Last(Mutex<Option<(Connection, ThreadId)>>);

    impl Handler for Last {
        fn frames(
            &self,
            connection: &Connection,
            frames: &mut Vec<Frame>,
            out: &mut Out,
        ) -> Result<(), CloseReason> {
            *self.0.lock().unwrap() = Some((connection.clone(), thread::current().id()));
            for frame in frames.drain(..) {
                Header::response(0, 0, None, None).encode(frame.serialize_type, 0, out.buffer());
            }
            Ok(())
        }
    }

    /// Serves with two workers while `run` has an address to connect to.
    fn serve(handler: Arc<dyn Handler>, run: impl FnOnce(TcpStream, &Workers)) {
        let server = Server::bind(&["127.0.0.1:0".parse().unwrap()], ServerOptions::default()).unwrap();
        let address = server.local_addresses().unwrap()[0];
        let workers = Workers::start(2.try_into().unwrap(), || ()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(server.serve(&workers, handler, async { drop(stopped.await) })).unwrap();
            });
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            run(stream, &workers);
            stop.send(()).unwrap();
        });
    }

    fn request() -> BytesMut {
        let mut request = BytesMut::new();
        Header::request(1, 0, Fields::default()).encode(SerializeType::Json, 0, &mut request);
        request
    }

    fn reply(opaque: i32, body: &[u8]) -> BytesMut {
        let mut reply = BytesMut::new();
        Header::response(0, opaque, None, None).encode_with_body(SerializeType::Json, body, &mut reply);
        reply
    }

    #[test]
    fn a_connection_stays_while_a_thread_that_pushes_holds_its_socket() {
        let last = Arc::<Last>::default();
        serve(last.clone(), |mut stream, workers| {
            let expected = reply(0, &[]);
            let mut ask = || {
                stream.write_all(&request()).unwrap();
                let mut read = vec![0; expected.len()];
                stream.read_exact(&mut read).expect("the connection lives");
                assert_eq!(read, expected);
                last.0.lock().unwrap().clone().unwrap()
            };
            let (connection, thread) = ask();
            let lent = connection.borrow_socket().unwrap();
            workers.shift();
            for _ in 0..3 {
                assert_eq!(ask().1, thread, "it did not move");
            }
            drop(lent);
            workers.shift();
            // The second answer at the latest comes from there: the task moves when it is awake.
            ask();
            assert_ne!(ask().1, thread, "it moved");
        });
    }

    /// More than sockets take at once.
    static LONG: [u8; 8 << 20] = [7; 8 << 20];

    /// While it answers, something long is pushed, and the connection is wished elsewhere.
    #[derive(Default)]
    struct Interrupted(Mutex<Option<Arc<Worker>>>);

    impl Handler for Interrupted {
        fn frames(&self, on: &Connection, frames: &mut Vec<Frame>, out: &mut Out) -> Result<(), CloseReason> {
            frames.clear();
            out.buffer().extend_from_slice(&reply(1, &[]));
            let next = self.0.lock().unwrap().take();
            on.push_now(reply(2, &LONG).freeze());
            if let Some(worker) = next {
                on.move_to(worker);
            }
            Ok(())
        }
    }

    #[test]
    fn the_rest_of_what_was_pushed_goes_before_an_answer_also_when_the_connection_moves() {
        let handler = Arc::<Interrupted>::default();
        serve(handler.clone(), |mut stream, workers| {
            let crew = workers.crew();
            for next in [None, Some(crew.least()), Some(crew.least())] {
                *handler.0.lock().unwrap() = next;
                stream.write_all(&request()).unwrap();
                let expected = [reply(2, &LONG), reply(1, &[])].concat();
                let mut read = vec![0; expected.len()];
                stream.read_exact(&mut read).expect("the connection lives");
                assert!(read == expected, "frames were mixed");
            }
        });
    }
}
