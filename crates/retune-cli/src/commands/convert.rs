//! `retune convert`: the same tensors in another format, proved by reading them back.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use retune::checkpoint::{
    Dtype, ModelConfig, NamedTensor, TensorData, Weights, copy_side_files, save_pytorch_bin, save_sharded,
    write_atomic,
};
use retune::train::TrainError;
use serde_json::json;

use crate::console::{Failure, print_line};
use crate::format::{self, bytes, count, counted, first_names};
use crate::inputs::{ModelFiles, find_model};

/// The file that PyTorch's format is written to.
const PYTORCH_FILE: &str = "pytorch_model.bin";
/// Files of a model that say what it is and under which terms, beside those that make it usable.
const DOCUMENTS: [&str; 3] = ["README.md", "LICENSE", "LICENSE.txt"];

/// `retune convert`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  retune convert path/to/model --output converted
  retune convert checkpoint.pth --output converted --dtype f32
  retune convert runs/tickets --output for-pytorch --format pytorch
  retune convert path/to/model --output sharded --max-shard-size 500MB")]
pub struct Convert {
    /// A folder, a weight file (safetensors, .bin, .pth) or a hub id. Pickled files are read as data: no code runs.
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// The folder to write; it must be empty or new.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// The format to write.
    #[arg(long, value_enum, default_value_t = OutputFormat::Safetensors)]
    pub format: OutputFormat,
    /// The greatest size of one safetensors file, such as 500MB or 5GB; larger models are cut into shards.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "5GB")]
    pub max_shard_size: u64,
    /// Convert floating-point tensors to this type [default: each keeps its own].
    #[arg(long, value_enum)]
    pub dtype: Option<OutputDtype>,
    /// Another place to look for the model, such as pypi:NAME; may be given several times.
    #[arg(long, value_name = "MIRROR")]
    pub mirror: Vec<String>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The formats that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// model.safetensors, in shards if it is large.
    Safetensors,
    /// pytorch_model.bin, as torch.save writes it.
    Pytorch,
}

/// The types that can be converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputDtype {
    /// 32-bit floating point.
    F32,
}

/// Runs the command.
pub fn run(arguments: &Convert) -> Result<ExitCode, Failure> {
    let files = find_model(&arguments.model, &arguments.mirror)?;
    require_empty(&arguments.output)?;
    let weights = Weights::open(&files.weights).map_err(TrainError::from)?;
    let tensors = read(&weights, arguments.dtype)?;
    std::fs::create_dir_all(&arguments.output)
        .map_err(|error| Failure::other(format_args!("{}: {error}", arguments.output.display())))?;
    let mut written = write_weights(arguments, &weights, &tensors)?;
    written.extend(write_side_files(&files, &arguments.output, arguments.dtype)?);
    let certificate = Certificate::new(&arguments.output, &tensors)?;
    report(arguments, &files, &written, &certificate)?;
    if certificate.holds() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::other(format_args!(
        "read back, {} differ from the source: {}; do not use {}",
        counted(certificate.different.len(), "tensor"),
        first_names(&certificate.different, 3),
        arguments.output.display()
    )))
}

/// `5GB`, `500 MB`, `2GiB` or a number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 8] = [
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("KB", 1_000),
        ("B", 1),
    ];
    let problem = || "expected a size such as 500MB or 5GB".to_owned();
    let written = text.trim();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(unit, bytes)| {
            let start = written.len().checked_sub(unit.len())?;
            let (number, ending) = written.split_at_checked(start)?;
            ending.eq_ignore_ascii_case(unit).then_some((number, *bytes))
        })
        .unwrap_or((written, 1));
    let number: f64 = number.trim().parse().map_err(|_| problem())?;
    let size = number * unit as f64;
    if size >= 1.0 && size < u64::MAX as f64 { Ok(size as u64) } else { Err(problem()) }
}

/// Refuses a folder with anything in it.
fn require_empty(output: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(output).map(Iterator::count) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::usage(format!("{} is not empty; choose another --output", output.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::usage(format!("{}: {error}", output.display()))),
    }
}

