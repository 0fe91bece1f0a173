//! The real binary as a process on free ports, ended by its handle.
#![allow(dead_code, clippy::unwrap_used)] // Each test file uses a part; what fails here fails the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::{Fields, Frame, Header, SerializeType};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running process of the binary; killed when dropped.
pub struct Process {
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

/// The binary under test with arguments.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cometmq"));
    command.args(arguments).env_remove("NAMESRV_ADDR").env_remove("COMETMQ_LOG").stdin(Stdio::null());
    command
}

impl Process {
    pub fn start(mut command: Command) -> Process {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let output = Arc::new(Mutex::new(String::new()));
        let pipes: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let read = |pipe| {
            let output = Arc::clone(&output);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let mut output = output.lock().unwrap();
                    output.push_str(&line);
                    output.push('\n');
                }
            })
        };
        let readers = pipes.into_iter().map(read).collect();
        Process { output, readers, child }
    }

    /// Everything printed so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    pub fn wait_for_line(&self, text: &str) {
        wait_until(&format!("`{text}` in:\n{}", self.output()), || self.output().contains(text));
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end; the status and all output.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let mut status = None;
        wait_until("the end of the process", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        (status.unwrap(), self.output())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port that is free, with the one two below.
pub fn free_port() -> u16 {
    loop {
        let high = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = high.local_addr().unwrap().port();
        if TcpListener::bind(("127.0.0.1", port - 2)).is_ok() {
            return port;
        }
    }
}

/// Name server and broker in one process.
pub struct Cluster {
    pub process: Process,
    pub namesrv: u16,
    pub broker: u16,
}

impl Cluster {
    pub fn start(data: &Path, more: &[&str]) -> Cluster {
        Cluster::start_at(data, free_port(), free_port(), more)
    }

    pub fn start_at(data: &Path, namesrv: u16, broker: u16, more: &[&str]) -> Cluster {
        let mut command = command(&["serve", "--data"]);
        command.arg(data).args([
            "--namesrv-port",
            &namesrv.to_string(),
            "--broker-port",
            &broker.to_string(),
        ]);
        let process = Process::start({
            command.args(more);
            command
        });
        process.wait_for_line("The broker[broker-a");
        Cluster { process, namesrv, broker }
    }

    pub fn namesrv_address(&self) -> String {
        format!("127.0.0.1:{}", self.namesrv)
    }
}

/// A bare connection that speaks frames.
pub struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    pub fn connect(port: u16) -> Wire {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Wire { stream, buffer: BytesMut::new() }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        // The server may have closed already: what matters is what can be read.
        let _ = self.stream.write_all(bytes);
    }

    pub fn request(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Frame {
        self.try_request(code, fields, body).expect("a reply")
    }

    /// `None` when the server closed the connection.
    pub fn try_request(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Option<Frame> {
        let mut list = Fields::default();
        fields.iter().for_each(|(name, value)| list.push(name.to_string(), value.to_string()));
        let mut out = BytesMut::new();
        Header::request(code, 7, list).encode_with_body(SerializeType::Json, body, &mut out);
        self.write(&out);
        self.read()
    }

    /// The next frame, or `None` when the server closed the connection.
    pub fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = frame::cut(&mut self.buffer, FrameLimits::default()).unwrap() {
                return Some(frame);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }
}

/// Code and remark of a reply.
pub fn outcome(frame: &Frame) -> (i32, String) {
    let header = Header::decode(frame).unwrap();
    assert!(header.is_response());
    (header.code, header.remark.unwrap_or_default().into_owned())
}

/// Sends a message by hand and returns the reply.
pub fn send(wire: &mut Wire, topic: &str, body: &[u8]) -> (i32, String) {
    try_send(wire, topic, body).expect("a reply")
}

/// As [`send`]; `None` when the server closed the connection.
pub fn try_send(wire: &mut Wire, topic: &str, body: &[u8]) -> Option<(i32, String)> {
    let fields = [
        ("a", "g"),
        ("b", topic),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1"),
        ("h", "0"),
        ("i", "TAGS\u{1}TagA\u{2}"),
    ];
    wire.try_request(310, &fields, body).map(|frame| outcome(&frame))
}
