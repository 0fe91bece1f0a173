//! Whoever does not speak the protocol, or asks for what cannot be, gets a clear answer and harms nobody else.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Cluster, Wire, outcome, send};

#[test]
fn what_is_no_client_costs_its_own_connection_only() {
    let data = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(data.path(), &[]);
    let mut good = Wire::connect(cluster.broker);
    assert_eq!(send(&mut good, "Good", b"before").0, 0);

    let tls_hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 64]].concat();
    let lying_length = [&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 2][..], b"{}"].concat();
    let header_beyond_frame = [0, 0, 0, 8, 0, 0, 1, 0, b'{', b'}', b'x', b'x'];
    let unknown_type = [0, 0, 0, 8, 9, 0, 0, 2, b'{', b'}', b'x', b'x'];
    let header_no_json = [&[0, 0, 0, 12, 0, 0, 0, 8][..], b"not json"].concat();
    let strangers: [(&str, &[u8]); 7] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("TLS", &tls_hello),
        ("frame of", &lying_length),
        ("header of", &header_beyond_frame),
        ("serialize type", &unknown_type),
        ("header", &header_no_json),
        ("exceeds", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8"),
    ];
    for (clue, bytes) in strangers {
        for port in [cluster.broker, cluster.broker - 2, cluster.namesrv] {
            let mut stranger = Wire::connect(port);
            stranger.write(bytes);
            assert!(stranger.read().is_none(), "{clue} on port {port} is closed");
        }
        cluster.process.wait_for_line(clue);
    }
    assert_eq!(send(&mut good, "Good", b"after").0, 0, "others are unaffected");
}

#[test]
fn what_cannot_be_is_refused_with_code_and_cure() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("broker.conf");
    std::fs::write(&config, "autoCreateTopicEnable=false\nmaxMessageSize=1000\n").unwrap();
    let cluster = Cluster::start(data.path(), &["-c", config.to_str().unwrap()]);
    let mut wire = Wire::connect(cluster.broker);
    let (code, remark) = send(&mut wire, "Unknown", b"x");
    assert_eq!(code, 17, "{remark}");
    assert!(remark.contains("autoCreateTopicEnable"), "{remark}");
    let (code, remark) = send(&mut wire, "a/../b", b"x");
    assert_eq!(code, 29, "{remark}");
    assert!(remark.contains("illegal characters"), "{remark}");
    let (code, remark) = send(&mut wire, "SELF_TEST_TOPIC", b"x");
    assert_eq!(code, 16, "{remark}");
    let (code, remark) = send(&mut wire, "BenchmarkTest", &[0; 1001]);
    assert_eq!(code, 13, "{remark}");
    assert!(remark.contains("maxMessageSize"), "{remark}");
    assert_eq!(send(&mut wire, "BenchmarkTest", b"x").0, 0);
    let (code, remark) = outcome(&wire.request(9999, &[], b""));
    assert_eq!((code, remark.as_str()), (3, " request type 9999 not supported"));
    let (code, remark) = outcome(&wire.request(310, &[("b", "T")], b"x"));
    assert_eq!(code, 1);
    assert!(remark.contains("`a`"), "the missing field is named: {remark}");
    let mut namesrv = Wire::connect(cluster.namesrv);
    let (code, remark) = outcome(&namesrv.request(105, &[("topic", "Unknown")], b""));
    assert_eq!(code, 17);
    assert!(remark.starts_with("No topic route info in name server for the topic: Unknown\n"), "{remark}");
}