/// A tensor on its way.
struct Stored<'a> {
    name: &'a str,
    shape: &'a [usize],
    values: Values<'a>,
}

enum Values<'a> {
    /// As the source holds them; a view of its file where they lie in order.
    Kept(Dtype, Cow<'a, [u8]>),
    /// Converted.
    F32(Vec<f32>),
}

impl Stored<'_> {
    fn named(&self) -> NamedTensor<'_> {
        let data = match &self.values {
            Values::Kept(dtype, bytes) => TensorData::Bytes(*dtype, bytes),
            Values::F32(values) => TensorData::F32(values),
        };
        NamedTensor { name: self.name, shape: self.shape, data }
    }

    /// Whether a tensor read back has these bits.
    fn equals(&self, read: &Weights, name: &str) -> bool {
        let Some(info) = read.info(name) else { return false };
        let same_bits = match &self.values {
            Values::Kept(dtype, bytes) => {
                info.dtype == *dtype && read.bytes(name).is_ok_and(|read| *read == **bytes)
            }
            Values::F32(values) => {
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                info.dtype == Dtype::F32 && read.to_f32(name).is_ok_and(|read| bits(&read) == bits(values))
            }
        };
        same_bits && info.shape == self.shape
    }
}

/// All tensors, in the order of the files.
fn read(weights: &Weights, dtype: Option<OutputDtype>) -> Result<Vec<Stored<'_>>, Failure> {
    let mut tensors = Vec::with_capacity(weights.names().len());
    for name in weights.names() {
        let Some(info) = weights.info(name) else { continue };
        let converts = dtype.is_some() && matches!(info.dtype, Dtype::F16 | Dtype::Bf16 | Dtype::F64);
        let values = if converts {
            Values::F32(weights.to_f32(name).map_err(TrainError::from)?)
        } else {
            Values::Kept(info.dtype, weights.bytes(name).map_err(TrainError::from)?)
        };
        tensors.push(Stored { name, shape: &info.shape, values });
    }
    Ok(tensors)
}

