//! TensorBoard event files: scalars only, as TFRecords with masked CRC-32C around hand-encoded protocol
//! buffers (`tensorflow/core/util/event.proto`, `tensorflow/core/lib/io/record_writer.cc`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::ReportError;
use crate::run::Run;

/// Appends scalars to one event file.
#[derive(Debug)]
pub struct TensorBoardWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl TensorBoardWriter {
    /// Creates a new event file in `folder`, which is created where it is missing. `wall_time` is the time of
    /// creation in seconds since 1970.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn create(folder: &Path, wall_time: f64) -> Result<TensorBoardWriter, ReportError> {
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        // TensorBoard reads files in the order of their names; the sequence number keeps two of one second apart.
        let mut sequence = 0;
        let (path, file) = loop {
            let name = format!(
                "events.out.tfevents.{:010}.retune.{}.{sequence}",
                wall_time as u64,
                std::process::id()
            );
            let path = folder.join(name);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => sequence += 1,
                Err(error) => return Err(failed("create", &path)(error)),
            }
        };
        let mut writer = TensorBoardWriter { file: BufWriter::new(file), path };
        let mut event = Vec::new();
        put_double(&mut event, 1, wall_time);
        put_bytes(&mut event, 3, b"brain.Event:2");
        writer.record(&event)?;
        Ok(writer)
    }

    /// The file that is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one scalar. `wall_time` is in seconds since 1970; `tag` may hold slashes, by which TensorBoard
    /// groups charts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalar(&mut self, tag: &str, value: f64, step: u64, wall_time: f64) -> Result<(), ReportError> {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, tag.as_bytes());
        entry.push((2 << 3) | 5);
        entry.extend((value as f32).to_le_bytes());
        let mut summary = Vec::new();
        put_bytes(&mut summary, 1, &entry);
        let mut event = Vec::new();
        put_double(&mut event, 1, wall_time);
        event.push(2 << 3);
        put_varint(&mut event, step);
        put_bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    /// Hands everything written so far to the system.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), ReportError> {
        self.file.flush().map_err(failed("write", &self.path))
    }

    /// Length, its checksum, the bytes, their checksum.
    fn record(&mut self, bytes: &[u8]) -> Result<(), ReportError> {
        let length = (bytes.len() as u64).to_le_bytes();
        let parts =
            [&length[..], &masked_crc32c(&length).to_le_bytes(), bytes, &masked_crc32c(bytes).to_le_bytes()];
        for part in parts {
            self.file.write_all(part).map_err(failed("write", &self.path))?;
        }
        Ok(())
    }
}

/// Writes the whole log of a run as one event file into `destination` and returns its path.
///
/// # Errors
/// When the run folder cannot be read or the file cannot be written.
pub fn write_tensorboard(run_folder: &Path, destination: &Path) -> Result<PathBuf, ReportError> {
    let run = Run::read(run_folder)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|time| time.as_secs_f64()).unwrap_or(0.0);
    let start = run.log.started.as_ref().and_then(|started| started.time.as_f64()).unwrap_or(now);
    let mut writer = TensorBoardWriter::create(destination, start)?;
    let mut time = start;
    let mut times: Vec<(u64, f64)> = Vec::new();
    for step in &run.log.steps {
        time += step.seconds.unwrap_or(0.0);
        times.push((step.step, time));
        let scalars =
            [("train/loss", step.loss), ("train/grad_norm", step.grad_norm), ("train/epoch", step.epoch)];
        for (tag, value) in scalars {
            if let Some(value) = value {
                writer.scalar(tag, value, step.step, time)?;
            }
        }
        for (group, rate) in &step.learning_rates {
            if let Some(rate) = rate.as_f64() {
                writer.scalar(&format!("learning_rate/{group}"), rate, step.step, time)?;
            }
        }
    }
    for eval in &run.log.evals {
        let passed = times.iter().rev().find(|(step, _)| *step <= eval.step);
        let time = passed.map_or(start, |(_, time)| *time);
        let split = if eval.split.is_empty() { "eval" } else { &eval.split };
        for (name, value) in
            eval.metrics.iter().filter_map(|(name, value)| Some((name, Value::as_f64(value)?)))
        {
            let bare = ["eval_", "test_"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
            writer.scalar(&format!("{split}/{bare}"), value, eval.step, time)?;
        }
    }
    writer.flush()?;
    Ok(writer.path().to_path_buf())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReportError {
    let path = path.to_path_buf();
    move |source| ReportError::Io { action, path, source }
}

fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

fn put_double(buffer: &mut Vec<u8>, field: u8, value: f64) {
    buffer.push((field << 3) | 1);
    buffer.extend(value.to_le_bytes());
}

fn put_bytes(buffer: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    buffer.push((field << 3) | 2);
    put_varint(buffer, bytes.len() as u64);
    buffer.extend(bytes);
}

/// CRC-32C (Castagnoli), bit by bit: a report writes kilobytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The checksum as TFRecord stores it, so that a checksum of a checksum stays a check.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_check_string() {
        // RFC 3720, appendix B.4: 32 bytes of zeroes; and the customary "123456789".
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn varints_are_little_groups_of_seven() {
        let mut buffer = Vec::new();
        put_varint(&mut buffer, 300);
        assert_eq!(buffer, [0xAC, 0x02]);
    }
}
