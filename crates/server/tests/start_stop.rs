//! Starting, stopping, and what is said when that cannot be.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use cometmq_protocol::body::json;
use cometmq_protocol::body::route::TopicRoute;
use support::{Cluster, Process, Wire, command, free_port, outcome, send, try_send, wait_until};

/// One line, no more: what, and what to change.
fn failure(mut process: Process) -> String {
    let (status, output) = process.wait();
    assert_eq!(status.code(), Some(1), "{output}");
    let lines: Vec<&str> = output.lines().filter(|line| line.starts_with("cometmq: ")).collect();
    assert_eq!(lines.len(), 1, "{output}");
    lines[0].to_owned()
}

fn serve(data: &Path, namesrv: u16, broker: u16) -> Process {
    let mut command = command(&["serve", "--data"]);
    command.arg(data).args(["--namesrv-port", &namesrv.to_string(), "--broker-port", &broker.to_string()]);
    Process::start(command)
}

#[test]
fn the_terminal_says_what_listens_where_and_the_first_send_is_soon_accepted() {
    let data = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let cluster = Cluster::start(data.path(), &[]);
    let mut wire = Wire::connect(cluster.broker);
    assert_eq!(send(&mut wire, "T", b"x").0, 0);
    // Measured as 20 ms; the bound is for machines that do ten other things.
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    let output = cluster.process.output();
    for text in [
        "The Name Server boot success. serializeType=JSON".to_owned(),
        format!("The broker[broker-a, 127.0.0.1:{}] boot success. serializeType=JSON", cluster.broker),
        data.path().display().to_string(),
        format!("{}", cluster.broker - 2),
    ] {
        assert!(output.contains(&text), "`{text}` in:\n{output}");
    }
}

#[test]
fn messages_survive_a_stop_and_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let (namesrv, broker) = (free_port(), free_port());
    for round in 0..4 {
        let mut cluster = Cluster::start_at(data.path(), namesrv, broker, &[]);
        let mut wire = Wire::connect(broker);
        let offset = || ("queueId", "0");
        let max = wire.request(30, &[("topic", "T"), offset()], b"");
        let header = cometmq_protocol::Header::decode(&max).unwrap();
        assert_eq!(header.field("offset"), Some((round * 10).to_string().as_str()));
        for _ in 0..10 {
            assert_eq!(send(&mut wire, "T", b"hello").0, 0);
        }
        if round % 2 == 0 {
            cluster.process.terminate();
            let (status, output) = cluster.process.wait();
            assert!(status.success(), "{output}");
            assert!(output.contains("broker stopped in order"), "{output}");
        } else {
            cluster.process.kill();
        }
    }
}

#[test]
fn a_stop_under_load_answers_everything_that_it_stores() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("broker.conf");
    let mut answered = 0;
    for policy in ["SYNC_FLUSH", "ASYNC_FLUSH"] {
        std::fs::write(&config, format!("flushDiskType={policy}\n")).unwrap();
        let more = ["-c", config.to_str().unwrap()];
        let store = data.path().join("store");
        let mut cluster = Cluster::start(&store, &more);
        let senders: Vec<_> = (0..8)
            .map(|_| {
                let mut wire = Wire::connect(cluster.broker);
                let until_closed = move || {
                    let replies = std::iter::from_fn(|| try_send(&mut wire, "T", b"hello"));
                    replies.map(|(code, remark)| assert_eq!(code, 0, "{remark}")).count()
                };
                std::thread::spawn(until_closed)
            })
            .collect();
        std::thread::sleep(Duration::from_millis(400));
        cluster.process.terminate();
        let (status, output) = cluster.process.wait();
        assert!(status.success(), "{output}");
        answered += senders.into_iter().map(|sender| sender.join().unwrap()).sum::<usize>();
        assert!(answered > 0);
        let cluster = Cluster::start(&store, &more);
        let max = Wire::connect(cluster.broker).request(30, &[("topic", "T"), ("queueId", "0")], b"");
        let header = cometmq_protocol::Header::decode(&max).unwrap();
        assert_eq!(header.field("offset"), Some(answered.to_string().as_str()), "{policy}");
    }
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let data = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(data.path(), &[]);
    let line = failure(serve(other.path(), cluster.namesrv, free_port()));
    assert!(line.contains(&cluster.namesrv.to_string()) && line.contains("--namesrv-port"), "{line}");
    let line = failure(serve(other.path(), free_port(), cluster.broker));
    assert!(line.contains(&cluster.broker.to_string()) && line.contains("--broker-port"), "{line}");
    let line = failure(serve(other.path(), free_port(), cluster.broker + 2));
    assert!(line.contains(&cluster.broker.to_string()), "the VIP port is taken: {line}");
}