fn write_weights(
    arguments: &Convert,
    weights: &Weights,
    tensors: &[Stored<'_>],
) -> Result<Vec<String>, Failure> {
    let named: Vec<NamedTensor<'_>> = tensors.iter().map(Stored::named).collect();
    match arguments.format {
        OutputFormat::Safetensors => {
            let mut metadata = weights.metadata().clone();
            metadata.insert("format".to_owned(), "pt".to_owned());
            let saved = save_sharded(&arguments.output, &named, &metadata, arguments.max_shard_size);
            Ok(saved.map_err(TrainError::from)?.files)
        }
        OutputFormat::Pytorch => {
            save_pytorch_bin(&arguments.output.join(PYTORCH_FILE), &named).map_err(TrainError::from)?;
            Ok(vec![PYTORCH_FILE.to_owned()])
        }
    }
}

/// Copies configuration, tokenizer and documents. A configuration that names the weights' type is told the new one.
fn write_side_files(
    files: &ModelFiles,
    output: &Path,
    dtype: Option<OutputDtype>,
) -> Result<Vec<String>, Failure> {
    let mut written = Vec::new();
    let copy = |name: &str| -> Result<bool, Failure> {
        let source = files.directory.join(name);
        if !source.is_file() {
            return Ok(false);
        }
        let content = std::fs::read(&source)
            .map_err(|error| Failure::other(format_args!("{}: {error}", source.display())))?;
        write_atomic(&output.join(name), |writer| writer.write_all(&content)).map_err(TrainError::from)?;
        Ok(true)
    };
    let config = files.directory.join("config.json");
    if config.is_file() && dtype.is_some() {
        let mut config = ModelConfig::open(&config).map_err(TrainError::from)?;
        for key in ["torch_dtype", "dtype"] {
            if config.get(key).is_some() {
                config.set(key, "float32");
            }
        }
        config.save(&output.join("config.json")).map_err(TrainError::from)?;
        written.push("config.json".to_owned());
    } else if copy("config.json")? {
        written.push("config.json".to_owned());
    }
    for name in DOCUMENTS {
        if copy(name)? {
            written.push(name.to_owned());
        }
    }
    let copied = copy_side_files(&files.directory, output).map_err(TrainError::from)?;
    written.extend(copied.iter().map(|name| name.display().to_string()));
    Ok(written)
}

/// What reading the result back has shown.
struct Certificate {
    tensors: usize,
    values: usize,
    bytes: u64,
    /// Tensors that share their values with another and are written once, under its name.
    tied: Vec<String>,
    different: Vec<String>,
}

impl Certificate {
    fn new(output: &Path, tensors: &[Stored<'_>]) -> Result<Self, Failure> {
        let read = Weights::open(output).map_err(TrainError::from)?;
        let mut certificate =
            Self { tensors: tensors.len(), values: 0, bytes: 0, tied: Vec::new(), different: Vec::new() };
        for tensor in tensors {
            certificate.values += tensor.shape.iter().product::<usize>();
            certificate.bytes += tensor.named().data.size() as u64;
            // safetensors holds tied weights once; its metadata says under which name.
            let kept_as = match read.info(tensor.name) {
                Some(_) => tensor.name,
                None => read.metadata().get(tensor.name).map_or(tensor.name, String::as_str),
            };
            if kept_as != tensor.name {
                certificate.tied.push(format!("{} as {kept_as}", tensor.name));
            }
            if !tensor.equals(&read, kept_as) {
                certificate.different.push(tensor.name.to_owned());
            }
        }
        Ok(certificate)
    }

    fn holds(&self) -> bool {
        self.different.is_empty()
    }
}

fn report(
    arguments: &Convert,
    files: &ModelFiles,
    written: &[String],
    certificate: &Certificate,
) -> Result<(), Failure> {
    let source = files.weights.display().to_string();
    let output = arguments.output.display().to_string();
    if arguments.json {
        let format = match arguments.format {
            OutputFormat::Safetensors => "safetensors",
            OutputFormat::Pytorch => "pytorch",
        };
        print_line(json!({
            "source": source,
            "output": output,
            "format": format,
            "files": written,
            "certificate": {
                "transformation": format!("converted to {format}"),
                "tensors": certificate.tensors,
                "values": certificate.values,
                "bytes": certificate.bytes,
                "tied": certificate.tied,
                "bit_equal": certificate.holds(),
                "different": certificate.different,
            },
        }));
        return Ok(());
    }
    let mut lines = vec![
        ("from", format!("{source} ({})", files.origin)),
        ("to", output),
        ("files", written.join(", ")),
        (
            "tensors",
            format!(
                "{}, {}, {}",
                counted(certificate.tensors, "tensor"),
                counted(certificate.values, "value"),
                bytes(certificate.bytes)
            ),
        ),
    ];
    if !certificate.tied.is_empty() {
        lines.push((
            "tied",
            format!("{} written once: {}", count(certificate.tied.len()), first_names(&certificate.tied, 3)),
        ));
    }
    if certificate.holds() {
        let proof = "read back, every tensor has the same name, shape and bits";
        lines.push(("certificate", proof.to_owned()));
    }
    print_line(format::fields(&lines));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_the_usual_units() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size(" 1.5 mb "), Ok(1_500_000));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        for wrong in ["", "GB", "0", "-1GB", "five", "1e99GB", "NaN", "€"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_with_content_is_refused_and_a_new_one_is_not() {
        let folder = std::env::temp_dir().join(format!("retune-convert-{}", std::process::id()));
        assert!(require_empty(&folder).is_ok());
        std::fs::create_dir_all(&folder).unwrap();
        assert!(require_empty(&folder).is_ok());
        std::fs::write(folder.join("x"), "").unwrap();
        assert_eq!(require_empty(&folder).unwrap_err().code, 2);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
