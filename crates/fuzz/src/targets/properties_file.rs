//! Java properties files, as `broker.conf` is one.

// The server is a program and no library: the file that reads the text stands for itself and is taken as it is.
#[path = "../../../server/src/config/properties/text.rs"]
mod text;

use std::fmt::Write;

use crate::golden::Golden;
use crate::target::Outcome;

/// Every entry is written with all that could be special in it escaped, and read back as what it was.
pub fn entries(data: &[u8]) -> Outcome {
    let text = text::decode(data.to_vec());
    let entries = text::entries(&text);
    let lines = text.chars().filter(|c| matches!(c, '\n' | '\r')).count() + 1;
    let mut again = String::new();
    let mut whole = Vec::new();
    for entry in &entries {
        match entry {
            Ok(entry) => {
                assert!((1..=lines).contains(&entry.line));
                escape(&entry.key, &mut again);
                again.push('=');
                escape(&entry.value, &mut again);
                again.push('\n');
                whole.push((&entry.key, &entry.value));
            }
            Err(broken) => assert!((1..=lines).contains(&broken.line)),
        }
    }
    let read = text::entries(&again);
    assert_eq!(read.len(), whole.len());
    for (read, (key, value)) in read.iter().zip(&whole) {
        let read = read.as_ref().expect("a whole escape");
        assert_eq!((&read.key, &read.value), (*key, *value));
    }
    Outcome::accepted((Outcome::magnitude(entries.len()), whole.len() == entries.len()))
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c > '\u{ffff}' {
            out.push(c);
        } else {
            let _ = write!(out, "\\u{:04x}", c as u32);
        }
    }
}

/// A broker.conf with everything that the format allows; the recordings have none.
pub fn files(_: &Golden) -> Vec<Vec<u8>> {
    [
        "brokerClusterName = DefaultCluster\nbrokerName = broker-a\nbrokerId = 0\ndeleteWhen = 04\nfileReservedTime = 48\n\
         brokerRole = ASYNC_MASTER\nflushDiskType = ASYNC_FLUSH\n",
        "# comment \\u12\n! another\\\nstorePathRootDir=C:\\\\data\\\n    \\tmore\nnamesrvAddr:a:9876;b:9876\nkey\\ with\\=odd\\:signs value\n",
        "a=\\u6d88\\u606f\nb=\\uD83D\\uDE00\nc=\\uZZZZ\nd\n\n=x\n:y\r\nz=1\r\n",
        "\u{feff}a=消息 😀\nlast=open\\",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
