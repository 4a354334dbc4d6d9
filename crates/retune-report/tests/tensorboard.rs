//! Event files, read back record by record.

mod common;

use std::fs;

use retune_report::{TensorBoardWriter, write_tensorboard};

/// The payloads of a TFRecord file; lengths are checked against the file's end.
fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        records.push(bytes[at + 12..at + 12 + length].to_vec());
        at += 12 + length + 4;
    }
    assert_eq!(at, bytes.len());
    records
}

#[test]
fn a_file_is_these_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = TensorBoardWriter::create(folder.path(), 1.0).unwrap();
    writer.scalar("loss", 0.5, 300, 2.0).unwrap();
    writer.flush().unwrap();
    let bytes = fs::read(writer.path()).unwrap();
    let records = records(&bytes);
    let mut version = vec![0x09];
    version.extend(1f64.to_le_bytes());
    version.extend(b"\x1a\x0dbrain.Event:2");
    assert_eq!(records[0], version);
    let mut scalar = vec![0x09];
    scalar.extend(2f64.to_le_bytes());
    scalar.extend(b"\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f");
    assert_eq!(records[1], scalar);
    // Masked CRC-32C of the first length (24 as u64), as TensorFlow writes it for every version record.
    assert_eq!(bytes[..12], [24, 0, 0, 0, 0, 0, 0, 0, 163, 127, 75, 34]);
}

#[test]
fn a_whole_log_becomes_one_file() {
    let folder = tempfile::tempdir().unwrap();
    common::six_classes(folder.path());
    let path = write_tensorboard(folder.path(), &folder.path().join("tensorboard")).unwrap();
    let bytes = fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    for tag in ["train/loss", "eval/accuracy", "learning_rate/head"] {
        assert!(text.contains(tag), "{tag}");
    }
    assert!(records(&bytes).len() > 180 * 3);
    let second = write_tensorboard(folder.path(), &folder.path().join("tensorboard")).unwrap();
    assert_ne!(path, second);
}