#[test]
fn a_name_server_beside_a_broker_takes_address_and_place_from_the_brokers_file() {
    let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = home.path().join("broker.conf");
    std::fs::write(
        &config,
        format!("bindAddress=127.0.0.1\nstorePathRootDir={}/data\n", home.path().display()),
    )
    .unwrap();
    let ports = [free_port(), free_port()].map(|port| port.to_string());
    let mut command = command(&["-c", config.to_str().unwrap()]);
    command.args(["--namesrv-port", &ports[0], "--broker-port", &ports[1]]).current_dir(elsewhere.path());
    let process = Process::start(command);
    process.wait_for_line("  data ");
    for listens in [format!("address 127.0.0.1:{}", ports[0]), format!("listening  127.0.0.1:{}", ports[1])] {
        assert!(process.output().contains(&listens), "{}", process.output());
    }
    let mut wire = Wire::connect(ports[0].parse().unwrap());
    let fields = [("namespace", "N"), ("key", "K"), ("value", "V")];
    assert_eq!(outcome(&wire.request(100, &fields, b"")).0, 0);
    assert!(home.path().join("data/namesrv/kvConfig.json").exists());
    assert!(elsewhere.path().read_dir().unwrap().next().is_none(), "nothing where it was started");
}

#[test]
fn a_data_directory_in_use_is_named_and_left_alone() {
    let data = tempfile::tempdir().unwrap();
    let _cluster = Cluster::start(data.path(), &[]);
    let line = failure(serve(data.path(), free_port(), free_port()));
    assert!(line.contains(&data.path().display().to_string()), "{line}");
    assert!(line.contains("in use by another broker") && line.contains("--data"), "{line}");
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let line = failure(serve(Path::new("/proc/no-such-place"), free_port(), free_port()));
    assert!(line.contains("/proc/no-such-place") && line.contains("--data"), "{line}");
}

#[test]
fn a_file_in_the_place_of_the_directory_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = failure(serve(file.path(), free_port(), free_port()));
    assert!(line.contains(&file.path().display().to_string()) && line.contains("--data"), "{line}");
}

#[test]
fn options_before_a_command_are_refused_with_where_they_go() {
    let (status, output) = Process::start(command(&["--data", "d", "broker"])).wait();
    assert_eq!(status.code(), Some(2));
    assert!(output.contains("cannot be used with '--data <DIR>'"), "{output}");
    assert!(output.contains("cometmq <COMMAND> [OPTIONS OF THE COMMAND]"), "{output}");
}

#[test]
fn a_filter_of_the_log_that_is_none_is_told() {
    let mut command = command(&["broker", "-p"]);
    command.env("COMETMQ_LOG", "x=y=z");
    let (status, output) = Process::start(command).wait();
    assert!(status.success() && output.contains("cometmq: COMETMQ_LOG=x=y=z: "), "{output}");
}

#[test]
fn a_wrong_value_is_refused_with_file_line_key_and_what_is_allowed() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("broker.conf");
    std::fs::write(&config, "# mine\nbrokerName=b\nlistenPort=abc\n").unwrap();
    let mut command = command(&["broker", "-c"]);
    command.arg(&config);
    let line = failure(Process::start(command));
    let expected = format!("{}:3: listenPort=abc: expected a port from 3 to 65535", config.display());
    assert!(line.contains(&expected), "{line}");
}

#[test]
fn a_key_without_effect_is_named_at_start_with_the_reason() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("broker.conf");
    std::fs::write(&config, "sendMessageThreadPoolNums=16\nnoSuchKey=1\n").unwrap();
    let cluster = Cluster::start(data.path(), &["-c", config.to_str().unwrap()]);
    let output = cluster.process.output();
    let warned = |key: &str| output.lines().any(|line| line.contains("WARN") && line.contains(key));
    assert!(warned("sendMessageThreadPoolNums"), "{output}");
    assert!(warned("noSuchKey"), "{output}");
}

#[test]
fn roles_apart_are_started_and_stopped_by_their_old_names() {
    let home = tempfile::tempdir().unwrap();
    let link = |name: &str| {
        let path = home.path().join(name);
        symlink(env!("CARGO_BIN_EXE_cometmq"), &path).unwrap();
        path
    };
    let (mqnamesrv, mqbroker, mqshutdown) = (link("mqnamesrv"), link("mqbroker"), link("mqshutdown"));
    let start = |program: &Path, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(arguments).env_remove("NAMESRV_ADDR").current_dir(home.path());
        Process::start(command)
    };
    let ports = [free_port(), free_port()];
    let mut namesrvs: Vec<Process> = ports
        .iter()
        .map(|port| {
            let file = home.path().join(format!("namesrv-{port}.conf"));
            std::fs::write(
                &file,
                format!("listenPort={port}\nkvConfigPath={}/kv-{port}.json\n", home.path().display()),
            )
            .unwrap();
            let process = start(&mqnamesrv, &["-c", file.to_str().unwrap()]);
            process.wait_for_line("The Name Server boot success");
            process
        })
        .collect();
    let addresses = ports.map(|port| format!("127.0.0.1:{port}")).join(";");
    let mut brokers: Vec<Process> = ["broker-a", "broker-b"]
        .iter()
        .map(|name| {
            let file = home.path().join(format!("{name}.conf"));
            let port = free_port();
            let text = format!(
                "brokerClusterName=C\nbrokerName={name}\nbrokerId=0\nlistenPort={port}\n\
                 storePathRootDir={0}/{name}\nbrokerRole=ASYNC_MASTER\nflushDiskType=ASYNC_FLUSH\n\
                 mapedFileSizeCommitLog=1048576\n",
                home.path().display()
            );
            std::fs::write(&file, text).unwrap();
            let process = start(&mqbroker, &["-n", &addresses, "-c", file.to_str().unwrap()]);
            process.wait_for_line(&format!("The broker[{name}, 127.0.0.1:{port}] boot success"));
            process
        })
        .collect();
    for port in ports {
        // Both name servers know both brokers.
        wait_until("registrations", || {
            let reply = Wire::connect(port).request(105, &[("topic", "TBW102")], b"");
            outcome(&reply).0 == 0 && json::parse::<TopicRoute>(&reply.body).unwrap().broker_datas.len() == 2
        });
    }
    for (role, processes) in [("broker", &mut brokers), ("namesrv", &mut namesrvs)] {
        // Other tests' processes have these roles too, so this one is asked by signal; the command is tried on names.
        processes.iter().for_each(Process::terminate);
        for process in processes {
            let (status, output) = process.wait();
            assert!(status.success(), "{role}: {output}");
        }
    }
    let (status, output) = start(&mqshutdown, &["nonsense"]).wait();
    assert_eq!(status.code(), Some(2), "{output}");
    let (status, output) = start(&mqnamesrv, &["-p"]).wait();
    assert!(status.success() && output.contains("listenPort=9876"), "{output}");
    let (status, output) = start(&mqbroker, &["-p"]).wait();
    assert!(status.success() && output.contains("listenPort=10911"), "{output}");
}
